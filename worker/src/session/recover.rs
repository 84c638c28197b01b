//! How an agent comes to its state: from nothing, or from the log.
//!
//! Invariant: a log that others may have written is read up to an end that was told by a replica which has this agent's
//! own fence. Under the fences before it nobody can append any more, so the read is complete, whichever replica serves
//! it.
//!
//! After a frame with unknown outcome the fence itself is moved first: a late copy of that frame could otherwise land
//! behind the end, and shadow a frame that was acknowledged since.

use std::sync::Arc;
use std::time::Duration;

use holdfast_protocol::document::Content;
use holdfast_protocol::error::Reason;
use holdfast_protocol::frame::{Frame, Op, Snapshot};
use holdfast_protocol::internal::Hint;
use holdfast_protocol::record::{SessionRecord, Urgency};
use holdfast_protocol::{Error, RequestId, Revision, SessionKey};
use holdfast_records::{Change, Known, NotDone, change};
use holdfast_rules::conflict::released_because;
use holdfast_rules::place::fenced;
use holdfast_rules::{Author, Decision};
use holdfast_store::mutant::{self, Mutant};
use holdfast_store::{Rollup, StoreError, StoredFrame, chance};
use tokio::time::Instant;

use super::record::{Standing, storage_unavailable, without_event};
use super::stop::Stop;
use super::writing::Writing;
use super::{Agent, Core, Doubt, End, Start};
use crate::answered::Answered;
use crate::log::{LogPosition, frame};
use crate::meters::{self, Sent};
use crate::status::Status;

impl Start {
    /// How an agent starts with it.
    pub(crate) fn activation(&self) -> meters::Activation {
        match self {
            Self::Given(given) if given.created => meters::Activation::Opened,
            Self::Given(_) => meters::Activation::Placed,
            Self::OnDemand => meters::Activation::Asked,
        }
    }

    /// The record to start with.
    pub(super) async fn hint(&self, core: &Core, key: &SessionKey) -> Result<Hint, End> {
        match self {
            Self::Given(given) => Ok(given.hint.clone()),
            Self::OnDemand => read_record(core, key).await,
        }
    }
}

impl Agent {
    /// Comes to its state.
    pub(super) async fn take_up(&mut self, start: Start) -> Result<(), End> {
        match start {
            Start::OnDemand => {
                self.build_from_log().await?;
                self.begin(None, RequestId::made(chance::id())).await
            }
            Start::Given(given) => {
                // Frames of an earlier session of the same id may have events that nobody was told of yet.
                let is_empty = given.created && self.record.log_after == 0;
                if is_empty {
                    // Unless a nats-server that was killed forgot that it was purged, and has it again later.
                    self.opened = self.revision.0;
                } else {
                    self.build_from_log().await?;
                }
                self.begin(given.content.as_ref(), given.request_id).await
            }
        }
    }

    pub(super) fn new(
        core: Arc<Core>,
        key: SessionKey,
        status: Arc<Status>,
        Hint { revision, record }: Hint,
    ) -> Result<Box<Self>, End> {
        if !record.is_owned_by(&core.config.name, core.boot) {
            return Err(End::Moved);
        }
        let activation = record.owner.as_ref().map(|owner| owner.activation).ok_or(End::Moved)?;
        let kind = core.config.kinds.get(record.kind.as_str()).ok_or_else(|| {
            let message = format!("this worker does not host sessions of kind {:?}", record.kind);
            End::Failed(Box::new(Error::new(Reason::RecordInvalid, message)))
        })?;
        let machine = kind.create(&record, core.surroundings(&record));
        let mut agent = Box::new(Self {
            key,
            status,
            revision,
            activation,
            machine,
            released_because: released_because(&record).map(str::to_owned),
            record: without_event(record),
            core,
            answered: Answered::default(),
            ops: 0,
            opened: 0,
            log: LogPosition::default(),
            lock_clock: None,
            doubt: None,
            proven_ms: None,
            forward: None,
            stay_until: None,
            look_due: false,
            unlogged: None,
        });
        agent.touch();
        agent.wind_lock_clock();
        Ok(agent)
    }

    /// What a session without any op begins with.
    pub(super) async fn begin(&mut self, content: Option<&Content>, request_id: RequestId) -> Result<(), End> {
        if self.ops > 0 {
            return Ok(());
        }
        let Some(change) = self.machine.begin(content).await.map_err(|error| End::Failed(Box::new(error)))? else {
            return Ok(());
        };
        self.machine.apply(&change.change).map_err(|error| End::Failed(Box::new(error)))?;
        let op = Op { request_id, event: change.event, change: change.change, reply: change.reply };
        self.append_or_end(vec![op]).await
    }

    /// Appends ops that nobody waits for, or ends: the next start tries again from the log.
    async fn append_or_end(&mut self, ops: Vec<Op>) -> Result<(), End> {
        let deadline = Instant::now() + self.core.config.recover_timeout;
        loop {
            self.make_room().await.map_err(|error| failed_or_end(error.into()))?;
            let fence = self.revision;
            match self.append(ops.clone()).await {
                Ok(()) => return Ok(()),
                Err(StoreError::Moved { .. }) if Instant::now() < deadline => {
                    self.catch_up_past(fence).await.map_err(failed_or_end)?;
                }
                Err(error) => return Err(failed_or_end(error.into())),
            }
        }
    }

