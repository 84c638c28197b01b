//! An effect of a request, which is a change outside of the log (`doc.save`), and looks at what is outside of it.
//!
//! Invariant: no storage can refuse such a change, so before it is made the log has its intent, appended under the
//! fence that the agent knows. The intent proves that the agent owns the session, and tells a later agent whose work it
//! finds. Once the file is in its place the save is done and answered. If the log does not hear of it then, the next
//! look at the file tells it.
//!
//! The new file is written beside the real one while the intent is on its way; only the last step waits for it.
//! Deliberately absent: what a save writes, and where; that is the machine's (`doc/save.rs`).

use holdfast_protocol::error::Reason;
use holdfast_protocol::frame::Op;
use holdfast_protocol::subject::Verb;
use holdfast_protocol::{Error, RequestId};
use holdfast_store::{StoreError, chance};
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::commit::refused;
use super::decide::with_proven_actor;
use super::end::answer_end;
use super::record::storage_unavailable;
use super::stop::Stop;
use super::{Agent, Doubt, End, Flow};
use crate::letter::{Answer, Letter};
use crate::machine::{Access, Ask, Change, Effect, Noticed, Unfinished};

/// What became of an attempt to save.
enum Attempt {
    /// The answer is known, and nothing was changed.
    Answer(Answer),
    /// The file was written, and the log must be told.
    Done(Op),
    /// The log has an intent, the file was not written, and the log must be told.
    Nothing { error: Error, nothing: Box<RawValue> },
    /// The state must be built again first.
    Again,
}

/// What became of an attempt to tell the log something.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Noted {
    InTheLog,
    NotYet,
}

impl Agent {
    /// `doc.save`
    pub(super) async fn save(&mut self, letter: Letter) -> Flow {
        let deadline = Instant::now() + 2 * self.core.config.recover_timeout;
        let attempt = loop {
            match self.try_save(&letter).await {
                Ok(Attempt::Again) if Instant::now() < deadline => {}
                Ok(attempt) => break attempt,
                Err(end) => {
                    answer_end(&self.key, vec![letter], &end).await;
                    return Err(end);
                }
            }
        };
        match attempt {
            Attempt::Answer(answer) => {
                letter.reply.send(answer).await;
                Ok(())
            }
            Attempt::Done(op) => {
                letter.reply.send(Answer::Done(op.reply.get().to_owned().into())).await;
                self.unlogged = Some(Box::new(op));
                self.log_unlogged().await
            }
            Attempt::Nothing { error, nothing } => {
                letter.reply.send(refused(&error, &letter.request_id)).await;
                self.unlogged = Some(Box::new(silent(nothing)));
                // Refused, perhaps, for what there is.
                self.look().await
            }
            Attempt::Again => {
                let error = StoreError::Unavailable("the session's record changes too fast".to_owned());
                letter.reply.send(refused(&storage_unavailable(&error), &letter.request_id)).await;
                Ok(())
            }
        }
    }

    async fn try_save(&mut self, letter: &Letter) -> Result<Attempt, End> {
        let mut ask = match self.machine.parse(Verb::DocSave, &letter.payload) {
            Ok(ask) => ask,
            Err(error) => return Ok(Attempt::Answer(refused(&error, &letter.request_id))),
        };
        let request_id = ask.request_id.get_or_insert_with(|| letter.request_id.clone()).clone();
        Ok(match self.save_as_asked(letter, &ask, &request_id).await {
            Ok(Attempt::Nothing { error, nothing }) => Attempt::Nothing { error: named(error, &request_id), nothing },
            Ok(saved) => saved,
            Err(stop) => Attempt::Answer(refused(&stop.refusal()?, &request_id)),
        })
    }

    async fn save_as_asked(&mut self, letter: &Letter, ask: &Ask, request_id: &RequestId) -> Result<Attempt, Stop> {
        self.touch();
        self.settle().await?;
        if let Some(reply) = self.remembered(request_id) {
            return Ok(Attempt::Answer(Answer::Done(reply.into())));
        }
        self.catch_up(letter).await?;
        let token = match &ask.access {
            Access::Write { token } => token.as_deref(),
            Access::Read | Access::LinearizableRead => None,
        };
        self.check_lock(token).await?;
        let Effect { intent, nothing, mut work } = match self.machine.effect(ask).await {
            Ok(effect) => effect,
            // A refusal is good if this agent still owns the session.
            Err(error) => {
                self.refresh_or_end().await?;
                return Err(error.into());
            }
        };
        self.make_room().await?;
        // Whatever was learned on the way, nothing is written of a state that may not be the session's.
        if self.doubt.is_some() {
            return Ok(Attempt::Again);
        }
        let intent = silent(intent);
        self.apply(&intent)?;
        let (prepared, proven) = tokio::join!(work.prepare(), self.append_applied(vec![intent]));
        if let Err(stop) = proven {
            // The state has an intent that the log may not have. If it has, nothing comes of it.
            self.doubt.get_or_insert(Doubt::Ahead);
            self.unlogged = Some(Box::new(silent(nothing)));
            return match stop {
                // The record was edited by hand, and the state is to be built again.
                Stop::Storage(StoreError::Moved { .. }) => Ok(Attempt::Again),
                Stop::Storage(error) => Err(error_before(&error).into()),
                stop => Err(stop),
            };
        }
        // The record may have changed on the way.
        let may_go_on = match prepared {
            Ok(()) => self.check_lock(token).await,
            Err(refusal) => Err(refusal.into()),
        };
        let refusal = may_go_on.err().map(Stop::refusal).transpose()?;
        if self.doubt.is_some() {
            return Ok(Attempt::Again);
        }
        if let Some(error) = refusal {
            return Ok(Attempt::Nothing { error, nothing });
        }
        let Change { change, event, reply, .. } = match work.finish().await {
            Ok(change) => change,
            Err(Unfinished::Refused(error)) => return Ok(Attempt::Nothing { error, nothing }),
            Err(Unfinished::Unsure(error)) => return self.may_not_last(&error, request_id).await,
        };
        if token.is_some() {
            self.renew_lock_clock();
        }
        let event = event.map(|event| with_proven_actor(event, letter));
        Ok(Attempt::Done(Op { request_id: request_id.clone(), event, change, reply }))
    }

