//! What idle sessions cost: `cargo test --release -p holdfast-worker --lib idle_memory -- --ignored --nocapture`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use holdfast_protocol::id::{Activation, Boot, Namespace};
use holdfast_protocol::internal::WorkerLease;
use holdfast_protocol::record::{Owner, State};
use holdfast_protocol::{Limits, SessionId, SessionKey, WorkerName};
use holdfast_store::{Floor, LeaseSlot, Page, Rollup, Storage, StoreError, Stored, StoredFrame, Walk, WriteId};
use tokio::sync::oneshot;
use tokio::time::Instant;
use uuid::Uuid;

use super::*;
use crate::config::WorkerConfig;
use crate::lease::LeaseHealth;
use crate::letter::{Letter, ReplyTo};
use crate::session::{Agent, Core};
use crate::supervisor::Supervisor;

const SESSIONS: u64 = 100_000;
const BYTES_MAX: u64 = 4096;

/// A storage that takes everything and keeps nothing.
#[derive(Default)]
struct Nothing(AtomicU64);

#[async_trait]
impl Storage for Nothing {
    fn stream(&self) -> &str {
        "KV_sessions"
    }

    async fn read(&self, _: &SessionKey) -> Result<Option<Stored>, StoreError> {
        Ok(None)
    }

    async fn commit(&self, _: &SessionKey, _: Revision, _: Bytes, _: WriteId) -> Result<Revision, StoreError> {
        Ok(Revision(self.0.fetch_add(1, Ordering::Relaxed)))
    }

    async fn append(&self, _: &SessionKey, _: Revision, _: Bytes, _: Rollup, _: WriteId) -> Result<u64, StoreError> {
        Ok(self.0.fetch_add(1, Ordering::Relaxed))
    }

    async fn log_end(&self, _: &SessionKey, _: u64) -> Result<u64, StoreError> {
        Ok(0)
    }

    async fn read_log(&self, _: &SessionKey, _: u64, _: u64) -> Result<Vec<StoredFrame>, StoreError> {
        Ok(Vec::new())
    }

    async fn history(&self, _: &SessionKey, _: Revision) -> Result<Vec<Stored>, StoreError> {
        Ok(Vec::new())
    }

    async fn page(&self, _: &Walk<'_>) -> Result<Page, StoreError> {
        unreachable!("agents do not ask for it")
    }

    async fn last(&self) -> Result<u64, StoreError> {
        unreachable!("agents do not ask for it")
    }

    async fn delete(&self, _: &SessionKey, _: Revision, _: WriteId) -> Result<Revision, StoreError> {
        unreachable!("agents do not ask for it")
    }

    async fn purge(&self, _: &SessionKey, _: Revision) -> Result<(), StoreError> {
        unreachable!("agents do not ask for it")
    }

    async fn clock(&self) -> Result<jiff::Timestamp, StoreError> {
        unreachable!("agents do not ask for it")
    }

    async fn lease(&self, _: &WorkerName) -> Result<LeaseSlot, StoreError> {
        Ok(LeaseSlot::default())
    }

    async fn put_lease(&self, _: &WorkerLease, _: Revision) -> Result<Revision, StoreError> {
        Ok(Revision(1))
    }

    async fn drop_lease(&self, _: &WorkerName, _: Revision) -> Result<(), StoreError> {
        Ok(())
    }

    async fn leases(&self) -> Result<Vec<(Revision, WorkerLease)>, StoreError> {
        Ok(Vec::new())
    }

    async fn answered(&self, _: &str) -> Result<Option<Bytes>, StoreError> {
        Ok(None)
    }

    async fn remember_answer(&self, _: &str, _: Bytes) -> Result<(), StoreError> {
        Ok(())
    }
}

/// Resident bytes of this process.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("this machine has /proc");
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("it has its second number");
    pages * 4096
}

fn record_of(id: u64, config: &WorkerConfig, boot: Boot) -> SessionRecord {
    let record = json!({
        "v": 1, "namespace": "default", "id": format!("session-{id:08}"), "kind": "document", "state": "passive",
        "owner": null, "lock": null, "lock_revision": 0, "created_at": "2026-11-22T12:00:00Z",
        "config": { "idle_timeout_ms": 1_800_000 }, "event": { "type": "session.opened", "request_id": "r" },
    });
    let key = SessionKey::new(Namespace::parse("default").unwrap(), session(id));
    let record = SessionRecord::from_json(record.to_string().as_bytes(), &key).unwrap();
    let (worker, activation) = (config.name.clone(), Activation(Uuid::now_v7()));
    let owner = Owner { worker, boot, activation, since: "2026-11-22T12:00:00Z".to_owned() };
    SessionRecord { state: State::Active, owner: Some(owner), ..record }
}

fn session(id: u64) -> SessionId {
    SessionId::parse(&format!("session-{id:08}")).unwrap()
}

async fn send(supervisor: &Arc<Supervisor>, key: SessionKey, call: Call, body: &Value) {
    let (sender, answer) = oneshot::channel();
    let letter = Letter { payload: body.to_string().into(), ..Letter::own(call, ReplyTo::Local(sender)) };
    supervisor.deliver(key, letter).await;
    assert!(matches!(answer.await, Ok(Answer::Done(_))));
}

#[tokio::test]
#[ignore = "a measurement, for a release build on a quiet machine"]
async fn idle_memory_of_a_hundred_thousand_sessions() {
    let config = WorkerConfig::new(WorkerName::parse("w1").unwrap());
    let (epoch, boot) = (Instant::now(), Boot(Uuid::now_v7()));
    let core = Core {
        store: Arc::new(Nothing::default()),
        floor: Floor::default(),
        limits: Arc::new(Limits::default()),
        mounts: BTreeMap::new(),
        health: LeaseHealth::new(epoch),
        config,
        epoch,
        pulse: Default::default(),
        boot,
    };
    let core = Arc::new(core);
    core.floor.advance(u64::MAX);
    let supervisor = Supervisor::new(core.clone());
    eprintln!("an agent has {} bytes, a letter {}", size_of::<Agent>(), size_of::<Letter>());
    let key = |id| SessionKey::new(Namespace::parse("default").unwrap(), session(id));
    let before = resident();
    for id in 0..SESSIONS {
        let record = record_of(id, &core.config, boot);
        let hint = Hint { revision: Revision(id + 1), record };
        let activate = Activate { hint, created: true, content: None, request_id: RequestId::made(Uuid::now_v7()) };
        send(&supervisor, key(id), Call::Activate(Box::new(activate)), &json!({})).await;
    }
    let opened = (resident() - before) / SESSIONS;
    for id in 0..SESSIONS {
        send(&supervisor, key(id), Call::Verb(Verb::DocEdit), &json!({ "body": "a few words of text" })).await;
    }
    let edited = (resident() - before) / SESSIONS;
    assert_eq!(supervisor.len() as u64, SESSIONS);
    eprintln!("{SESSIONS} idle sessions: {opened} bytes each when opened, {edited} after an edit");
    assert!(opened <= BYTES_MAX && edited <= BYTES_MAX);
}
