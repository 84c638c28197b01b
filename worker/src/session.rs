//! One session's agent: its state, and the loop that takes letters, commits and answers.
//!
//! Invariant: at most one conditional write is in flight; whatever arrives meanwhile goes into the next frame (group
//! commit). The state in memory is ahead of the log only between building a frame and its acknowledgement; when that
//! does not come, the state is built again from the log before anything else is answered.

mod close;
mod commit;
mod decide;
pub mod doc;
mod effect;
mod end;
mod passivate;
mod record;
mod recover;
mod renew;
mod stop;
#[cfg(test)]
mod tests;
mod touch;
mod writing;

pub(crate) use decide::done;
pub(crate) use end::{End, answer_end};

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use holdfast_files::Mount;
use holdfast_protocol::frame::{Op, SNAPSHOT_EVERY_BYTES};
use holdfast_protocol::id::{Activation, Boot, WorkspaceName};
use holdfast_protocol::internal::Activate;
use holdfast_protocol::{Limits, Revision, SessionKey, SessionRecord};
use holdfast_store::mutant::{self, Mutant};
use holdfast_store::trace::{self, Traces};
use holdfast_store::{Floor, Store};
use tokio::time::Instant;
use tracing::{Instrument, Span};

use crate::answered::Answered;
use crate::config::WorkerConfig;
use crate::lease::LeaseHealth;
use crate::letter::{Answer, Call, Letter};
use crate::log::LogPosition;
use crate::machine::{Machine, Surroundings};
use crate::mailbox::Mailbox;
use crate::meters::{Counted, Stage};
use crate::pulse::Pulse;
use crate::status::Status;
use crate::supervisor::Departed;

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
    /// What times in a session's [`Status`] count from.
    pub(crate) epoch: Instant,
    pub(crate) pulse: Arc<Pulse>,
}

impl Core {
    /// Milliseconds since this worker started.
    pub(crate) fn now_ms(&self) -> u64 {
        self.ms_at(Instant::now())
    }

    /// Milliseconds from this worker's start to `at`.
    pub(crate) fn ms_at(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.epoch).as_millis()).unwrap_or(u64::MAX)
    }

    fn surroundings(&self, record: &SessionRecord) -> Surroundings {
        let workspace = record.workspace.as_ref().and_then(|name| self.mounts.get(name)).cloned();
        Surroundings { limits: self.limits.clone(), workspace }
    }
}

/// How an agent begins.
pub(crate) enum Start {
    /// A coordinator gave the session to this worker and says so.
    Given(Box<Activate>),
    /// A request came for a session that this worker should own.
    OnDemand,
}

/// Whether to go on.
type Flow = Result<(), End>;

/// The countdown of a lock, on this agent's monotonic clock.
#[derive(Clone, Copy, Debug)]
struct LockClock {
    lock_revision: u64,
    ttl: Duration,
    deadline: Instant,
    /// The process stood still at the deadline, and gives itself this time to read what came meanwhile.
    is_extended: bool,
}

/// Why the state in memory cannot be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doubt {
    /// Ops were applied whose frame was not written.
    Ahead,
    /// A frame may have landed under this fence, or may land yet.
    UnknownFrame(Revision),
}

/// What its supervisor follows of an agent.
pub(crate) struct Course<'a> {
    /// What earlier agents left, and then what this one leaves.
    pub(crate) departure: &'a mut Departure,
    /// Its stage.
    pub(crate) counted: &'a mut Counted,
}

/// What is left when an agent has ended.
pub(crate) struct Departure {
    /// What later agents must know. At first, what earlier ones left.
    pub(crate) departed: Departed,
    /// A letter that was meant for the session's next agent.
    pub(crate) forward: Option<Box<Letter>>,
}

/// A session in memory.
pub(crate) struct Agent {
    core: Arc<Core>,
    key: SessionKey,
    status: Arc<Status>,
    record: SessionRecord,
    /// Why the lock is free, if its last holder did not free it.
    released_because: Option<String>,
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
    /// When this agent was last proven to own the session, counted from when that was asked; milliseconds as in
    /// [`Status`].
    proven_ms: Option<NonZeroU64>,
    /// A letter for the next agent.
    forward: Option<Box<Letter>>,
    /// After a failed attempt to leave: not again before.
    stay_until: Option<Instant>,
    /// Something outside of the log should be looked at.
    look_due: bool,
    /// The outcome of a save that was answered, and is not in the log yet.
    unlogged: Option<Box<Op>>,
}

