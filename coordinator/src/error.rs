//! Why a coordinator does not start, and how faults of other layers are told to clients.

use std::time::Duration;

use holdfast_protocol::{Error, Limits, Reason, SessionKey};
use holdfast_records::NotDone;
use holdfast_store::wire::WireError;
use holdfast_store::{StoreError, chance};

/// Why a coordinator does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The connection takes no subscriptions: it is closed, or not allowed to.
    #[error("cannot subscribe to {subject}: {source}")]
    Subscribe {
        /// The subject.
        subject: String,
        /// Why.
        source: WireError,
    },
}

/// When to ask again while storage is away.
const STORAGE_RETRY: Duration = Duration::from_millis(500);
/// When to ask again while no worker is there.
const WORKER_RETRY: Duration = Duration::from_millis(1_000);
/// When to ask again where too much is under way.
const BUSY_RETRY: Duration = Duration::from_millis(250);

fn after(error: Error, pause: Duration) -> Error {
    // Spread, so that clients that failed together do not come back together.
    let pause = pause.mul_f64(chance::share(0.75..1.5));
    error.retry_after_ms(u64::try_from(pause.as_millis()).ok())
}

/// What a client is told of a fault of the store. *Moved* is not one: whoever gets it decides again.
pub(crate) fn of_store(error: &StoreError, key: &SessionKey) -> Error {
    let error = error.to_error().detail("session_id", key.id.as_str());
    match error.retry_after_ms {
        Some(pause_ms) => after(error, Duration::from_millis(pause_ms)),
        None => error,
    }
}

/// Why a record was not changed. Where its revision was given and has moved, somebody else is at work on the session.
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
        "the change of session {} was sent and not answered in time; it may or may not be there, ask again with the same \
         request_id",
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

/// Too much happened to the session meanwhile for this request to get through.
pub(crate) fn contended(key: &SessionKey) -> Error {
    busy(Reason::Draining, format!("session {} is on the move", key.id)).detail("session_id", key.id.as_str())
}

pub(crate) fn bug(what: &str) -> Error {
    Error::new(Reason::Bug, what)
}

/// A request of so many bytes.
pub(crate) fn over_limit(bytes: usize, limits: &Limits) -> Error {
    let limit = limits.request_bytes;
    let message = format!("the request has {bytes} bytes, and at most {limit} are allowed");
    Error::new(Reason::RequestTooLarge, message).detail("bytes", bytes).detail("limit", limit)
}

/// A request that is within the limits, and over the server's with what was added to it on its way.
pub(crate) fn too_large() -> Error {
    Error::new(Reason::RequestTooLarge, "the request is over the server's max_payload with what is added to it inside")
}
