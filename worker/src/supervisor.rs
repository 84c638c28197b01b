//! Finds or starts the agent of a session, and survives whatever happens to one.
//!
//! Invariant: at most one agent per session in this process. An agent that panics takes nobody else down; its session
//! is built again from its log at the next request.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use holdfast_protocol::error::Reason;
use holdfast_protocol::{Error, Limits, Namespace, Revision, SessionId, SessionKey};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::letter::{Answer, Call, Letter, ReplyTo};
use crate::mailbox::{Bounds, Mailbox, NotTaken, Sender, mailbox};
use crate::meters::{Counted, Stage};
use crate::session::{self, Core, Course, Departure, End, Start};
use crate::status::Status;

/// A session that is in memory.
struct Handle {
    /// Tells this agent from a later one of the same session.
    serial: u64,
    mailbox: Sender,
    /// Its task, to be dropped when it does not end in time.
    task: AbortHandle,
}

#[derive(Default)]
struct Agents {
    by_key: HashMap<SessionKey, Handle>,
    serial: u64,
    departed: Departed,
}

/// What the agents knew that have ended, of all sessions together: three numbers, however many sessions come and go.
///
/// They are the greatest of all sessions, which is safe, because each only makes a later agent more careful: it reads a
/// log that it might have taken for empty, waits until its replica has come a little further, or moves its fence once
/// more. A session that comes back under a record of its own has a greater revision than they are, and pays nothing.
#[derive(Clone, Copy, Default)]
pub(crate) struct Departed {
    /// The fence of an agent: what is said of an empty log under an older one may not be true.
    pub(crate) fence: Revision,
    /// A fence under which a frame may have landed, or may land yet.
    pub(crate) unknown: Revision,
    /// The last accepted frame.
    pub(crate) frame: u64,
}

impl Departed {
    fn add(&mut self, other: Self) {
        self.fence = self.fence.max(other.fence);
        self.unknown = self.unknown.max(other.unknown);
        self.frame = self.frame.max(other.frame);
    }
}

/// All agents of a worker.
pub(crate) struct Supervisor {
    core: Arc<Core>,
    bounds: Bounds,
    agents: Mutex<Agents>,
    tasks: TaskTracker,
    /// How many letters came so far.
    letters: AtomicU64,
}

impl Supervisor {
    pub(crate) fn new(core: Arc<Core>) -> Arc<Self> {
        let config = &core.config;
        let bounds = Bounds::new(config.mailbox, config.session_bytes, config.worker_bytes);
        let letters = AtomicU64::new(0);
        Arc::new(Self { core, bounds, agents: Mutex::default(), tasks: TaskTracker::new(), letters })
    }

