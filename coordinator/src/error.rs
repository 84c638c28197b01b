//! Why a coordinator cannot start, and which error a client gets for a failure of another layer.

use std::time::Duration;

use holdfast_protocol::{Error, Limits, Reason, SessionKey};
use holdfast_records::NotDone;
use holdfast_store::wire::WireError;
use holdfast_store::{StoreError, chance};

/// Why a coordinator cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The connection is closed, or may not subscribe.
    #[error("cannot subscribe to {subject}: {source}")]
    Subscribe {
        /// The subject.
        subject: String,
        /// Why.
        source: WireError,
    },
}

/// When to ask again while storage is not available.
const STORAGE_RETRY: Duration = Duration::from_millis(500);
/// When to ask again while no worker is live.
const WORKER_RETRY: Duration = Duration::from_millis(1_000);
/// When to ask again after `busy`.
const BUSY_RETRY: Duration = Duration::from_millis(250);

fn after(error: Error, pause: Duration) -> Error {
    // At random, so that clients that failed together do not retry together.
    let pause = pause.mul_f64(chance::share(0.75..1.5));
    error.retry_after_ms(u64::try_from(pause.as_millis()).ok())
}

/// The error that a client gets for a failure of the store. *Moved* does not come here: its caller decides again.
pub(crate) fn of_store(error: &StoreError, key: &SessionKey) -> Error {
    let error = error.to_error().detail("session_id", key.id.as_str());
    match error.retry_after_ms {
        Some(pause_ms) => after(error, Duration::from_millis(pause_ms)),
        None => error,
    }
}

/// The error that a client gets when a record was not changed. *Moved* comes here only for a change that was pinned to
/// one revision: another writer is changing the session.
pub(crate) fn of_not_done(not_done: NotDone<Error>, key: &SessionKey) -> Error {
    match not_done {
        NotDone::Refused(refusal, _) => *refusal,
        NotDone::Moved => contended(key),
        NotDone::Stopped(error) => error,
    }
}

pub(crate) fn storage_unavailable(why: &str) -> Error {
    after(Error::new(Reason::StorageUnavailable, why), STORAGE_RETRY)
}

pub(crate) fn unknown_outcome(key: &SessionKey) -> Error {
    let message = format!(
        "the change of session {} was not answered in time and may or may not have taken effect; ask again with the \
         same request_id",
        key.id
    );
    after(Error::new(Reason::AckTimeout, message).detail("session_id", key.id.as_str()), BUSY_RETRY)
}

pub(crate) fn no_live_worker(why: &str) -> Error {
    after(Error::new(Reason::NoLiveWorker, why), WORKER_RETRY)
}

pub(crate) fn busy(reason: Reason, why: impl Into<String>) -> Error {
    after(Error::new(reason, why), BUSY_RETRY)
}

/// The session changed too often for this request to commit before its deadline.
pub(crate) fn contended(key: &SessionKey) -> Error {
    let message = format!("session {} changes too often to answer in time; ask again", key.id);
    busy(Reason::Draining, message).detail("session_id", key.id.as_str())
}

pub(crate) fn bug(what: &str) -> Error {
    Error::new(Reason::Bug, what)
}

/// A request of `bytes` is larger than the limit.
pub(crate) fn over_limit(bytes: usize, limits: &Limits) -> Error {
    let limit = limits.request_bytes;
    let message = format!("the request has {bytes} bytes, and at most {limit} are allowed");
    Error::new(Reason::RequestTooLarge, message).detail("bytes", bytes).detail("limit", limit)
}

/// A request that is within the limits, but above the server's `max_payload` with the headers that were added.
pub(crate) fn too_large() -> Error {
    Error::new(Reason::RequestTooLarge, "the request with Holdfast's own headers is over the server's max_payload")
}
