//! Finds or starts the agent of a session, and survives whatever happens to one.
//!
//! Invariant: at most one agent per session in this process. An agent that panics takes nobody else down; its session is
//! built again from its log at the next request.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_channel::mpsc;
use futures_util::{FutureExt, StreamExt};
use holdfast_protocol::error::Reason;
use holdfast_protocol::{Error, Namespace, RequestId, Revision, SessionKey};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::agent::{self, Activity, Core, End, Legacy, Mailbox, Start};
use crate::letter::{Answer, Call, Letter, ReplyTo};

/// A session that is in memory.
struct Handle {
    /// Tells this agent from a later one of the same session.
    serial: u64,
    mailbox: mpsc::Sender<Box<Letter>>,
    activity: Activity,
    /// Its task, to be dropped when it does not end in time.
    task: AbortHandle,
}

#[derive(Default)]
struct Agents {
    by_key: HashMap<SessionKey, Handle>,
    serial: u64,
    /// What agents left to the next ones of their sessions.
    left: HashMap<SessionKey, Legacy>,
    /// The highest fence that an agent of any session left: what is said of an empty log under an older one may not be true.
    left_fence: Revision,
}

/// All agents of a worker.
pub(crate) struct Supervisor {
    core: Arc<Core>,
    agents: Mutex<Agents>,
    tasks: TaskTracker,
}

impl Supervisor {
    pub(crate) fn new(core: Arc<Core>) -> Arc<Self> {
        Arc::new(Self { core, agents: Mutex::default(), tasks: TaskTracker::new() })
    }

    fn agents(&self) -> MutexGuard<'_, Agents> {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many sessions are in memory.
    pub(crate) fn len(&self) -> usize {
        self.agents().by_key.len()
    }

    /// Keys of all sessions in memory.
    pub(crate) fn keys(&self) -> Vec<SessionKey> {
        self.agents().by_key.keys().cloned().collect()
    }

    /// Keys of the sessions of `namespace` without activity for at least `idle_ms`.
    pub(crate) fn idle_keys(&self, namespace: &Namespace, idle_ms: u64) -> Vec<SessionKey> {
        let now_ms = self.core.now_ms();
        let is_idle = |handle: &Handle| now_ms.saturating_sub(handle.activity.load(Ordering::Relaxed)) >= idle_ms;
        let agents = self.agents();
        let found = agents.by_key.iter().filter(|(key, handle)| key.namespace == *namespace && is_idle(handle));
        found.map(|(key, _)| key.clone()).collect()
    }

    /// Has the session of `key` look at what is outside of its log, if it is in memory; `false`: it is too busy to be told.
    pub(crate) fn stir(&self, key: &SessionKey) -> bool {
        let mut agents = self.agents();
        let Some(handle) = agents.by_key.get_mut(key) else { return true };
        let request_id = RequestId::made(Uuid::now_v7());
        let (payload, revision, reply) = (Bytes::new(), Revision(0), ReplyTo::Nobody);
        let letter = Letter { call: Call::Look, payload, revision, request_id, reply };
        // One that is about to go is followed by one that looks by itself.
        !handle.mailbox.try_send(Box::new(letter)).is_err_and(|refused| refused.is_full())
    }

    /// Gives `letter` to the session's agent, which is started if need be. Answers at once what cannot be given.
    pub(crate) async fn deliver(self: &Arc<Self>, key: SessionKey, letter: Letter) {
        if let Err((letter, answer)) = self.try_deliver(key, Box::new(letter)) {
            letter.reply.send(answer).await;
        }
    }

