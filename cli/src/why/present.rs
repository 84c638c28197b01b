//! What a session is now, and who may change it.

use std::time::Duration;

use holdfast_client::protocol::record::{LockMode, SessionRecord, State};
use holdfast_store::Stored;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::span::span;
use crate::words::word;

/// Whether the worker that owns the session has a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Liveness {
    /// It has one.
    Lease,
    /// It has none, or another process of that name has it: it is gone, or about to be given up.
    None,
    /// Nobody owns the session, or the leases were not read.
    Unknown,
}

/// The present state.
pub(super) struct Present {
    /// For people, a fact a line.
    pub(super) lines: Vec<String>,
    /// For programs.
    pub(super) json: Value,
}

/// The present of the session whose last revision is `stored`.
pub(super) fn present(stored: Option<&Stored>, liveness: Liveness, now: Timestamp) -> Present {
    let nothing = |state: &str, why: String| Present {
        lines: vec![format!("now        {why}"), "may write  nobody".to_owned()],
        json: json!({"state": state, "revision": stored.map(|stored| stored.revision), "may_write": "nobody", "why": why}),
    };
    let Some(stored) = stored else {
        return nothing("removed", "the session was closed, and its record is removed".to_owned());
    };
    let Some(json) = &stored.value else {
        return nothing("removed", format!("the record was deleted with revision {}", stored.revision));
    };
    match SessionRecord::from_json(json, &stored.key) {
        Err(error) => nothing("invalid", format!("revision {}: {}", stored.revision, error.message)),
        Ok(record) if record.state == State::Closed => {
            nothing("closed", format!("revision {}: the session is closed", stored.revision))
        }
        Ok(record) => of_record(&record, stored, liveness, now),
    }
}

fn of_record(record: &SessionRecord, stored: &Stored, liveness: Liveness, now: Timestamp) -> Present {
    let owner = record.owner.as_ref().map(|owner| {
        let lives = match liveness {
            Liveness::Lease => ", which has a lease",
            Liveness::None => ", which has no lease: the next request for the document moves the session",
            Liveness::Unknown => "",
        };
        format!(" on worker {} since {}{lives}", owner.worker, owner.since)
    });
    let state = match record.state {
        State::Passive => "passive: the next request brings it back".to_owned(),
        _ => format!("active{}", owner.unwrap_or_default()),
    };
    let lock = record.lock.as_ref().map_or(format!("free, lock revision {}", record.lock_revision), |lock| {
        let age = lock.acquired_at.parse::<Timestamp>().ok().map(|since| now.duration_since(since));
        let age = age.and_then(|age| age.try_into().ok()).map(|age| format!(" ({} ago)", span(age)));
        let lease = lock.ttl_ms.map_or(", until it is released".to_owned(), |ttl_ms| {
            format!(", expires after {} without renewal", span(Duration::from_millis(ttl_ms)))
        });
        let (since, age) = (&lock.acquired_at, age.unwrap_or_default());
        format!("held by {} since {since}{age}, lock revision {}{lease}", lock.owner, lock.revision)
    });
    let (who, may) = writers(record);
    Present {
        lines: vec![
            format!("now        revision {}: {state}", stored.revision),
            format!("lock       {lock}"),
            format!("may write  {may}"),
        ],
        json: json!({"state": word(record.state), "revision": stored.revision,
            "worker": record.owner.as_ref().map(|owner| &owner.worker),
            "worker_has_lease": match liveness { Liveness::Lease => Some(true), Liveness::None => Some(false), Liveness::Unknown => None },
            "lock_owner": record.lock.as_ref().map(|lock| &lock.owner), "lock_revision": record.lock_revision,
            "may_write": who, "why": may}),
    }
}

/// Who may change the document: a word for programs, and a sentence.
fn writers(record: &SessionRecord) -> (&'static str, String) {
    match (&record.lock, record.config.lock) {
        (Some(lock), _) if lock.token_hash.is_empty() => {
            let why = format!("nobody: the lock of {} was written by hand and has no token", lock.owner);
            ("nobody", format!("{why}; take it over or free it"))
        }
        (Some(lock), _) => {
            let whose = format!("only whoever has the token of {}, lock revision {}", lock.owner, lock.revision);
            ("holder", whose)
        }
        (None, LockMode::Required) => ("next_holder", "nobody before they acquire the lock, which is free".to_owned()),
        (None, LockMode::Optional) => ("anybody", "everybody, since the lock is free and not required".to_owned()),
    }
}
