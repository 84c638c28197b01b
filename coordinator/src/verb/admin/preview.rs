//! `admin.preview`: what a takeover, an unlock or a move of a session would hit. Changes nothing.
//!
//! It is a verb of its own, and not a member of `admin.takeover`: a coordinator of an earlier version refuses it, and
//! would not have known the member that keeps a takeover from being made.
//!
//! Invariant: the record tells who holds the lock. What only others know (unsaved changes, waiters) is asked for a
//! bounded time, and is `null` or left out where nobody told.

use holdfast_protocol::internal::Inspection;
use holdfast_protocol::record::{EventType, Lock, Owner, State};
use holdfast_protocol::reply::{AgentPresence, AgentPreview, Preview, Session};
use holdfast_protocol::request::Empty;
use holdfast_protocol::{Error, Revision, SessionKey, SessionRecord, WorkerName};
use holdfast_records::Known;
use holdfast_store::Stored;
use tokio::time::timeout_at;

use crate::context::Context;
use crate::explain;
use crate::fleet::placement::Needs;
use crate::lines;
use crate::link::{self, Inspected};
use crate::operation::{Incoming, Operation};
use crate::response::Response;

/// Shows what would be hit.
pub(crate) async fn preview(context: &Context, key: &SessionKey, incoming: &Incoming) -> Result<Response, Error> {
    let (_, operation) = incoming.parse::<Empty>(&context.config.limits)?;
    let known = context.records.read_record(key, operation.deadline).await?;
    if known.record.state == State::Closed {
        return Err(Error::no_session(key));
    }
    let (agent, lines, (by, expires_in_ms), move_to) = tokio::join!(
        agent(context, key, known.record.owner.as_ref()),
        lines::ask(context, key),
        of_lock(context, key, &known, &operation),
        move_to(context, key, &known, &operation),
    );
    Response::of(&Preview {
        session: Session::of(&known.record, known.revision),
        lock_actor: by.actor,
        lock_actor_proven: by.actor_proven,
        held_for_ms: known.record.lock.as_ref().and_then(explain::held_for_ms),
        expires_in_ms,
        agent,
        waiting: lines.iter().map(|line| line.waiting).sum(),
        coordinators: lines.len() as u64,
        waiters: lines.into_iter().flat_map(|line| line.first).collect(),
        move_to,
    })
}

async fn agent(context: &Context, key: &SessionKey, owner: Option<&Owner>) -> Option<AgentPreview> {
    let owner = owner?;
    let (presence, told) = match link::inspect(context, owner, key).await {
        Inspected::Told(told) => (AgentPresence::Answers, Some(told)),
        Inspected::Absent => (AgentPresence::Absent, None),
        Inspected::Silent => (AgentPresence::Silent, None),
        Inspected::Gone => (AgentPresence::Gone, None),
    };
    let (unsaved_changes, requests_waiting) = told.as_ref().map(|told| (told.unsaved_changes, told.waiting)).unzip();
    let Inspection { unsaved_since, unsaved_by, .. } = told.unwrap_or_default();
    let worker = owner.worker.clone();
    Some(AgentPreview { worker, presence, unsaved_changes, unsaved_since, unsaved_by, requests_waiting })
}

/// Who asked for the lock, and how long it lives without renewal.
async fn of_lock(context: &Context, key: &SessionKey, known: &Known, operation: &Operation) -> (By, Option<u64>) {
    let Some(held) = &known.record.lock else { return (By::default(), None) };
    let expires_in_ms = explain::expires_in_ms(context, known, held).await;
    let history = timeout_at(operation.deadline, context.store.history(key, Revision(0))).await;
    let history = history.ok().and_then(Result::ok).unwrap_or_default();
    (lock_actor(key, held, &history), expires_in_ms)
}

/// Who asked for a lock.
#[derive(Debug, Default, PartialEq, Eq)]
struct By {
    actor: Option<String>,
    actor_proven: Option<String>,
}

/// The actor of the revision in `history`, oldest first, that granted `held`.
fn lock_actor(key: &SessionKey, held: &Lock, history: &[Stored]) -> By {
    let records = history.iter().filter_map(|stored| SessionRecord::from_json(stored.value.as_deref()?, key).ok());
    let grants = |record: &SessionRecord| record.lock.as_ref().is_some_and(|lock| lock.revision == held.revision);
    let event = records.into_iter().find(grants).and_then(|record| record.event);
    let is_grant = |kind| matches!(kind, EventType::LockAcquired | EventType::LockRotated | EventType::LockTakenOver);
    match event.filter(|event| is_grant(event.kind)) {
        Some(event) => By { actor: event.actor, actor_proven: event.actor_proven },
        None => By::default(),
    }
}

async fn move_to(context: &Context, key: &SessionKey, known: &Known, operation: &Operation) -> Option<WorkerName> {
    let now_at = known.record.owner.as_ref().map(|owner| &owner.worker);
    let picked = context.fleet.pick(key, Needs::of(&known.record), now_at, operation.deadline).await;
    picked.ok().map(|process| process.worker)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use holdfast_protocol::record::Event;
    use serde_json::json;

    use super::*;
    use crate::fixture::{active, key};

    fn stored(record: &SessionRecord, revision: u64) -> Stored {
        Stored {
            key: record.key(),
            revision: Revision(revision),
            value: Some(Bytes::from(record.to_json())),
            write_id: None,
            time: jiff::Timestamp::UNIX_EPOCH,
        }
    }

    fn record(lock_revision: u64, event: &str, actor: &str) -> SessionRecord {
        let lock =
            json!({"owner": "a", "revision": lock_revision, "acquired_at": "2026-11-22T12:00:00Z", "ttl_ms": null});
        let event = json!({"type": event, "actor": actor, "actor_proven": format!("APP/{actor}")});
        let event: Event = serde_json::from_value(event).unwrap();
        SessionRecord {
            lock: Some(serde_json::from_value(lock).unwrap()),
            lock_revision,
            event: Some(event),
            ..active("s1", "w1")
        }
    }

    #[test]
    fn the_actor_is_the_one_who_got_the_lock_and_not_who_changed_the_record_last() {
        let history = [
            stored(&record(1, "lock.acquired", "bob"), 5),
            stored(&record(3, "lock.acquired", "ann"), 7),
            stored(&record(3, "session.moved", "ops"), 8),
        ];
        let held = record(3, "session.moved", "ops").lock.unwrap();
        let ann = By { actor: Some("ann".to_owned()), actor_proven: Some("APP/ann".to_owned()) };
        assert_eq!(lock_actor(&key("s1"), &held, &history), ann);
        assert_eq!(lock_actor(&key("s1"), &held, &history[2..]), By::default(), "the grant is not kept any more");
    }
}
