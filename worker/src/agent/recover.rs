//! How an agent comes to its state: from nothing, or from the log.
//!
//! Invariant: before it reads a log that others may have written, an agent appends a barrier under its own fence. Then nobody
//! else can append, and a read that contains the barrier is complete, whichever replica served it.
//!
//! After a frame with unknown outcome the fence itself is moved first: a late copy of that frame could otherwise land behind
//! the barrier, and shadow a frame that was acknowledged since.

use std::sync::Arc;
use std::time::Duration;

use holdfast_protocol::document::Content;
use holdfast_protocol::error::Reason;
use holdfast_protocol::frame::{Frame, Op, Snapshot};
use holdfast_protocol::internal::Hint;
use holdfast_protocol::record::{EventType, SessionRecord};
use holdfast_protocol::{Error, RequestId, Revision, SessionKey};
use holdfast_store::{Rollup, StoreError};
use tokio::time::Instant;
use uuid::Uuid;

use super::record::{Standing, storage_unavailable};
use super::{Activity, Agent, Core, Doubt, End, Start};
use crate::answered::Answered;
use crate::log::{LogPosition, frame};

impl Agent {
    /// Takes the session up.
    pub(super) async fn start(core: Arc<Core>, key: SessionKey, activity: Activity, start: Start) -> Result<Self, End> {
        match start {
            Start::OnDemand => {
                let hint = read_record(&core, &key).await?;
                let mut agent = Self::new(core, key, activity, hint)?;
                agent.build_from_log().await?;
                agent.begin(None, RequestId::made(Uuid::now_v7())).await?;
                Ok(agent)
            }
            Start::Given(given) => {
                let over_old_frames = given.hint.record.log_after > 0;
                let mut agent = Self::new(core, key, activity, given.hint)?;
                if !given.created {
                    agent.build_from_log().await?;
                } else if over_old_frames {
                    agent.log = LogPosition::over_old_frames();
                }
                agent.begin(given.content.as_ref(), given.request_id).await?;
                Ok(agent)
            }
        }
    }

