//! What one agent lives in: the storage in memory, and workers that stand still and are killed.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use holdfast_files::{Mount, Workspace};
use holdfast_protocol::frame::Frame;
use holdfast_protocol::id::{Activation, Boot, KindName, WorkspaceName};
use holdfast_protocol::internal::{Activate, Hint};
use holdfast_protocol::record::{Event, EventType, Owner, State, Urgency};
use holdfast_protocol::token::Secret;
use holdfast_protocol::{Limits, Namespace, RequestId, Revision, SessionKey, SessionRecord, WorkerName};
use holdfast_store::chance::Dice;
use holdfast_store::memory::{Faults, Memory};
use holdfast_store::{Floor, Storage, StoreError, StoredFrame, WriteId};
use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

pub(crate) use super::reach::Process;
use super::reach::Reach;
use crate::config::WorkerConfig;
use crate::lease::LeaseHealth;
use crate::letter::{Answer, Call, Letter, ReplyTo};
use crate::machine::Kind;
use crate::pulse::Pulse;
use crate::session::Core;
use crate::supervisor::Supervisor;

/// One worker's process.
pub(crate) struct Node {
    pub(crate) name: WorkerName,
    pub(crate) boot: Boot,
    pub(crate) supervisor: Arc<Supervisor>,
    pub(crate) process: watch::Sender<Process>,
    pub(crate) floor: Floor,
    pub(crate) pulse: Arc<Pulse>,
    health: LeaseHealth,
}

impl Node {
    fn start(world: &World, name: WorkerName) -> Arc<Self> {
        let (memory, boot) = (&world.memory, Boot(world.fresh()));
        let mut config = WorkerConfig::new(name.clone());
        let kinds = world.opening.kinds.iter();
        config.kinds.extend(kinds.map(|(name, kind)| (KindName::parse(name).unwrap(), kind.clone())));
        config.mailbox = world.opening.mailbox;
        (config.session_bytes, config.worker_bytes) = world.opening.bytes;
        let mounts = world.opening.folder.iter().map(|folder| {
            let mount = Mount::open(&Workspace { dir: folder.clone(), writable: true }, None).unwrap();
            (WorkspaceName::parse("main").unwrap(), Arc::new(mount))
        });
        let mounts = mounts.collect();
        let (process, state) = watch::channel(Process::Runs);
        let epoch = Instant::now();
        let (floor, health, pulse) = (Floor::default(), LeaseHealth::new(epoch), Arc::new(Pulse::default()));
        let core = Core {
            store: Arc::new(Reach { memory: memory.clone(), process: state }),
            floor: floor.clone(),
            config,
            limits: Arc::new(Limits::default()),
            mounts,
            boot,
            health: health.clone(),
            epoch,
            pulse: pulse.clone(),
        };
        Arc::new(Self { name, boot, supervisor: Supervisor::new(Arc::new(core)), process, floor, pulse, health })
    }

    pub(crate) fn is(&self, process: Process) -> bool {
        *self.process.borrow() == process
    }

    /// Gives the session's agent a letter; `None`: no answer came.
    pub(crate) async fn ask(&self, key: &SessionKey, call: Call, ask: Asked) -> Option<Answer> {
        let (sender, answer) = oneshot::channel();
        let Asked { payload, revision, request_id, life } = ask;
        let letter = Letter { payload, revision, request_id, life, ..Letter::own(call, ReplyTo::Local(sender)) };
        if self.is(Process::Runs) {
            self.health.confirm(Instant::now());
        }
        self.supervisor.deliver(key.clone(), letter).await;
        tokio::time::timeout(Duration::from_secs(20), answer).await.ok()?.ok()
    }
}

/// The rest of a letter.
pub(crate) struct Asked {
    pub(crate) payload: Bytes,
    pub(crate) revision: Revision,
    pub(crate) request_id: RequestId,
    pub(crate) life: Option<u64>,
}

/// What a relay would have announced.
#[derive(Default)]
pub(crate) struct Announced {
    /// Sequence and index of events.
    pub(crate) events: Vec<(u64, u32)>,
    until: u64,
}