/// Runs the session of `key` until it ends. Letters that are left in `mailbox` then are the caller's to answer.
pub(crate) async fn run(
    core: Arc<Core>,
    key: SessionKey,
    status: Arc<Status>,
    mailbox: &mut Mailbox,
    start: Start,
    Course { departure, counted }: Course<'_>,
) -> End {
    let mut agent = match Box::pin(make(core, key, status, &start)).await {
        Ok(agent) => agent,
        Err(end) => return end,
    };
    agent.heed(departure.departed);
    let end = agent.live(mailbox, start, counted).await;
    *departure = agent.departure();
    agent.closed_or(end)
}

async fn make(core: Arc<Core>, key: SessionKey, status: Arc<Status>, start: &Start) -> Result<Box<Agent>, End> {
    let hint = start.hint(&core, &key).await?;
    Agent::new(core, key, status, hint)
}

/// A part of an agent's work. Boxed, because a task is as large as its largest await, and a hundred thousand idle ones
/// are in memory.
type Work<'a> = Pin<Box<dyn Future<Output = Flow> + Send + 'a>>;

async fn guarded(work: Work<'_>) -> Flow {
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or(Err(End::Panicked))
}

impl Agent {
    /// Goes by what earlier agents left, perhaps of this session and under the same fence.
    fn heed(&mut self, departed: Departed) {
        if self.revision <= departed.unknown {
            self.doubt = Some(Doubt::UnknownFrame(departed.unknown));
        }
        self.log.expect(departed.frame);
    }

    fn departure(&mut self) -> Departure {
        let unknown = match self.doubt {
            Some(Doubt::UnknownFrame(fence)) => fence,
            Some(Doubt::Ahead) | None => Revision(0),
        };
        let departed = Departed { fence: self.revision, unknown, frame: self.log.last() };
        Departure { departed, forward: self.forward.take() }
    }

    async fn live(&mut self, mailbox: &mut Mailbox, start: Start, counted: &mut Counted) -> End {
        if let Err(end) = guarded(Box::pin(self.take_up(start))).await {
            return end;
        }
        counted.enter(Stage::Serving);
        loop {
            self.status.end_turn();
            let wake = self.wake_at();
            let letter = tokio::select! {
                biased;
                letter = mailbox.next() => letter,
                () = tokio::time::sleep_until(wake) => {
                    self.status.begin_turn(self.core.now_ms());
                    if let Err(end) = guarded(Box::pin(self.tick())).await { return end }
                    continue;
                }
            };
            self.status.begin_turn(self.core.now_ms());
            // The supervisor lets go of the mailbox only when the worker ends.
            let Some(letter) = letter else { return End::Moved };
            if let Err(end) = guarded(Box::pin(self.turn(letter, mailbox))).await {
                return end;
            }
        }
    }

    /// Ends a lock whose lease ran out before `letter` came. What came earlier is served first and may renew it,
    /// however late that is; what came later does not count, so that a mailbox that is never empty keeps no lock alive.
    async fn expire_before(&mut self, letter: &Letter) -> Flow {
        let came = if mutant::is(Mutant::RenewalByReading) { Instant::now() } else { letter.arrived };
        match self.lock_clock {
            Some(clock) if clock.deadline < came => self.run_out(clock).await,
            _ => Ok(()),
        }
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
            next = if full { None } else { mailbox.next_now() };
            bytes += next.as_deref().map_or(0, weight);
        }
        // One request is the rule: log lines are about it. Of several, each has a span of its own.
        let span = match &letters[..] {
            [letter] => letter.span.clone(),
            _ => Span::none(),
        };
        if let Err(end) = self.serve(letters).instrument(span).await {
            answer_end(&self.key, last.into_iter().map(|letter| *letter).collect(), &end).await;
            return Err(end);
        }
        if let Some(letter) = last {
            let (traces, span) = (Traces::one(letter.trace), letter.span.clone());
            trace::within(traces, self.stand_alone(*letter).instrument(span)).await?;
        }
        if self.look_due { self.look().await } else { Ok(()) }
    }

    fn touch(&self) {
        self.status.touch(self.core.now_ms());
    }

    fn idle_deadline(&self) -> Instant {
        let since = self.core.epoch + Duration::from_millis(self.status.activity_ms());
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
            Some(clock) if clock.deadline <= now => self.run_out(clock).await,
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

/// How much a letter may add to a frame, as far as that can be told before it is decided: a load has its whole file
/// there.
fn weight(letter: &Letter) -> u64 {
    match letter.call {
        Call::Verb(holdfast_protocol::subject::Verb::DocLoad) => SNAPSHOT_EVERY_BYTES,
        _ => letter.payload.len() as u64,
    }
}

/// Answers everything in `letters` alike.
async fn answer_all(letters: Vec<Letter>, answer: impl Fn(&Letter) -> Answer) {
    for letter in letters {
        let answer = answer(&letter);
        letter.reply.send(answer).await;
    }
}
