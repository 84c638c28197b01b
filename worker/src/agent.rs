//! One session's agent: its state, and the loop that takes letters, commits and answers.
//!
//! Invariant: at most one conditional write is in flight; whatever arrives meanwhile goes into the next frame (group
//! commit). The state in memory is ahead of the log only between building a frame and its acknowledgement; when that does
//! not come, the state is built again from the log before anything else is answered.

mod commit;
mod leave;
mod record;
mod recover;
mod save;
#[cfg(test)]
mod simulation;
mod step;
#[cfg(test)]
mod tests;

pub(crate) use step::answer_end;

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_channel::mpsc;
use futures_util::{FutureExt, StreamExt};
use holdfast_protocol::frame::{Op, SNAPSHOT_EVERY_BYTES};
use holdfast_protocol::id::{Activation, Boot, WorkspaceName};
use holdfast_protocol::internal::Activate;
use holdfast_protocol::{Error, Limits, Revision, SessionKey, SessionRecord};
use holdfast_store::{Floor, Store};
use tokio::time::Instant;

use crate::answered::Answered;
use crate::config::WorkerConfig;
use crate::lease::LeaseHealth;
use crate::letter::{Answer, Call, Letter};
use crate::log::LogPosition;
use crate::machine::{Machine, Surroundings};
use crate::workspace::Mount;
use recover::Barrier;

/// How many letters one frame may answer.
const BATCH_LETTERS: usize = 256;

/// What all agents of a worker share.
pub(crate) struct Core {
    pub(crate) store: Store,
    pub(crate) floor: Floor,
    pub(crate) config: WorkerConfig,
    pub(crate) limits: Arc<Limits>,
    /// The workspaces of `config`, open.
    pub(crate) mounts: BTreeMap<WorkspaceName, Arc<Mount>>,
    pub(crate) boot: Boot,
    pub(crate) health: LeaseHealth,
    /// What `activity` counts from.
    pub(crate) epoch: Instant,
}

impl Core {
    /// Milliseconds since this worker started.
    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn surroundings(&self, record: &SessionRecord) -> Surroundings {
        let workspace = record.workspace.as_ref().and_then(|name| self.mounts.get(name)).cloned();
        Surroundings { limits: self.limits.clone(), workspace }
    }
}

/// Letters for one session. Of the bounded channels, this one is the smallest while it is empty.
pub(crate) type Mailbox = mpsc::Receiver<Box<Letter>>;

/// What the supervisor and the agent share.
pub(crate) type Activity = Arc<AtomicU64>;

/// How an agent begins.
pub(crate) enum Start {
    /// A coordinator gave the session to this worker and says so.
    Given(Box<Activate>),
    /// A request came for a session that this worker should own.
    OnDemand,
}

/// Why an agent ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The session is somebody else's, or nobody's.
    Moved,
    /// Somebody is about to give the session to another worker; the record does not say so yet.
    HandedOver,
    /// The session cannot be served: its record or log is broken, or its file cannot be read.
    Failed(Box<Error>),
    /// The session's machine panicked; the next request builds the session again from its log.
    Panicked,
}

/// Whether to go on.
type Flow = Result<(), End>;

/// The countdown of a lock, on this agent's monotonic clock.
#[derive(Clone, Copy, Debug)]
struct LockClock {
    lock_revision: u64,
    ttl: Duration,
    deadline: Instant,
}

/// Why the state in memory cannot be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doubt {
    /// Ops were applied whose frame was not written.
    Ahead,
    /// A frame may have landed under this fence, or may land yet.
    UnknownFrame(Revision),
}

/// What an agent leaves to the next one of its session in this process, which may have the same fence.
#[derive(Default)]
pub(crate) struct Legacy {
    doubt: Option<Doubt>,
    barrier: Option<Box<Barrier>>,
    /// The fence of the one that left.
    pub(crate) fence: Revision,
    /// A letter that was meant for it already.
    pub(crate) letter: Option<Box<Letter>>,
}

/// A session in memory.
pub(crate) struct Agent {
    core: Arc<Core>,
    key: SessionKey,
    activity: Activity,
    record: SessionRecord,
    revision: Revision,
    activation: Activation,
    machine: Box<dyn Machine>,
    answered: Answered,
    /// Number of the last op.
    ops: u64,
    /// Frames up to this sequence are of an earlier session, as far as only the log knows.
    opened: u64,
    log: LogPosition,
    lock_clock: Option<LockClock>,
    doubt: Option<Doubt>,
    barrier: Option<Box<Barrier>>,
    /// A letter for the next agent.
    successor: Option<Box<Letter>>,
    /// After a failed attempt to leave: not again before.
    stay_until: Option<Instant>,
    /// Something outside of the log should be looked at.
    look_due: bool,
    /// What the log is still to be told of a save that was answered.
    owed: Option<Box<Op>>,
}

/// Runs the session of `key` until it ends. Letters that are left in `mailbox` then are the caller's to answer; `legacy` is
/// what an earlier agent left, and what this one leaves.
pub(crate) async fn run(
    core: Arc<Core>,
    key: SessionKey,
    activity: Activity,
    mailbox: &mut Mailbox,
    start: Start,
    legacy: &mut Legacy,
) -> End {
    let mut agent = match Box::pin(make(core, key, activity, &start)).await {
        Ok(agent) => agent,
        Err(end) => return end,
    };
    (agent.doubt, agent.barrier) = (legacy.doubt.take(), legacy.barrier.take());
    let end = agent.live(mailbox, start).await;
    *legacy = Legacy { doubt: agent.doubt, barrier: agent.barrier, fence: agent.revision, letter: agent.successor };
    end
}