    /// Builds the state from the log, if it is in doubt. Where that does not work the doubt stays, and the next request
    /// tries again.
    pub(super) async fn settle(&mut self) -> Result<(), Stop> {
        if self.doubt.is_none() {
            return Ok(());
        }
        // Whatever could not be written or read here, it was not the change that somebody waits for.
        self.rebuild().await.map_err(|stop| match stop {
            Stop::Storage(error) => StoreError::Unavailable(error.to_string()).into(),
            stop => stop,
        })
    }

    async fn build_from_log(&mut self) -> Result<(), End> {
        self.rebuild().await.map_err(failed_or_end)
    }

    async fn rebuild(&mut self) -> Result<(), Stop> {
        let deadline = Instant::now() + self.core.config.recover_timeout;
        let mut pause = Duration::from_millis(1);
        loop {
            let error = match self.try_rebuild().await {
                Ok(()) => {
                    self.doubt = None;
                    self.look().await?;
                    return Ok(());
                }
                Err(Stop::Storage(error)) => error,
                Err(stop) => return Err(stop),
            };
            if Instant::now() + pause > deadline {
                return Err(error.into());
            }
            tokio::time::sleep(pause.mul_f64(self.spread())).await;
            pause = (pause * 2).min(Duration::from_millis(200));
            match self.refresh().await {
                Ok(Standing::Owner) | Err(_) => {}
                Ok(Standing::Gone) => return Err(self.gone().into()),
            }
        }
    }

    /// Reading a log proves nothing of who owns the session, and looking at a file removes what a save has left beside
    /// it.
    async fn prove_before_look(&mut self) -> Result<(), Stop> {
        if self.record.path.is_none() {
            return Ok(());
        }
        let fence = self.revision;
        self.refresh_or_end().await?;
        // What was read may not be all under a newer fence, if that was made by hand.
        if self.revision > fence { Err(StoreError::Moved { expected: fence }.into()) } else { Ok(()) }
    }

    async fn try_rebuild(&mut self) -> Result<(), Stop> {
        if let Some(Doubt::UnknownFrame(fence)) = self.doubt
            && self.revision <= fence
            && !mutant::is(Mutant::UnknownFrameNotFenced)
        {
            self.move_fence().await?;
        }
        let frames = self.read_log().await?;
        self.reset();
        if let Err(error) = self.replay_all(&frames) {
            return self.is_not_a_log(error).await;
        }
        self.shorten().await?;
        self.prove_before_look().await
    }

    /// Gives the record a new revision, so that a late copy of a frame cannot land any more.
    async fn move_fence(&mut self) -> Result<(), Stop> {
        let deadline = Instant::now() + self.core.config.recover_timeout;
        let fencing = Fencing { at: self.revision };
        match change(&mut self.writing(Urgency::Urgent, deadline), &fencing).await {
            Ok(_) => Ok(()),
            Err(NotDone::Stopped(stop)) => Err(stop),
            Err(NotDone::Moved | NotDone::Refused(..)) => Err(StoreError::Moved { expected: fencing.at }.into()),
        }
    }

    /// What was read is no log of this session, unless it is one of its next owner, or of the session that was opened
    /// after it.
    async fn is_not_a_log(&mut self, error: Error) -> Result<(), Stop> {
        let fence = self.revision;
        self.refresh_or_end().await?;
        if self.revision > fence {
            return Err(StoreError::Moved { expected: fence }.into());
        }
        Err(End::Failed(Box::new(error)).into())
    }

    fn replay_all(&mut self, stored: &[StoredFrame]) -> Result<(), Error> {
        let mut frames = Vec::new();
        for stored in stored {
            match Frame::from_json(&stored.value, &self.key) {
                Err(_) if stored.sequence <= self.record.log_after => {}
                frame => frames.push((stored, frame?)),
            }
        }
        let of_this = frames.iter().filter(|(stored, _)| stored.sequence > self.record.log_after);
        self.opened = of_this.map(|(_, frame)| frame.opened).max().unwrap_or(0).max(self.opened);
        let begin = self.record.log_after.max(self.opened);
        let is_void = |stored: &StoredFrame| stored.sequence <= begin;
        for (_, frame) in frames.iter().filter(|(stored, _)| stored.sequence <= self.record.log_after) {
            self.answered.remember_all(frame);
        }
        // Wherever it stands: a nats-server that was killed may have forgotten that a snapshot replaced what is before
        // it, and of that, again, the stream keeps the latest only.
        let valid = frames.iter().filter(|(stored, _)| !is_void(stored));
        if let Some(snapshot) = valid.filter_map(|(_, frame)| frame.snapshot.as_ref()).max_by_key(|found| found.ops) {
            self.machine.restore(&snapshot.state)?;
            // It has what was left of earlier lives when it was made.
            self.answered = Answered::restore(snapshot.answered.clone());
            self.ops = snapshot.ops;
        }
        for (stored, frame) in &frames {
            if !is_void(stored) {
                self.replay(frame)?;
            }
            self.log.appended(frame, stored.sequence, stored.value.len());
        }
        Ok(())
    }