    fn agents(&self) -> MutexGuard<'_, Agents> {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.core.limits
    }

    /// How many sessions are in memory.
    pub(crate) fn len(&self) -> usize {
        self.agents().by_key.len()
    }

    /// How many letters came so far, those of this worker itself included.
    pub(crate) fn letters(&self) -> u64 {
        self.letters.load(Ordering::Relaxed)
    }

    /// Bytes of all letters that are not answered.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.bounds.held_bytes()
    }

    /// Keys of all sessions in memory.
    pub(crate) fn keys(&self) -> Vec<SessionKey> {
        sorted(self.agents().by_key.keys().cloned().collect())
    }

    /// Keys of the sessions of `namespace` without activity for at least `idle_ms`.
    pub(crate) fn idle_keys(&self, namespace: &Namespace, idle_ms: u64) -> Vec<SessionKey> {
        let now_ms = self.core.now_ms();
        let is_idle = |handle: &Handle| now_ms.saturating_sub(handle.mailbox.status.activity_ms()) >= idle_ms;
        let agents = self.agents();
        let found = agents.by_key.iter().filter(|(key, handle)| key.namespace == *namespace && is_idle(handle));
        sorted(found.map(|(key, _)| key.clone()).collect())
    }

    /// The sessions that have been at one turn for more than `patience`.
    pub(crate) fn stuck(&self, patience: Duration) -> Vec<SessionKey> {
        let (now_ms, patience_ms) = (self.core.now_ms(), patience.as_millis());
        let is_stuck = |handle: &Handle| u128::from(handle.mailbox.status.busy_ms(now_ms)) > patience_ms;
        let agents = self.agents();
        sorted(agents.by_key.iter().filter(|(_, handle)| is_stuck(handle)).map(|(key, _)| key.clone()).collect())
    }

    /// How long each session has been without activity, milliseconds; `None` for one that is not in memory.
    pub(crate) fn idle_times(&self, namespace: &Namespace, ids: &[SessionId]) -> Vec<Option<u64>> {
        let now_ms = self.core.now_ms();
        let agents = self.agents();
        let idle = |id: &SessionId| {
            let handle = agents.by_key.get(&SessionKey::new(namespace.clone(), id.clone()))?;
            Some(now_ms.saturating_sub(handle.mailbox.status.activity_ms()))
        };
        ids.iter().map(idle).collect()
    }

    /// Has the session of `key` look at what is outside of its log, if it is in memory; `false`: it is too busy to be
    /// told.
    pub(crate) fn stir(&self, key: &SessionKey) -> bool {
        let mut agents = self.agents();
        let Some(handle) = agents.by_key.get_mut(key) else { return true };
        let letter = Box::new(Letter::own(Call::Look, ReplyTo::Nobody));
        // One that is about to go is followed by one that looks by itself.
        !matches!(handle.mailbox.post(letter, &self.bounds, self.limits()), Err(NotTaken::Full(_)))
    }

    /// Gives `letter` to the session's agent, which is started if need be. Answers at once what cannot be given.
    pub(crate) async fn deliver(self: &Arc<Self>, key: SessionKey, letter: Letter) {
        self.letters.fetch_add(1, Ordering::Relaxed);
        if let Err((letter, answer)) = self.try_deliver(key, Box::new(letter)) {
            letter.reply.send(answer).await;
        }
    }

    fn try_deliver(self: &Arc<Self>, key: SessionKey, mut letter: Box<Letter>) -> Result<(), (Box<Letter>, Answer)> {
        let mut agents = self.agents();
        let letter = match agents.by_key.get_mut(&key) {
            Some(handle) if matches!(letter.call, Call::Lease) => {
                let lease = handle.mailbox.status.lease(letter.revision, self.core.now_ms());
                self.tell(handle, letter.revision);
                return Err((letter, session::done(&lease)));
            }
            Some(handle) => {
                if let Call::Inspect(waiting) = &mut letter.call {
                    *waiting = handle.mailbox.status.waiting() as u64;
                }
                let news = match &letter.call {
                    Call::Hint(hint) => Some(hint.revision),
                    _ => None,
                };
                match (handle.mailbox.post(letter, &self.bounds, self.limits()), news) {
                    (Ok(()), _) => return Ok(()),
                    (Err(NotTaken::Gone(letter)), _) => letter,
                    (Err(NotTaken::Full(letter)), None) => return Err(full(&key, letter)),
                    // A hint is only a hint: what it says stands in the record.
                    (Err(NotTaken::Full(letter)), Some(revision)) => {
                        self.tell(handle, revision);
                        return Err((letter, Answer::Done("{}".into())));
                    }
                }
            }
            None => letter,
        };
        let start = match &letter.call {
            // Nobody is there to be told, or to be asked.
            Call::Hint(_)
            | Call::Lease
            | Call::Inspect(_)
            | Call::CatchUp
            | Call::Handover
            | Call::Passivate(_)
            | Call::Look => {
                return Err((letter, Answer::Moved));
            }
            Call::Activate(given) => {
                let mut given = given.clone();
                given.created &= given.hint.revision > agents.departed.fence;
                Start::Given(given)
            }
            Call::Verb(_) => Start::OnDemand,
        };
        let status = Status::new(self.core.now_ms());
        let (mut sender, mailbox) = mailbox(&self.bounds, status.clone());
        if let Err(NotTaken::Full(letter) | NotTaken::Gone(letter)) = sender.post(letter, &self.bounds, self.limits()) {
            return Err(full(&key, letter));
        }
        agents.serial += 1;
        let (serial, departed) = (agents.serial, agents.departed);
        let counted = self.core.config.meters.activated(start.activation());
        let departure = Departure { departed, forward: None };
        let hosted = Hosted { key: key.clone(), serial, status, start, departure, mailbox, counted };
        let task = self.tasks.spawn(host(self.clone(), Box::new(hosted))).abort_handle();
        agents.by_key.insert(key, Handle { serial, mailbox: sender, task });
        Ok(())
    }

    /// Tells an agent that the record is at `revision`, if it has not heard of that. At most one such letter waits.
    fn tell(&self, handle: &mut Handle, revision: Revision) {
        let status = handle.mailbox.status.clone();
        if !status.is_behind(revision) || !status.begin_catching_up() {
            return;
        }
        let letter = Letter { revision, ..Letter::own(Call::CatchUp, ReplyTo::Nobody) };
        if handle.mailbox.post(Box::new(letter), &self.bounds, self.limits()).is_err() {
            status.end_catching_up();
        }
    }

    fn departed(&self, departed: Departed) {
        self.agents().departed.add(departed);
    }

    fn ended(&self, key: &SessionKey, serial: u64) {
        let mut agents = self.agents();
        if agents.by_key.get(key).is_some_and(|handle| handle.serial == serial) {
            agents.by_key.remove(key);
        }
    }

    /// Drops all agents where they are.
    pub(crate) fn abandon(&self) {
        self.agents().by_key.drain().for_each(|(_, handle)| handle.task.abort());
    }

    /// Lets go of all agents and waits for them; those that are still at work at `until` are dropped where they are.
    /// Their records stay as they are.
    pub(crate) async fn stop(&self, until: Instant) {
        let tasks: Vec<AbortHandle> = self.agents().by_key.drain().map(|(_, handle)| handle.task).collect();
        self.tasks.close();
        if tokio::time::timeout_at(until, self.tasks.wait()).await.is_err() {
            tracing::warn!(sessions = self.tasks.len(), "sessions are dropped in the middle of their work");
            tasks.iter().for_each(AbortHandle::abort);
        }
    }
}