async fn make(core: Arc<Core>, key: SessionKey, activity: Activity, start: &Start) -> Result<Box<Agent>, End> {
    let hint = start.hint(&core, &key).await?;
    Agent::new(core, key, activity, hint)
}

/// A part of an agent's work. Boxed, because a task is as large as its largest await, and a hundred thousand idle ones are in
/// memory.
type Work<'a> = Pin<Box<dyn Future<Output = Flow> + Send + 'a>>;

async fn guarded(work: Work<'_>) -> Flow {
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or(Err(End::Panicked))
}

impl Legacy {
    /// Whether an agent that ended so has anything to leave.
    pub(crate) fn matters(&self, end: &End) -> bool {
        matches!(end, End::Failed(_) | End::Panicked) || matches!(self.doubt, Some(Doubt::UnknownFrame(_)))
    }
}

impl Agent {
    async fn live(&mut self, mailbox: &mut Mailbox, start: Start) -> End {
        if let Err(end) = guarded(Box::pin(self.take_up(start))).await {
            return end;
        }
        loop {
            let wake = self.wake_at();
            let letter = tokio::select! {
                biased;
                letter = mailbox.next() => letter,
                () = tokio::time::sleep_until(wake) => {
                    if let Err(end) = guarded(Box::pin(self.tick())).await { return end }
                    continue;
                }
            };
            // The supervisor lets go of the mailbox only when the worker ends.
            let Some(letter) = letter else { return End::Moved };
            // What waits has its chance to renew a lock first, but a mailbox that is never empty must not keep it alive.
            let was_due = self.lock_is_due();
            if let Err(end) = guarded(Box::pin(self.turn(letter, mailbox))).await {
                return end;
            }
            if was_due
                && self.lock_is_due()
                && let Err(end) = guarded(Box::pin(self.tick())).await
            {
                return end;
            }
        }
    }

    fn lock_is_due(&self) -> bool {
        self.lock_clock.is_some_and(|clock| clock.deadline <= Instant::now())
    }

    /// Takes `first` and what else waits, commits it together, answers it.
    async fn turn(&mut self, first: Box<Letter>, mailbox: &mut Mailbox) -> Flow {
        let mut letters = Vec::new();
        let mut bytes = weight(&first);
        let mut last = None;
        let mut next = Some(first);
        while let Some(letter) = next {
            if letter.call.stands_alone() {
                last = Some(letter);
                break;
            }
            letters.push(*letter);
            let full = letters.len() >= BATCH_LETTERS || bytes >= SNAPSHOT_EVERY_BYTES;
            next = if full { None } else { mailbox.try_recv().ok() };
            bytes += next.as_deref().map_or(0, weight);
        }
        if let Err(end) = self.serve(letters).await {
            answer_end(last.into_iter().map(|letter| *letter).collect(), &end).await;
            return Err(end);
        }
        if let Some(letter) = last {
            self.stand_alone(*letter).await?;
        }
        if self.look_due { self.look().await } else { Ok(()) }
    }

    fn touch(&self) {
        self.activity.store(self.core.now_ms(), Ordering::Relaxed);
    }

    fn idle_deadline(&self) -> Instant {
        let since = self.core.epoch + Duration::from_millis(self.activity.load(Ordering::Relaxed));
        // A clock that cannot count that far means that it never is idle.
        let idle = since.checked_add(Duration::from_millis(self.record.config.idle_timeout_ms));
        let idle = idle.unwrap_or_else(|| since + Duration::from_secs(3600 * 24 * 30));
        self.stay_until.map_or(idle, |stay| idle.max(stay))
    }

    fn wake_at(&self) -> Instant {
        match self.lock_clock {
            // A lease runs, so somebody is at work: the session does not leave before the lock is gone.
            Some(clock) => clock.deadline,
            None => self.idle_deadline(),
        }
    }

    /// A lease ran out, or the session was idle for long.
    async fn tick(&mut self) -> Flow {
        let now = Instant::now();
        match self.lock_clock {
            Some(clock) if clock.deadline <= now => self.expire_lock(clock).await,
            None if self.idle_deadline() <= now => self.leave_idle().await,
            _ => Ok(()),
        }
    }
}

impl Call {
    /// Whether it ends the batch before it, because it may begin or end the session, or touch what no storage fences.
    fn stands_alone(&self) -> bool {
        use holdfast_protocol::subject::Verb;
        matches!(
            self,
            Self::Activate(_)
                | Self::Handover
                | Self::Look
                | Self::Passivate(_)
                | Self::Verb(Verb::SessionClose | Verb::DocSave)
        )
    }
}

/// Answers everything in `letters` alike.
/// How much a letter may add to a frame, as far as that can be told before it is decided: a load has its whole file there.
fn weight(letter: &Letter) -> u64 {
    match letter.call {
        Call::Verb(holdfast_protocol::subject::Verb::DocLoad) => SNAPSHOT_EVERY_BYTES,
        _ => letter.payload.len() as u64,
    }
}

async fn answer_all(letters: Vec<Letter>, answer: impl Fn(&Letter) -> Answer) {
    for letter in letters {
        let answer = answer(&letter);
        letter.reply.send(answer).await;
    }
}
