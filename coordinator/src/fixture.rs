//! Records for tests.

use holdfast_protocol::record::{LockMode, Mark, OnIdle, Owner, RECORD_VERSION, SessionConfig, SessionRecord, State};
use holdfast_protocol::{Activation, Boot, Namespace, SessionId, SessionKey, WorkerName};
use uuid::Uuid;

pub(crate) fn key(id: &str) -> SessionKey {
    SessionKey::new(Namespace::parse("default").unwrap(), SessionId::parse(id).unwrap())
}

pub(crate) fn owner(worker: &str) -> Owner {
    Owner {
        worker: WorkerName::parse(worker).unwrap(),
        boot: Boot(Uuid::nil()),
        activation: Activation(Uuid::nil()),
        since: "2026-11-22T12:00:00Z".to_owned(),
    }
}

pub(crate) fn passive(id: &str) -> SessionRecord {
    SessionRecord {
        v: RECORD_VERSION,
        namespace: Namespace::parse("default").unwrap(),
        id: SessionId::parse(id).unwrap(),
        kind: "document".to_owned(),
        workspace: None,
        path: None,
        state: State::Passive,
        owner: None,
        lock: None,
        lock_revision: 0,
        config: SessionConfig { idle_timeout_ms: 1_800_000, on_idle: OnIdle::Passivate, lock: LockMode::Optional },
        created_at: "2026-11-22T12:00:00Z".to_owned(),
        secret: 0,
        log_after: 0,
        mark: Mark::default(),
        event: None,
    }
}

pub(crate) fn active(id: &str, worker: &str) -> SessionRecord {
    SessionRecord { state: State::Active, owner: Some(owner(worker)), ..passive(id) }
}

pub(crate) fn closed(id: &str) -> SessionRecord {
    SessionRecord { state: State::Closed, ..passive(id) }
}