    /// The file is in its place, and may not be there after a power failure. If it is there, a look tells the log.
    async fn may_not_last(&mut self, error: &Error, request_id: &RequestId) -> Result<Attempt, Stop> {
        self.look().await?;
        let unknown = || Error::new(Reason::AckTimeout, format!("the file may or may not last: {}", error.message));
        match self.remembered(request_id) {
            Some(reply) => Ok(Attempt::Answer(Answer::Done(reply.into()))),
            None => Err(unknown().into()),
        }
    }

    /// Makes a change in the state that is not in the log yet.
    fn apply(&mut self, op: &Op) -> Result<(), Error> {
        self.machine.apply(&op.change).inspect_err(|error| {
            tracing::error!(session = %self.key, %error, "a decided change could not be made");
            self.doubt = Some(Doubt::Ahead);
        })
    }

    /// Looks at what is outside of the log, and tells the log what it should know of it.
    pub(super) async fn look(&mut self) -> Flow {
        self.look_due = false;
        self.log_unlogged().await?;
        // Who builds the state again looks then, and a session that has not begun knows of nothing.
        if self.doubt.is_some() || self.unlogged.is_some() || self.ops == 0 {
            return Ok(());
        }
        let Some(Noticed { request_id, change }) = self.machine.look().await else { return Ok(()) };
        let Change { change, event, reply, .. } = change;
        let request_id = request_id.unwrap_or_else(|| RequestId::made(chance::id()));
        self.note(Op { request_id, event, change, reply }).await.map(|_| ())
    }

    /// Tells the log the outcome of a save that was answered already.
    async fn log_unlogged(&mut self) -> Flow {
        let Some(op) = self.unlogged.take() else { return Ok(()) };
        // The frame whose outcome was unknown may have had it.
        if self.answered.get(&op.request_id).is_none() && self.note(Op::clone(&op)).await? == Noted::NotYet {
            self.unlogged = Some(op);
        }
        Ok(())
    }

    /// Tells the log what has happened already. If that fails, the state is built again at the next request, and then a
    /// look notices what happened, or it is logged from memory.
    async fn note(&mut self, op: Op) -> Result<Noted, End> {
        if self.doubt.is_some() {
            return Ok(Noted::NotYet);
        }
        if !self.has_room() {
            self.look_due = true;
            return Ok(Noted::NotYet);
        }
        let noted = match self.apply(&op) {
            Ok(()) => self.append_applied(vec![op]).await,
            Err(error) => Err(error.into()),
        };
        if let Err(stop) = noted {
            let why = stop.refusal()?.message;
            tracing::warn!(session = %self.key, why, "what happened to the session's file is not in its log yet");
            self.doubt.get_or_insert(Doubt::Ahead);
            return Ok(Noted::NotYet);
        }
        Ok(Noted::InTheLog)
    }

    /// Appends under whatever the fence is by then; *moved* only where that is not enough.
    async fn append_applied(&mut self, ops: Vec<Op>) -> Result<(), Stop> {
        loop {
            let fence = self.revision;
            let moved = match self.append(ops.clone()).await {
                Err(moved @ StoreError::Moved { .. }) => moved,
                done => return Ok(done?),
            };
            // Mostly only the lock changed, and it is checked again before the file is touched.
            self.catch_up_past(fence).await?;
            if self.doubt.is_some() {
                return Err(moved.into());
            }
        }
    }
}

/// A change that no request waits for, and no signal tells of.
fn silent(change: Box<RawValue>) -> Op {
    Op { request_id: RequestId::made(chance::id()), event: None, change, reply: RawValue::NULL.to_owned() }
}

/// `error`, as one of this request.
fn named(error: Error, request_id: &RequestId) -> Error {
    if error.request_id.is_empty() { error.for_request(request_id) } else { error }
}

/// Nothing was changed yet, whatever became of the intent.
fn error_before(error: &StoreError) -> Error {
    match error {
        StoreError::Unknown(why) => storage_unavailable(&StoreError::Unavailable(why.clone())),
        error => storage_unavailable(error),
    }
}
