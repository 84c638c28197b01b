//! Emptying a worker: each session goes to another worker, or out of memory where there is none.
//!
//! Invariant: no session is dropped: one that cannot go yet stays and is tried again until the worker is told to end.

use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use futures_util::{StreamExt, stream};
use holdfast_protocol::reply::WorkerState;
use holdfast_protocol::requester::{self, REQUEST_INFO_HEADER};
use holdfast_protocol::subject::{Root, Verb};
use holdfast_protocol::{SessionKey, WorkerName};
use holdfast_store::wire::Request;
use holdfast_store::{SharedWire, Storage};
use tokio::sync::oneshot;

use crate::letter::{Answer, Call, Letter, Passivation, ReplyTo, Who};
use crate::supervisor::Supervisor;

/// How long a coordinator may take to move one session.
const MOVE_TIMEOUT: Duration = Duration::from_secs(10);

/// What a drain needs.
pub(crate) struct Drain {
    pub(crate) wire: SharedWire,
    pub(crate) root: Root,
    pub(crate) name: WorkerName,
    /// Who asked for it; nobody: the worker ends.
    pub(crate) who: Who,
    pub(crate) supervisor: Arc<Supervisor>,
    pub(crate) parallel: usize,
}

impl Drain {
    /// Hands sessions over until none is left or `goes_on` says no.
    pub(crate) async fn run(&self, store: &dyn Storage, reason: &str, goes_on: impl Fn() -> bool) {
        let mut pause = Duration::from_millis(20);
        while goes_on() {
            let keys = self.supervisor.keys();
            if keys.is_empty() {
                return;
            }
            let elsewhere = self.somebody_else_is_ready(store).await;
            let moves = stream::iter(keys).map(|key| self.send_away(key, reason, elsewhere));
            let left = moves.buffer_unordered(self.parallel).filter(|gone| std::future::ready(!gone)).count().await;
            if left > 0 {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(1));
            }
        }
    }

    async fn somebody_else_is_ready(&self, store: &dyn Storage) -> bool {
        let leases = store.leases().await.unwrap_or_default();
        leases.iter().any(|(_, lease)| lease.worker != self.name && lease.state == WorkerState::Ready)
    }

    /// Whether the session is gone.
    async fn send_away(&self, key: SessionKey, reason: &str, elsewhere: bool) -> bool {
        (elsewhere && self.move_away(&key, reason).await) || self.passivate(key, reason).await
    }

    /// Asks a coordinator, since who owns a session is theirs to decide.
    async fn move_away(&self, key: &SessionKey, reason: &str) -> bool {
        let actor = self.who.actor.clone().unwrap_or_else(|| format!("worker {}", self.name));
        let body = serde_json::json!({ "reason": reason, "actor": actor });
        let subject = self.root.session_request(Verb::AdminMove, key);
        let payload = body.to_string().into();
        let request = Request { subject: subject.into(), headers: self.request_info(), payload, timeout: MOVE_TIMEOUT };
        match self.wire.request(request).await {
            Ok(reply) => {
                let refused = reply
                    .headers
                    .is_some_and(|headers| headers.get(async_nats::service::NATS_SERVICE_ERROR_CODE).is_some());
                !refused
            }
            Err(error) => {
                tracing::debug!(session = %key, %error, "no coordinator moved the session");
                false
            }
        }
    }

    /// The header that nats-server would have added if whoever asked for the drain had asked for each move.
    fn request_info(&self) -> Option<HeaderMap> {
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST_INFO_HEADER, requester::header_of(self.who.actor_proven.as_deref()?)?);
        Some(headers)
    }

    async fn passivate(&self, key: SessionKey, reason: &str) -> bool {
        let why = Passivation::Leaving { reason: reason.to_owned(), who: self.who.clone() };
        matches!(ask(&self.supervisor, key, why).await, Some(Answer::Done(_) | Answer::Moved))
    }
}

/// Asks an agent of this worker to leave memory. `Done`: it left for `why`; `Moved`: the session was not here any more.
pub(crate) async fn ask(supervisor: &Arc<Supervisor>, key: SessionKey, why: Passivation) -> Option<Answer> {
    let (sender, receiver) = oneshot::channel();
    supervisor.deliver(key, Letter::own(Call::Passivate(why), ReplyTo::Local(sender))).await;
    receiver.await.ok()
}