    fn try_deliver(self: &Arc<Self>, key: SessionKey, letter: Box<Letter>) -> Result<(), (Box<Letter>, Answer)> {
        let mut agents = self.agents();
        let letter = match agents.by_key.get_mut(&key) {
            Some(handle) => match handle.mailbox.try_send(letter) {
                Ok(()) => return Ok(()),
                Err(refused) if refused.is_full() => {
                    let letter = refused.into_inner();
                    let answer = mailbox_full(&key, &letter);
                    return Err((letter, answer));
                }
                // It is about to go; the next one comes right behind it.
                Err(refused) => refused.into_inner(),
            },
            None => letter,
        };
        let start = match &letter.call {
            // Nobody is there to be told, or to be asked.
            Call::Hint(_) | Call::Lease | Call::Handover | Call::Passivate(_) | Call::Look => {
                return Err((letter, Answer::Moved));
            }
            Call::Activate(given) => {
                let mut given = given.clone();
                given.created &= given.hint.revision > agents.left_fence;
                Start::Given(given)
            }
            Call::Verb(_) => Start::OnDemand,
        };
        let legacy = agents.left.remove(&key).unwrap_or_default();
        agents.serial += 1;
        let serial = agents.serial;
        // Each sender has a place of its own beside the channel's, and there is one sender.
        let (mut mailbox, inbox) = mpsc::channel(self.core.config.mailbox.saturating_sub(1));
        let activity = Activity::default();
        activity.store(self.core.now_ms(), Ordering::Relaxed);
        if mailbox.try_send(letter).is_err() {
            unreachable!("a new mailbox has room");
        }
        let hosted = Hosted { key: key.clone(), serial, activity: activity.clone(), start, legacy, inbox };
        let task = self.tasks.spawn(host(self.clone(), Box::new(hosted))).abort_handle();
        agents.by_key.insert(key, Handle { serial, mailbox, activity, task });
        Ok(())
    }

    fn left(&self, key: &SessionKey, legacy: Legacy, end: &End) {
        let mut agents = self.agents();
        agents.left_fence = agents.left_fence.max(legacy.fence);
        if legacy.matters(end) {
            agents.left.insert(key.clone(), legacy);
        }
    }

    fn ended(&self, key: &SessionKey, serial: u64) {
        let mut agents = self.agents();
        if agents.by_key.get(key).is_some_and(|handle| handle.serial == serial) {
            agents.by_key.remove(key);
        }
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
    activity: Activity,
    start: Start,
    legacy: Legacy,
    inbox: Mailbox,
}

/// The task of one agent. Its parts are boxed, because the task of an idle agent is as large as the largest of them.
async fn host(supervisor: Arc<Supervisor>, mut hosted: Box<Hosted>) {
    let end = Box::pin(run(&supervisor, &mut hosted)).await;
    Box::pin(finish(supervisor, hosted, end)).await;
}

async fn run(supervisor: &Supervisor, hosted: &mut Hosted) -> End {
    let Hosted { key, activity, inbox, start, legacy, .. } = hosted;
    let (key, start) = (key.clone(), std::mem::replace(start, Start::OnDemand));
    let running = agent::run(supervisor.core.clone(), key, activity.clone(), inbox, start, legacy);
    AssertUnwindSafe(running).catch_unwind().await.unwrap_or(End::Panicked)
}

async fn finish(supervisor: Arc<Supervisor>, hosted: Box<Hosted>, end: End) {
    let Hosted { key, serial, mut inbox, mut legacy, .. } = *hosted;
    match &end {
        End::Moved | End::HandedOver => {}
        End::Failed(error) => {
            let path = error.details.get("path").map(tracing::field::display);
            tracing::warn!(session = %key, path, %error, "a session could not be taken up");
        }
        End::Panicked => {
            tracing::error!(session = %key, "a session's agent panicked; its session is built again from its log");
        }
    }
    let successor = legacy.letter.take();
    // Before the mailbox closes, because from then on the next agent may start.
    supervisor.left(&key, legacy, &end);
    inbox.close();
    supervisor.ended(&key, serial);
    if let Some(letter) = successor {
        supervisor.deliver(key, *letter).await;
    }
    while let Some(letter) = inbox.next().await {
        agent::answer_end(vec![*letter], &end).await;
    }
}

fn mailbox_full(key: &SessionKey, letter: &Letter) -> Answer {
    let message = format!("too many requests wait for session {}", key.id);
    let error = Error::new(Reason::MailboxFull, message).retry_after_ms(Some(50)).for_request(&letter.request_id);
    Answer::Refused(Box::new(error))
}
