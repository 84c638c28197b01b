//! What a worker is told at its start.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use holdfast_files::Workspace;
use holdfast_protocol::id::{KindName, WorkspaceName};
use holdfast_protocol::subject::Root;
use holdfast_protocol::{Limits, WorkerName};

use crate::document::DocumentKind;
use crate::machine::Kind;
use crate::meters::{Meters, WorkerMeters};

/// What to do about another process of the worker's name that is alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRule {
    /// Do not start.
    Respect,
    /// Take the name; the other one notices, and ends.
    Replace,
}

/// Settings of one worker.
#[derive(Clone)]
pub struct WorkerConfig {
    /// Its name, unique in the fleet.
    pub name: WorkerName,
    /// What to do when it is taken.
    pub name_rule: NameRule,
    /// Subject root.
    pub root: Root,
    /// Limits of requests.
    pub limits: Limits,
    /// Workspaces that it mounts.
    pub workspaces: BTreeMap<WorkspaceName, Workspace>,
    /// Kinds of session that it hosts, by name.
    pub kinds: BTreeMap<KindName, Arc<dyn Kind>>,
    /// How many requests may wait for one session.
    pub mailbox: usize,
    /// How many bytes of requests may wait for one session.
    pub session_bytes: usize,
    /// How many bytes of requests may wait for all sessions together.
    pub worker_bytes: usize,
    /// How many sessions are handed over at once in a drain.
    pub drain_parallel: usize,
    /// How long an agent keeps trying to reach the storage before it answers `unavailable`.
    pub recover_timeout: Duration,
    /// What is counted.
    pub meters: Meters,
    /// How often the worker looks at its workspaces for its health; `None`: never.
    pub self_check: Option<Duration>,
    /// How long a session may take for one turn of work, or a workspace for one look, before the worker is not healthy.
    pub patience: Duration,
}

impl WorkerConfig {
    /// The usual settings, with the built-in kind `document`.
    pub fn new(name: WorkerName) -> Self {
        let document: Arc<dyn Kind> = Arc::new(DocumentKind);
        let meters = WorkerMeters::default().of(&name);
        Self {
            name,
            name_rule: NameRule::Respect,
            root: Root::default(),
            limits: Limits::default(),
            workspaces: BTreeMap::new(),
            kinds: BTreeMap::from([(KindName::default(), document)]),
            mailbox: 256,
            session_bytes: 4 * 1024 * 1024,
            worker_bytes: 64 * 1024 * 1024,
            drain_parallel: 16,
            recover_timeout: Duration::from_secs(5),
            meters,
            self_check: None,
            patience: Duration::from_secs(60),
        }
    }
}