/// How a world begins.
pub(crate) struct Opening {
    pub(crate) seed: u64,
    pub(crate) faults: Faults,
    /// Of the session.
    pub(crate) kind: &'static str,
    pub(crate) config: Value,
    pub(crate) content: Option<Value>,
    /// The workspace `main` of the workers; the session is about the file `a.md` in it.
    pub(crate) folder: Option<PathBuf>,
    /// Whether its coordinator lives long enough to tell its worker.
    pub(crate) activated: bool,
    /// Of the workers, beside the built-in one.
    pub(crate) kinds: Vec<(String, Arc<dyn Kind>)>,
    pub(crate) mailbox: usize,
    /// How many bytes may wait for a session, and for a worker.
    pub(crate) bytes: (usize, usize),
}

impl Default for Opening {
    fn default() -> Self {
        Self {
            seed: 1,
            faults: Faults::default(),
            kind: "document",
            config: json!({ "idle_timeout_ms": 60_000 }),
            content: None,
            folder: None,
            activated: true,
            kinds: Vec::new(),
            mailbox: 256,
            bytes: (4 * 1024 * 1024, 64 * 1024 * 1024),
        }
    }
}

/// Everything there is.
pub(crate) struct World {
    pub(crate) memory: Arc<Memory>,
    pub(crate) opening: Opening,
    pub(crate) key: SessionKey,
    pub(crate) secret: Secret,
    pub(crate) nodes: Mutex<Vec<Arc<Node>>>,
    pub(crate) announced: Mutex<Announced>,
    dice: Mutex<Dice>,
    /// Everything that runs beside the test.
    pub(crate) tasks: TaskTracker,
    /// How the session was given to its first worker.
    pub(crate) first: Mutex<Option<(Arc<Node>, Activate)>>,
}

impl World {
    /// Two workers, and a session that was just created on one of them.
    pub(crate) async fn new(opening: Opening) -> Arc<Self> {
        let session = holdfast_protocol::SessionId::parse("s1").unwrap();
        let world = Arc::new(Self {
            memory: Arc::new(Memory::new(Faults::default())),
            key: SessionKey::new(Namespace::parse("default").unwrap(), session),
            secret: Secret::new([7; 32]),
            nodes: Mutex::default(),
            announced: Mutex::default(),
            dice: Mutex::new(Dice::new(opening.seed)),
            first: Mutex::default(),
            tasks: TaskTracker::new(),
            opening,
        });
        world.start_node("w1");
        world.start_node("w2");
        let node = world.node(0);
        let hint = world.create(&world.key, &node).await;
        let content = world.opening.content.clone().map(|content| serde_json::from_value(content).unwrap());
        let activate = Activate { hint, created: true, content, request_id: RequestId::parse("open").unwrap() };
        *world.first.lock().unwrap() = Some((node.clone(), activate.clone()));
        world.memory.set_faults(world.opening.faults);
        if world.opening.activated {
            let ask = world.plain_ask(activate.hint.revision);
            node.ask(&world.key, Call::Activate(Box::new(activate)), ask).await;
        }
        world
    }

    /// Creates a session on `node`, over whatever there was.
    pub(crate) async fn create(&self, key: &SessionKey, node: &Node) -> Hint {
        let before = self.memory.read(key).await.unwrap().map_or(Revision(0), |stored| stored.revision);
        let file = self.opening.folder.as_ref().map(|_| ("main", "a.md"));
        let record = json!({
            "workspace": file.map(|file| file.0), "path": file.map(|file| file.1), "v": 1, "namespace": key.namespace, "id": key.id, "kind": self.opening.kind, "state": "active",
            "owner": self.owner(node), "lock": null, "lock_revision": 0, "log_after": before,
            "config": self.opening.config, "event": {"type": "session.opened"},
        });
        let record = SessionRecord::from_json(record.to_string().as_bytes(), key).unwrap();
        let revision = self.memory.commit(key, before, record.to_json().into(), self.fresh_id()).await.unwrap();
        Hint { revision, record }
    }

    pub(crate) fn node(&self, number: usize) -> Arc<Node> {
        self.nodes.lock().unwrap()[number].clone()
    }

    pub(crate) fn fresh(&self) -> Uuid {
        let mut dice = self.dice.lock().unwrap();
        let (high, low) = (dice.roll(), dice.roll());
        Uuid::from_u64_pair(high, low)
    }

