//! `holdfast record unlock`: frees a lock by writing the record.

use holdfast_client::protocol::record::{Event, EventType, SessionRecord};
use holdfast_client::protocol::{Reason, SessionKey};
use jiff::Timestamp;

use super::{Why, of_session, parse, written};
use crate::archive::{Archive, failure};
use crate::confirm::Consent;
use crate::exit::Failure;
use crate::output::{Format, note, plain};
use crate::span::span;

/// Shows what the edit does, asks, and writes it.
pub(super) async fn run(archive: &Archive, key: &SessionKey, why: &Why, format: Format) -> Result<(), Failure> {
    let stored = archive.record(key).await?;
    let record = parse(&stored)?;
    let Some(next) = freed(&record, why) else {
        let message = format!("the lock of session {} is free already (revision {})", key.id, stored.revision);
        return Err(of_session(Reason::NotLocked, message, key));
    };
    note(&plain_lines(&effects(&record, Timestamp::now())));
    let question = format!("Free the lock of {key} at revision {}?", stored.revision);
    if !Consent::of(why.yes).obtain(&question).await? {
        return Err(Failure::Other(anyhow::anyhow!("nothing was changed")));
    }
    let write = archive.store.edit_by_hand(key, stored.revision, next.to_json().into());
    let revision = write.await.map_err(failure)?;
    let previous_owner = record.lock.as_ref().map(|lock| lock.owner.as_str());
    written(key, revision, &next, previous_owner, format)
}

/// The record without its lock; `None` when it has none.
fn freed(record: &SessionRecord, why: &Why) -> Option<SessionRecord> {
    let lock = record.lock.as_ref()?;
    let event = by_hand(why, Some(lock.owner.clone()));
    Some(SessionRecord { lock: None, lock_revision: record.lock_revision + 1, event: Some(event), ..record.clone() })
}

/// The event of a hand edit.
pub(crate) fn by_hand(why: &Why, previous_owner: Option<String>) -> Event {
    Event {
        kind: EventType::LockChanged,
        actor: why.actor.clone().filter(|actor| !actor.is_empty()),
        // Nobody proves it: this is written by whoever may write the bucket.
        actor_proven: None,
        reason: Some(why.reason.reason.clone()),
        previous_owner,
        previous_worker: None,
        request_id: None,
        unheard: false,
        hand_over: None,
    }
}

/// What freeing the lock of `record` means, for the person who is asked.
fn effects(record: &SessionRecord, now: Timestamp) -> Vec<String> {
    let Some(lock) = &record.lock else { return Vec::new() };
    let age = lock.acquired_at.parse::<Timestamp>().ok().map(|since| now.duration_since(since));
    let age = age.and_then(|age| age.try_into().ok()).map_or(String::new(), |age| format!(" ({} ago)", span(age)));
    let lease = lock.ttl_ms.map_or("until it is released".to_owned(), |ttl| format!("{ttl} ms without renewal"));
    let agent = record.owner.as_ref().map_or("no worker has the session".to_owned(), |owner| {
        format!("worker {} has the session and keeps it; its agent learns of this with the next request", owner.worker)
    });
    vec![
        format!("holder    {}, lock revision {}, since {}{age}, {lease}", lock.owner, lock.revision, lock.acquired_at),
        format!(
            "fenced    the token of {}: from now on every change with it is refused (stale_token, not_locked)",
            lock.owner
        ),
        "kept      all changes that were acknowledged; they are in the log".to_owned(),
        format!(
            "unknown   whether {} is in the middle of something; whether the file has the last changes",
            lock.owner
        ),
        format!("agent     {agent}"),
    ]
}

fn plain_lines(lines: &[String]) -> String {
    lines.iter().map(|line| plain(line)).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::admin;
    use crate::record::hidden::Hidden;

    fn record(lock: serde_json::Value) -> SessionRecord {
        let record = json!({"v": 1, "namespace": "default", "id": "s1", "kind": "document", "state": "passive",
            "owner": null, "lock": lock, "lock_revision": 4, "mark": {"at": 3, "changes": 2},
            "config": {"idle_timeout_ms": 1000}, "created_at": "2026-11-22T12:00:00Z"});
        serde_json::from_value(record).unwrap()
    }

    fn held() -> SessionRecord {
        record(json!({"owner": "ann", "revision": 4, "token_hash": "abc", "request_id": "r-1", "fence": 7,
            "acquired_at": "2026-11-22T12:00:00Z", "ttl_ms": 30_000}))
    }

    fn why() -> Why {
        Why { reason: admin::Reason { reason: "ann hangs".into() }, actor: Some("oncall".into()), yes: true }
    }

    #[test]
    fn an_unlock_takes_the_lock_away_and_changes_nothing_else() {
        let (held, freed) = (held(), freed(&held(), &why()).unwrap());
        assert_eq!((freed.lock.clone(), freed.lock_revision), (None, 5));
        let event = freed.event.clone().unwrap();
        assert_eq!((event.kind, event.request_id), (EventType::LockChanged, None));
        assert_eq!((event.actor.as_deref(), event.reason.as_deref()), (Some("oncall"), Some("ann hangs")));
        assert_eq!(event.previous_owner.as_deref(), Some("ann"));
        let back = SessionRecord { lock: held.lock.clone(), lock_revision: 4, event: None, ..freed };
        assert_eq!(back, held, "the mark too");
        assert!(super::freed(&record(json!(null)), &why()).is_none());
    }

    #[test]
    fn a_person_is_told_who_loses_what() {
        let now = "2026-11-22T12:10:00Z".parse().unwrap();
        let told = effects(&held(), now).join("\n");
        assert!(told.contains("ann, lock revision 4, since 2026-11-22T12:00:00Z (10 min ago), 30000 ms"), "{told}");
        assert!(told.contains("the token of ann") && told.contains("no worker has the session"), "{told}");
        assert!(!told.contains("abc") && !told.contains("r-1"), "{told}");
    }

    #[test]
    fn secrets_are_not_shown_and_come_back_where_they_were_left() {
        let hidden = Hidden::of(&held());
        let text = hidden.text();
        assert!(!text.contains("abc") && !text.contains("r-1") && text.contains("\"(hidden)\""), "{text}");
        let shown = hidden.json().as_object().unwrap().clone();
        let restored = hidden.restore(shown).unwrap();
        assert_eq!(serde_json::from_value::<SessionRecord>(restored.into()).unwrap(), held());
        let free = Hidden::of(&record(json!(null)));
        let forged =
            json!({"lock": {"owner": "bob", "revision": 4, "token_hash": "(hidden)"}}).as_object().unwrap().clone();
        assert!(free.restore(forged).unwrap_err().contains("lock.token_hash"));
    }
}
