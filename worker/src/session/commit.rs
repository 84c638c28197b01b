//! Group commit: the staged changes of a batch as one frame, and what its outcome means for each request.

use std::time::Duration;

use bytes::Bytes;
use holdfast_protocol::error::Reason;
use holdfast_protocol::frame::Op;
use holdfast_protocol::{Error, RequestId};
use holdfast_rules::validate::may_write;
use holdfast_store::StoreError;
use holdfast_store::mutant::{self, Mutant};
use holdfast_store::trace::{self, Traces};
use serde_json::value::RawValue;
use tokio::time::Instant;
use tracing::{Instrument, Span};

use super::end::answer_end;
use super::record::storage_unavailable;
use super::stop::Stop;
use super::{Agent, Doubt, End, Flow};
use crate::letter::{Answer, Call, Letter, ReplyTo};
use crate::log::frame;
use crate::machine::Access;

/// How long a full log waits for the relay before changes are refused.
const ANNOUNCE_TIMEOUT: Duration = Duration::from_secs(2);

/// A request whose answer waits for the frame.
pub(super) struct Staged {
    pub(super) letter: Letter,
    pub(super) request_id: RequestId,
    pub(super) access: Access,
    /// A refusal waits as well, when it was decided on changes that are not committed yet.
    pub(super) answer: Result<Box<RawValue>, Error>,
    /// Copies of the same request in the same batch.
    pub(super) copies: Vec<ReplyTo>,
}

/// What one frame will answer.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) staged: Vec<Staged>,
    pub(super) ops: Vec<Op>,
    pub(super) first_revision: u64,
}

impl Batch {
    /// The trace of each op.
    fn traces(&self) -> Traces {
        if self.staged.iter().all(|staged| staged.letter.trace.is_none()) {
            return Traces::default();
        }
        let of = |op: &Op| self.staged.iter().find(|staged| staged.request_id == op.request_id)?.letter.trace;
        Traces::each(self.ops.iter().map(of))
    }
}

/// What became of a batch.
pub(super) enum Committed {
    /// Everything is answered.
    Answered,
    /// Nothing is: decide these again, on a state that has been built again.
    Again(Vec<Letter>),
}

impl Agent {
    /// Commits `batch` and answers it.
    pub(super) async fn commit(&mut self, batch: Batch) -> Result<Committed, End> {
        if batch.staged.is_empty() {
            return Ok(Committed::Answered);
        }
        loop {
            // The record may have changed since they were decided, and the frame's fence does not know under which
            // lock.
            if self.doubt.is_some() || !self.all_may_proceed(&batch) {
                self.doubt = Some(Doubt::Ahead);
                return Ok(Committed::Again(with_copies(batch)));
            }
            if let Err(error) = self.make_room().await {
                self.doubt = Some(Doubt::Ahead);
                refuse(batch, &error).await;
                return Ok(Committed::Answered);
            }
            let fence = self.revision;
            if mutant::is(Mutant::ReplyBeforeAck) {
                return self.answer_before_append(batch).await;
            }
            match self.append_batch(&batch).await {
                Ok(()) => {
                    self.answer(batch).await;
                    return Ok(Committed::Answered);
                }
                Err(StoreError::Moved { .. }) => match self.catch_up_past(fence).await {
                    // Mostly only the lock changed. If nobody's token lost: the same frame again under the new fence.
                    Ok(()) => {}
                    Err(stop) => match stop.refusal() {
                        Ok(error) => {
                            self.doubt = Some(Doubt::Ahead);
                            refuse(batch, &error).await;
                            return Ok(Committed::Answered);
                        }
                        Err(end) => {
                            answer_end(&self.key, with_copies(batch), &end).await;
                            return Err(end);
                        }
                    },
                },
                Err(StoreError::Unknown(_)) if mutant::is(Mutant::RetryWithNewId) => self.doubt = None,
                Err(StoreError::Unknown(_)) => return Ok(Committed::Again(with_copies(batch))),
                Err(error) => {
                    self.doubt = Some(Doubt::Ahead);
                    refuse(batch, &storage_unavailable(&error)).await;
                    return Ok(Committed::Answered);
                }
            }
        }
    }

    /// What a mutant does in place of answering once the frame is stored.
    async fn answer_before_append(&mut self, batch: Batch) -> Result<Committed, End> {
        let (ops, first_revision) = (batch.ops.clone(), batch.first_revision);
        self.answer(batch).await;
        if self.append_ops(ops, first_revision).await.is_err() && self.doubt.is_none() {
            self.doubt = Some(Doubt::Ahead);
        }
        Ok(Committed::Answered)
    }

    fn all_may_proceed(&self, batch: &Batch) -> bool {
        batch.staged.iter().all(|staged| match &staged.access {
            Access::Write { token } => may_write(&self.record, self.revision, token.as_deref()).is_ok(),
            Access::Read | Access::LinearizableRead => true,
        })
    }

    /// Whether the next frame may be appended.
    pub(super) fn has_room(&mut self) -> bool {
        self.log.announced(self.core.floor.get());
        !self.log.is_full() || self.log.can_carry()
    }