    pub(crate) fn fresh_id(&self) -> WriteId {
        self.fresh().to_string()
    }

    pub(crate) fn plain_ask(&self, revision: Revision) -> Asked {
        Asked { payload: Bytes::new(), revision, request_id: RequestId::made(self.fresh()), life: None }
    }

    pub(crate) fn start_node(&self, name: &str) {
        let node = Node::start(self, WorkerName::parse(name).unwrap());
        self.nodes.lock().unwrap().push(node);
    }

    fn owner(&self, node: &Node) -> Owner {
        let activation = Activation(self.fresh());
        Owner { worker: node.name.clone(), boot: node.boot, activation, since: String::new() }
    }

    /// The record from the leader; `Ok(None)`: it cannot be read as one.
    pub(crate) async fn read_record(&self) -> Result<Option<Hint>, StoreError> {
        let Some(stored) = self.memory.read(&self.key).await? else { return Ok(None) };
        let record = stored.value.and_then(|json| SessionRecord::from_json(&json, &self.key).ok());
        Ok(record.map(|record| Hint { revision: stored.revision, record }))
    }

    pub(crate) async fn write_record(&self, at: Revision, next: &SessionRecord) -> Result<Hint, StoreError> {
        let record = next.clone().marked(at, u64::MAX, Urgency::Ordinary).expect("everything is announced");
        let revision = self.memory.commit(&self.key, at, record.to_json().into(), self.fresh_id()).await?;
        Ok(Hint { revision, record })
    }

    /// Gives the session to `node`, with one compare-and-set.
    pub(crate) async fn give_to(&self, hint: &Hint, node: &Node, kind: EventType) -> Result<Hint, StoreError> {
        let event = Event {
            kind,
            actor: None,
            actor_proven: None,
            reason: None,
            previous_owner: None,
            previous_worker: None,
            request_id: Some(RequestId::made(self.fresh())),
            unheard: false,
            hand_over: None,
        };
        let owner = Some(self.owner(node));
        let next = SessionRecord { state: State::Active, owner, event: Some(event), ..hint.record.clone() };
        self.write_record(hint.revision, &next).await
    }

    /// Tells `node` that the session is its own, as a coordinator does after its compare-and-set.
    pub(crate) async fn activate(&self, node: &Node, hint: Hint) -> Option<Answer> {
        let ask = self.plain_ask(hint.revision);
        let activate = Activate { hint, created: false, content: None, request_id: ask.request_id.clone() };
        node.ask(&self.key, Call::Activate(Box::new(activate)), ask).await
    }

    /// Everything that stood still goes on.
    pub(crate) fn heal(&self) {
        for node in self.nodes.lock().unwrap().iter() {
            node.process.send_if_modified(|process| {
                let stalls = *process == Process::Stalls;
                if stalls {
                    *process = Process::Runs;
                }
                stalls
            });
        }
    }

    /// The record as it is this very moment, which no request can know.
    pub(crate) async fn peek(&self) -> Option<SessionRecord> {
        let history = self.memory.history(&self.key, Revision(0)).await.unwrap();
        let json = history.into_iter().next_back()?.value?;
        SessionRecord::from_json(&json, &self.key).ok()
    }

    /// Writes the record as a KV client does.
    pub(crate) fn write_by_hand(&self, record: &SessionRecord) {
        self.memory.edit_by_hand(&self.key, Some(record.to_json().into()));
    }
}

/// Announces all that is in the log and was not announced.
pub(crate) async fn announce(world: &World) {
    let mut announced = world.announced.lock().unwrap();
    let before = announced.until;
    for StoredFrame { value, sequence } in world.memory.log_now(&world.key) {
        if sequence > before {
            let frame = Frame::from_json(&value, &world.key).unwrap();
            let carried = frame.snapshot.iter().flat_map(|snapshot| &snapshot.carried);
            announced.events.extend(carried.map(|carried| (carried.sequence, carried.index)));
            let own = frame.ops.iter().filter(|op| op.event.is_some()).zip(0..);
            announced.events.extend(own.map(|(_, index)| (sequence, index)));
        }
    }
    announced.until = world.memory.last_sequence();
    for node in world.nodes.lock().unwrap().iter() {
        node.floor.advance(announced.until);
    }
}