/// What a task needs to be one session's agent.
struct Hosted {
    key: SessionKey,
    serial: u64,
    status: Arc<Status>,
    start: Start,
    departure: Departure,
    mailbox: Mailbox,
    counted: Counted,
}

/// The task of one agent. Its parts are boxed, because the task of an idle agent is as large as the largest of them.
async fn host(supervisor: Arc<Supervisor>, mut hosted: Box<Hosted>) {
    let end = Box::pin(run(&supervisor, &mut hosted)).await;
    Box::pin(finish(supervisor, hosted, end)).await;
}

async fn run(supervisor: &Supervisor, hosted: &mut Hosted) -> End {
    let Hosted { key, status, mailbox, start, departure, counted, .. } = hosted;
    let (key, start) = (key.clone(), std::mem::replace(start, Start::OnDemand));
    let course = Course { departure, counted };
    let running = session::run(supervisor.core.clone(), key, status.clone(), mailbox, start, course);
    AssertUnwindSafe(running).catch_unwind().await.unwrap_or(End::Panicked)
}

async fn finish(supervisor: Arc<Supervisor>, hosted: Box<Hosted>, end: End) {
    let Hosted { key, serial, mut mailbox, departure, mut counted, .. } = *hosted;
    counted.enter(Stage::Ending);
    supervisor.core.config.meters.ended(&end);
    match &end {
        End::Moved | End::Closed(_) | End::HandedOver => {}
        End::Failed(error) => {
            let path = error.details.get("path").map(tracing::field::display);
            tracing::warn!(session = %key, path, %error, "a session could not be taken up");
        }
        End::Panicked => {
            tracing::error!(session = %key, "a session's agent panicked; its session is built again from its log");
        }
    }
    // Before the mailbox closes, because from then on the next agent may start.
    supervisor.departed(departure.departed);
    mailbox.close();
    supervisor.ended(&key, serial);
    if let Some(letter) = departure.forward {
        supervisor.deliver(key.clone(), *letter).await;
    }
    while let Some(letter) = mailbox.next().await {
        session::answer_end(&key, vec![*letter], &end).await;
    }
}

/// So that what is done to many sessions is done in the same order each time.
fn sorted(mut keys: Vec<SessionKey>) -> Vec<SessionKey> {
    keys.sort_unstable();
    keys
}

fn full(key: &SessionKey, letter: Box<Letter>) -> (Box<Letter>, Answer) {
    let message = format!("too many requests wait for session {}", key.id);
    let error = Error::new(Reason::MailboxFull, message).retry_after_ms(Some(50)).for_request(&letter.request_id);
    (letter, Answer::Refused(Box::new(error)))
}