    /// The whole log, as nobody else can change it any more.
    async fn read_log(&self) -> Result<Vec<StoredFrame>, StoreError> {
        match self.core.store.log_end(&self.key, self.revision.0.max(self.log.last())).await? {
            0 => Ok(Vec::new()),
            last => self.core.store.read_log(&self.key, 0, last).await,
        }
    }

    /// Compacts a long log that was just read. That it does not work is no reason not to serve the session.
    async fn shorten(&mut self) -> Result<(), StoreError> {
        self.log.announced(self.core.floor.get());
        if !self.log.wants_snapshot() || !self.log.can_carry() {
            return Ok(());
        }
        match self.append_snapshot().await {
            // It would replace what comes after it: fence it first.
            Err(error @ StoreError::Unknown(_)) => Err(error),
            Err(error) => {
                tracing::warn!(session = %self.key, %error, "a long log could not be compacted yet");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn reset(&mut self) {
        if let Some(kind) = self.core.config.kinds.get(self.record.kind.as_str()) {
            self.machine = kind.create(&self.record, self.core.surroundings(&self.record));
        }
        self.answered = Answered::default();
        self.ops = 0;
        self.log.reset();
    }

    fn replay(&mut self, frame: &Frame) -> Result<(), Error> {
        let seen = if mutant::is(Mutant::ReplayTrustsDoubles) { frame.first_op.saturating_sub(1) } else { self.ops };
        for op in frame.unseen(seen, &self.key)? {
            self.machine.apply(&op.change)?;
            if op.answers() {
                self.answered.remember(op.request_id.clone(), op.reply.clone());
            }
            self.ops += 1;
        }
        Ok(())
    }

    /// Replaces the log by one frame.
    pub(super) async fn append_snapshot(&mut self) -> Result<(), StoreError> {
        self.log.announced(self.core.floor.get());
        let snapshot = self.snapshot(self.ops);
        let (first_op, revision) = (self.ops + 1, self.machine.revision());
        let frame = frame(self.activation, self.opened, first_op, revision, Vec::new(), Some(snapshot));
        self.append_frame(&frame).await
    }

    pub(super) fn snapshot(&self, ops: u64) -> Snapshot {
        Snapshot {
            ops,
            state: self.machine.snapshot(),
            answered: self.answered.snapshot(),
            carried: self.log.carried(),
        }
    }

    pub(super) async fn append_frame(&mut self, frame: &Frame) -> Result<(), StoreError> {
        let json = frame.to_json();
        let bytes = json.len();
        let rollup = if frame.snapshot.is_some() { Rollup::Replace } else { Rollup::Keep };
        let id = chance::id().to_string();
        // An append that is given up half way, by a panic beside it for one, may have landed.
        let (doubt, sent_ms) = (self.doubt.replace(Doubt::UnknownFrame(self.revision)), self.core.now_ms());
        let sent = Instant::now();
        let appended = self.core.store.append(&self.key, self.revision, json.into(), rollup, id).await;
        let (changes, is_snapshot, took) = (frame.ops.len(), frame.snapshot.is_some(), sent.elapsed());
        self.core.config.meters.sent(&Sent { changes, bytes, is_snapshot, took }, &appended);
        if !matches!(appended, Err(StoreError::Unknown(_))) {
            self.doubt = doubt;
        }
        self.log.appended(frame, appended?, bytes);
        self.proven(sent_ms);
        Ok(())
    }
}

/// Without storage there is no state to begin with; the next start tries again from the log.
fn failed_or_end(stop: Stop) -> End {
    stop.refusal().map_or_else(|end| end, |error| End::Failed(Box::new(error)))
}

struct Fencing {
    at: Revision,
}

impl Change<Writing<'_>> for Fencing {
    type Reply = ();

    async fn decide(&self, _: &Writing<'_>, known: &Known) -> Result<Decision<()>, Stop> {
        let reason = Some("the outcome of a write was unknown; fenced and read back");
        let next = fenced(&known.record, Author { reason, ..Author::default() });
        Ok(Decision::Commit { next: Box::new(next), reply: () })
    }

    fn pinned(&self) -> Option<Revision> {
        Some(self.at)
    }
}

async fn read_record(core: &Core, key: &SessionKey) -> Result<Hint, End> {
    let stored = core.store.read(key).await.map_err(|error| End::Failed(Box::new(storage_unavailable(&error))))?;
    let (revision, json) = stored.and_then(|stored| Some((stored.revision, stored.value?))).ok_or(End::Moved)?;
    let record = SessionRecord::from_json(&json, key).map_err(|_| End::Moved)?;
    Ok(Hint { revision: Revision(revision.0), record })
}