    fn new(core: Arc<Core>, key: SessionKey, activity: Activity, Hint { revision, record }: Hint) -> Result<Self, End> {
        if !record.is_owned_by(&core.config.name, core.boot) {
            return Err(End::Moved);
        }
        let activation = record.owner.as_ref().map(|owner| owner.activation).ok_or(End::Moved)?;
        let kind = core.config.kinds.get(&record.kind).ok_or_else(|| {
            let message = format!("this worker does not host sessions of kind {:?}", record.kind);
            End::Failed(Box::new(Error::new(Reason::RecordInvalid, message)))
        })?;
        let machine = kind.create(&record, core.surroundings(&record));
        let mut agent = Self {
            key,
            activity,
            revision,
            activation,
            machine,
            record,
            core,
            answered: Answered::default(),
            ops: 0,
            log: LogPosition::default(),
            lock_clock: None,
            doubt: None,
            stay_until: None,
        };
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
            match self.append(ops.clone()).await {
                Ok(()) => return Ok(()),
                Err(StoreError::Moved { .. }) if Instant::now() < deadline => {
                    self.refresh_or_end().await?.map_err(|error| End::Failed(Box::new(error)))?;
                }
                Err(error) => return Err(End::Failed(Box::new(storage_unavailable(&error)))),
            }
        }
    }

    /// Builds the state from the log, if it is in doubt.
    ///
    /// The inner error is for whoever waits; the doubt stays, and the next request tries again.
    pub(super) async fn settle(&mut self) -> Result<Result<(), Error>, End> {
        let Some(doubt) = self.doubt else { return Ok(Ok(())) };
        match self.rebuild(Some(doubt)).await? {
            Ok(()) => {
                self.doubt = None;
                Ok(Ok(()))
            }
            Err(error) => Ok(Err(storage_unavailable(&error))),
        }
    }

    async fn build_from_log(&mut self) -> Result<(), End> {
        self.rebuild(None).await?.map_err(|error| End::Failed(Box::new(storage_unavailable(&error))))
    }

    async fn rebuild(&mut self, doubt: Option<Doubt>) -> Result<Result<(), StoreError>, End> {
        let deadline = Instant::now() + self.core.config.recover_timeout;
        let mut pause = Duration::from_millis(1);
        loop {
            let error = match self.try_rebuild(doubt).await? {
                Ok(()) => return Ok(Ok(())),
                Err(error) => error,
            };
            if Instant::now() + pause > deadline {
                return Ok(Err(error));
            }
            tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.5))).await;
            pause = (pause * 2).min(Duration::from_millis(200));
            match self.refresh().await {
                Ok(Standing::Owner) | Err(_) => {}
                Ok(Standing::Gone) => return Err(End::Moved),
            }
        }
    }

    async fn try_rebuild(&mut self, doubt: Option<Doubt>) -> Result<Result<(), StoreError>, End> {
        if let Some(Doubt::UnknownFrame(fence)) = doubt
            && self.revision <= fence
        {
            let reason = Some("the outcome of a write was unknown; fenced and read back".to_owned());
            let event = self.event(EventType::SessionActivated, None, reason, None);
            let next = SessionRecord { event, ..self.record.clone() };
            if let Err(error) = self.write_record(next).await {
                return Ok(Err(error));
            }
        }
        let barrier = Frame::barrier(self.activation).to_json();
        let id = Uuid::now_v7().to_string();
        let appended = self.core.store.append(&self.key, self.revision, barrier.into(), Rollup::Keep, id).await;
        let until = match appended {
            Ok(sequence) => sequence,
            Err(error) => return Ok(Err(error)),
        };
        let frames = match self.core.store.read_log(&self.key, self.record.log_after, until).await {
            Ok(frames) => frames,
            Err(error) => return Ok(Err(error)),
        };
        let fail = |error| End::Failed(Box::new(error));
        self.reset();
        for stored in &frames {
            let frame = Frame::from_json(&stored.value, &self.key).map_err(fail)?;
            self.replay(&frame).map_err(fail)?;
            self.log.appended(&frame, stored.sequence, stored.value.len());
        }
        if self.log.wants_snapshot() {
            return Ok(self.append_snapshot().await);
        }
        Ok(Ok(()))
    }

    fn reset(&mut self) {
        if let Some(kind) = self.core.config.kinds.get(&self.record.kind) {
            self.machine = kind.create(&self.record, self.core.surroundings(&self.record));
        }
        self.answered = Answered::default();
        self.ops = 0;
        self.log = LogPosition::default();
    }

    fn replay(&mut self, frame: &Frame) -> Result<(), Error> {
        if let Some(snapshot) = &frame.snapshot {
            if snapshot.ops >= self.ops {
                self.machine.restore(&snapshot.state)?;
                self.answered = Answered::restore(snapshot.answered.clone());
                self.ops = snapshot.ops;
            }
            return Ok(());
        }
        for op in frame.unseen(self.ops, &self.key)? {
            self.machine.apply(&op.change)?;
            self.answered.remember(op.request_id.clone(), op.reply.clone());
            self.ops += 1;
        }
        Ok(())
    }

    /// Replaces the log by one frame.
    pub(super) async fn append_snapshot(&mut self) -> Result<(), StoreError> {
        self.log.announced(self.core.floor.get());
        let snapshot = self.snapshot(self.ops);
        let frame = frame(self.activation, self.ops + 1, self.machine.revision(), Vec::new(), Some(snapshot));
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
        let id = Uuid::now_v7().to_string();
        let sequence = self.core.store.append(&self.key, self.revision, json.into(), rollup, id).await?;
        self.log.appended(frame, sequence, bytes);
        Ok(())
    }
}

async fn read_record(core: &Core, key: &SessionKey) -> Result<Hint, End> {
    let stored = core.store.read(key).await.map_err(|error| End::Failed(Box::new(storage_unavailable(&error))))?;
    let (revision, json) = stored.and_then(|stored| Some((stored.revision, stored.value?))).ok_or(End::Moved)?;
    let record = SessionRecord::from_json(&json, key).map_err(|_| End::Moved)?;
    Ok(Hint { revision: Revision(revision.0), record })
}
