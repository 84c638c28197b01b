//! The filter `idle_ms` of a list: only the workers know when somebody last asked for something.
//!
//! Invariant: a worker that does not tell hides nothing. Its sessions stay in the list, without `idle_ms`.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use holdfast_protocol::internal::{AskIdle, IdleTimes, control};
use holdfast_protocol::reply::Session;
use holdfast_protocol::{Namespace, Process, SessionId};

use crate::config::TELL_TIMEOUT;
use crate::context::Context;
use crate::control::ask_process;

/// Those of `sessions` that have been idle for `idle_ms`, and those of which nobody told.
pub(super) async fn at_least(
    context: &Context,
    namespace: &Namespace,
    mut sessions: Vec<Session>,
    idle_ms: u64,
) -> Vec<Session> {
    let mut by_process: BTreeMap<Process, Vec<SessionId>> = BTreeMap::new();
    for session in &sessions {
        if let Some(owner) = &session.owner {
            by_process.entry(owner.process()).or_default().push(session.id.clone());
        }
    }
    let asked = by_process.into_iter().map(|(process, ids)| async move {
        let ask = AskIdle { namespace: namespace.clone(), ids };
        let told = ask_process::<IdleTimes>(context, &process, control::IDLE, &ask, TELL_TIMEOUT).await;
        ask.ids.into_iter().zip(told.map(|told| told.idle_ms).unwrap_or_default()).collect::<Vec<_>>()
    });
    let told: BTreeMap<SessionId, Option<u64>> = join_all(asked).await.into_iter().flatten().collect();
    sessions.retain_mut(|session| {
        session.idle_ms = told.get(&session.id).copied().flatten();
        session.idle_ms.is_none_or(|idle| idle >= idle_ms)
    });
    sessions
}
