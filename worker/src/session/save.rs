//! `doc.save`, and looking at what is outside of the log.
//!
//! Invariant: what a save changes no storage can refuse, so before it is changed the log has the intent, appended under the
//! fence that the agent knows: proof that it owns the session, and a note of whose work whatever comes of it is. Once the file is
//! in its place the save is done, and is answered: that the log hears of it may fail and be made up for, by whoever looks at
//! the file next.
//!
//! The file is written, beside the real one, while the intent is on its way; only the last step waits for it.

use holdfast_protocol::error::Reason;
use holdfast_protocol::frame::Op;
use holdfast_protocol::subject::Verb;
use holdfast_protocol::{Error, RequestId};
use holdfast_store::{StoreError, chance};
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::commit::refused;
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
    /// It is done, and the log is to be told so.
    Done(Op),
    /// Nothing came of the intent that the log has, and it is to be told so.
    Nothing { error: Error, nothing: Box<RawValue> },
    /// The state is to be built again first.
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
                self.owed = Some(Box::new(op));
                self.pay().await
            }
            Attempt::Nothing { error, nothing } => {
                letter.reply.send(refused(&error, &letter.request_id)).await;
                self.owed = Some(Box::new(silent(nothing)));
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
        let Effect { intent, nothing, mut work } = match self.machine.effect(ask) {
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
            self.owed = Some(Box::new(silent(nothing)));
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
        Ok(Attempt::Done(Op { request_id: request_id.clone(), event, change, reply }))
    }

    /// The file is in its place, and may not be there after a power failure. If it lasts after all, a look tells the log.
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
        self.pay().await?;
        // Who builds the state again looks then, and a session that has not begun knows of nothing.
        if self.doubt.is_some() || self.owed.is_some() || self.ops == 0 {
            return Ok(());
        }
        let Some(Noticed { request_id, change }) = self.machine.look().await else { return Ok(()) };
        let Change { change, event, reply, .. } = change;
        let request_id = request_id.unwrap_or_else(|| RequestId::made(chance::id()));
        self.note(Op { request_id, event, change, reply }).await.map(|_| ())
    }

    /// Tells the log what came of a save that was answered already.
    async fn pay(&mut self) -> Flow {
        let Some(op) = self.owed.take() else { return Ok(()) };
        // The frame whose outcome was unknown may have had it.
        if self.answered.get(&op.request_id).is_none() && self.note(Op::clone(&op)).await? == Noted::NotYet {
            self.owed = Some(op);
        }
        Ok(())
    }

    /// Tells the log what has happened already. If that fails, the state is built again at the next request, and what happened
    /// is noticed, or paid, then.
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