    /// Waits until the next frame may be appended.
    pub(super) async fn make_room(&mut self) -> Result<(), Error> {
        let deadline = Instant::now() + ANNOUNCE_TIMEOUT;
        loop {
            if self.has_room() {
                return Ok(());
            }
            if Instant::now() > deadline {
                let message = format!("session {} must be compacted, and its signals are behind", self.key.id);
                return Err(Error::new(Reason::SnapshotPending, message).retry_after_ms(Some(500)));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn append_batch(&mut self, batch: &Batch) -> Result<(), StoreError> {
        // A frame of several requests is shown below the first of them.
        let span = batch.staged.first().map_or_else(Span::none, |staged| staged.letter.span.clone());
        let append = self.append_ops(batch.ops.clone(), batch.first_revision).instrument(span);
        trace::within(batch.traces(), append).await
    }

    /// Appends ops that are applied already.
    pub(super) async fn append(&mut self, ops: Vec<Op>) -> Result<(), StoreError> {
        self.append_ops(ops, 0).await
    }

    async fn append_ops(&mut self, ops: Vec<Op>, first_revision: u64) -> Result<(), StoreError> {
        let first_op = self.ops + 1;
        let count = ops.len() as u64;
        self.log.announced(self.core.floor.get());
        let due = self.log.wants_snapshot() && self.log.can_carry();
        let snapshot = due.then(|| {
            let mut snapshot = self.snapshot(self.ops + count);
            snapshot.answered.extend(ops.iter().filter(|op| op.answers()).map(|op| {
                holdfast_protocol::frame::Remembered { request_id: op.request_id.clone(), reply: op.reply.clone() }
            }));
            snapshot
        });
        let frame = frame(self.activation, self.opened, first_op, first_revision, ops, snapshot);
        self.append_frame(&frame).await?;
        self.ops += count;
        for op in frame.ops.into_iter().filter(Op::answers) {
            self.answered.remember(op.request_id, op.reply);
        }
        Ok(())
    }

    async fn answer(&mut self, batch: Batch) {
        for staged in batch.staged {
            if matches!(&staged.access, Access::Write { token: Some(_) }) {
                self.renew_lock_clock();
            }
            let reply = staged.answer.map(|reply| Bytes::copy_from_slice(reply.get().as_bytes()));
            let answer = || match &reply {
                Ok(reply) => Answer::Done(reply.clone()),
                Err(error) => refused(error, &staged.request_id),
            };
            for copy in staged.copies {
                copy.send(answer()).await;
            }
            staged.letter.reply.send(answer()).await;
        }
    }

    /// Serves `letters` until each is answered.
    pub(super) async fn serve(&mut self, letters: Vec<Letter>) -> Flow {
        let deadline = Instant::now() + 2 * self.core.config.recover_timeout;
        let mut letters = letters;
        // Whether a frame that has them may be in the log.
        let mut is_sent = false;
        while !letters.is_empty() {
            let settled = self.settle().await.map_err(Stop::refusal);
            let refusal = match settled {
                Ok(()) => None,
                Err(Ok(error)) => Some(error),
                Err(Err(end @ End::Closed(_))) if is_sent => {
                    refuse_all(letters, is_sent, &Error::no_session(&self.key)).await;
                    return Err(end);
                }
                Err(Err(end)) => {
                    answer_end(&self.key, letters, &end).await;
                    return Err(end);
                }
            };
            if let Some(error) = refusal {
                refuse_all(letters, is_sent, &error).await;
                return Ok(());
            }
            is_sent = false;
            let batch = self.decide_all(letters).await?;
            letters = if self.doubt.is_some() {
                with_copies(batch)
            } else {
                match self.commit(batch).await? {
                    Committed::Answered => return Ok(()),
                    Committed::Again(letters) => {
                        is_sent = matches!(self.doubt, Some(Doubt::UnknownFrame(_)));
                        letters
                    }
                }
            };
            if Instant::now() > deadline {
                let error = Error::new(Reason::StorageUnavailable, "the session's record changes too fast")
                    .retry_after_ms(Some(100));
                refuse_all(letters, is_sent, &error).await;
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Answers with `error`, unless a frame that has the letters may be in the log.
async fn refuse_all(letters: Vec<Letter>, is_sent: bool, error: &Error) {
    let unknown = storage_unavailable(&StoreError::Unknown(error.message.clone()));
    super::answer_all(letters, |letter| {
        let is_read = matches!(letter.call, Call::Verb(verb) if verb.is_read());
        refused(if is_sent && !is_read { &unknown } else { error }, &letter.request_id)
    })
    .await;
}

/// The letters of a batch, those of copies included: each is decided again, and a copy finds the first's answer.
pub(super) fn with_copies(batch: Batch) -> Vec<Letter> {
    let mut letters = Vec::with_capacity(batch.staged.len());
    for staged in batch.staged {
        let copies: Vec<Letter> =
            staged.copies.into_iter().map(|reply| staged.letter.copy_for(&staged.request_id, reply)).collect();
        letters.push(staged.letter);
        letters.extend(copies);
    }
    letters
}

pub(super) fn refused(error: &Error, request_id: &RequestId) -> Answer {
    let error = if error.request_id.is_empty() { error.clone().for_request(request_id) } else { error.clone() };
    Answer::Refused(Box::new(error))
}

async fn refuse(batch: Batch, error: &Error) {
    for staged in batch.staged {
        for copy in staged.copies {
            copy.send(refused(error, &staged.request_id)).await;
        }
        staged.letter.reply.send(refused(error, &staged.request_id)).await;
    }
}
