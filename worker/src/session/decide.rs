//! One request after the other: parse, remember, check the lock, decide, stage.
//!
//! Invariant: a yes is proven by the frame that carries it; a no about the lock is decided on a fresh read of the
//! record.

use holdfast_protocol::error::Reason;
use holdfast_protocol::frame::{Op, OpEvent};
use holdfast_protocol::internal::{Activate, Inspection};
use holdfast_protocol::subject::Verb;
use holdfast_protocol::{Error, RequestId};
use holdfast_rules::conflict::{because, explain};
use holdfast_rules::validate::may_write;
use holdfast_store::chance;
use holdfast_store::mutant::{self, Mutant};
use serde::Serialize;
use serde_json::value::RawValue;

use super::commit::{Batch, Staged, refused, with_copies};
use super::end::answer_end;
use super::record::Standing;
use super::stop::Stop;
use super::{Agent, Doubt, End, Flow};
use crate::letter::{Answer, Call, Letter};
use crate::machine::{Access, Ask, Change, Decision, Memory};

/// What to do with one letter.
enum Verdict {
    /// Answer it now.
    Now(Answer),
    /// Answer it when the frame is in the log.
    Stage { ask: Box<Ask>, request_id: RequestId, decision: Result<Decision, Error> },
    /// It is a copy of the staged request with this place.
    CopyOf(usize),
}

impl Agent {
    /// Decides `letters` in order; applies what they change, and stages it.
    pub(super) async fn decide_all(&mut self, letters: Vec<Letter>) -> Result<Batch, End> {
        let mut batch = Batch { first_revision: self.machine.revision(), ..Batch::default() };
        let mut letters = letters.into_iter();
        while let Some(letter) = letters.next() {
            match self.decide(&letter, &batch).await {
                Ok(Verdict::Now(answer)) => letter.reply.send(answer).await,
                Ok(Verdict::CopyOf(place)) => batch.staged[place].copies.push(letter.reply),
                Ok(Verdict::Stage { ask, request_id, decision }) => {
                    self.stage(&mut batch, letter, *ask, request_id, decision).await
                }
                Err(end) => {
                    let rest = with_copies(batch).into_iter().chain([letter]).chain(letters).collect();
                    answer_end(&self.key, rest, &end).await;
                    return Err(end);
                }
            }
        }
        Ok(batch)
    }

    async fn stage(
        &mut self,
        batch: &mut Batch,
        letter: Letter,
        ask: Ask,
        request_id: RequestId,
        decision: Result<Decision, Error>,
    ) {
        let answer = match decision {
            Err(error) => Err(error),
            Ok(Decision::Reply(reply)) => Ok(reply),
            Ok(Decision::Change(Change { change, event, reply, memory })) => {
                if let Err(error) = self.machine.apply(&change) {
                    tracing::error!(session = %self.key, %error, "a decided change could not be made");
                    // `apply` may have stopped half way.
                    self.doubt = Some(Doubt::Ahead);
                    let error = Error::new(Reason::Bug, "a decided change could not be made");
                    letter.reply.send(refused(&error, &request_id)).await;
                    return;
                }
                let remembered = match memory {
                    Memory::Answer => reply.clone(),
                    Memory::Occurrence => RawValue::NULL.to_owned(),
                };
                let event = event.map(|event| with_proven_actor(event, &letter));
                batch.ops.push(Op { request_id: request_id.clone(), event, change, reply: remembered });
                if matches!(&ask.access, Access::Write { token: Some(_) }) {
                    // It came in time, whatever comes behind it in this batch.
                    self.renew_lock_clock();
                }
                Ok(reply)
            }
        };
        batch.staged.push(Staged { letter, request_id, access: ask.access, answer, copies: Vec::new() });
    }

    async fn decide(&mut self, letter: &Letter, batch: &Batch) -> Result<Verdict, End> {
        self.expire_before(letter).await?;
        if self.is_of_another_life(letter) {
            return Ok(Verdict::Now(Answer::Moved));
        }
        if let Call::Verb(verb) = letter.call
            && !matches!(verb, Verb::SessionTouch | Verb::LockRenew)
        {
            return self.decide_request(verb, letter, batch).await;
        }
        if matches!(letter.call, Call::CatchUp) {
            // From now on the next one who knows more tells again.
            self.status.end_catching_up();
        }
        if let Err(stop) = self.catch_up(letter).await {
            return Ok(Verdict::Now(refused(&stop.refusal()?, &letter.request_id)));
        }
        match &letter.call {
            // What a client did to the lock counts as activity where it is adopted; the hint itself does not.
            Call::Hint(hint) => match self.adopt(hint.record.clone(), hint.revision) {
                Standing::Owner => Ok(Verdict::Now(Answer::Done("{}".into()))),
                Standing::Gone => Err(self.gone()),
            },
            Call::CatchUp => Ok(Verdict::Now(Answer::Done("{}".into()))),
            Call::Verb(Verb::SessionTouch) => Ok(Verdict::Now(self.answer_touch(letter))),
            Call::Verb(_) => self.renew(letter).await.map(Verdict::Now),
            // They end a batch before they come here, or are answered without the mailbox.
            Call::Inspect(waiting) => Ok(Verdict::Now(done(&self.inspection(*waiting)))),
            Call::Activate(_) | Call::Handover | Call::Passivate(_) | Call::Look | Call::Lease => {
                Ok(Verdict::Now(Answer::Moved))
            }
        }
    }

    /// What a takeover would hit.
    fn inspection(&self, waiting: u64) -> Inspection {
        let unsaved = self.machine.unsaved_changes();
        let detail = |name: &str| unsaved.as_ref()?.details.get(name)?.as_str().map(str::to_owned);
        Inspection {
            unsaved_changes: unsaved.is_some(),
            unsaved_since: detail("unsaved_since"),
            unsaved_by: detail("unsaved_by"),
            waiting,
        }
    }

    /// Whether a request was meant for an earlier or later session of this id.
    fn is_of_another_life(&self, letter: &Letter) -> bool {
        let is_another = letter.life.is_some_and(|life| life != self.record.log_after);
        matches!(letter.call, Call::Verb(_)) && is_another && !mutant::is(Mutant::LifeIgnored)
    }

    /// What an earlier copy of the request was answered.
    pub(super) fn remembered(&self, request_id: &RequestId) -> Option<String> {
        let reply = self.answered.get(request_id)?;
        let is_whole = reply.get() != RawValue::NULL.get();
        Some(if is_whole { reply.get().to_owned() } else { self.machine.view().get().to_owned() })
    }

    /// Learns of the record what the letter's sender knew.
    pub(super) async fn catch_up(&mut self, letter: &Letter) -> Result<(), Stop> {
        if letter.revision <= self.revision { Ok(()) } else { self.refresh_or_end().await }
    }

    async fn decide_request(&mut self, verb: Verb, letter: &Letter, batch: &Batch) -> Result<Verdict, End> {
        let ask = match self.machine.parse(verb, &letter.payload) {
            Ok(ask) => ask,
            Err(error) => return Ok(Verdict::Now(refused(&error, &letter.request_id))),
        };
        let request_id = ask.request_id.clone().unwrap_or_else(|| letter.request_id.clone());
        letter.span.record("request_id", request_id.as_str());
        match self.decide_ask(verb, ask, &request_id, letter, batch).await {
            Ok(verdict) => Ok(verdict),
            Err(stop) => Ok(Verdict::Now(refused(&stop.refusal()?, &request_id))),
        }
    }

    async fn decide_ask(
        &mut self,
        verb: Verb,
        ask: Ask,
        request_id: &RequestId,
        letter: &Letter,
        batch: &Batch,
    ) -> Result<Verdict, Stop> {
        self.touch();
        if matches!(ask.access, Access::Write { .. }) {
            // Whatever has happened to lock and owner since.
            if let Some(reply) = self.remembered(request_id) {
                return Ok(Verdict::Now(Answer::Done(reply.into())));
            }
            if let Some(place) = batch.staged.iter().position(|staged| staged.request_id == *request_id) {
                return Ok(Verdict::CopyOf(place));
            }
        }
        self.catch_up(letter).await?;
        match &ask.access {
            Access::Write { token } => self.check_lock(token.as_deref()).await?,
            Access::Read => self.check_ownership().await?,
            Access::LinearizableRead => {}
        }
        let decision = match self.machine.decide(&ask).await {
            Ok(Decision::Reply(reply)) if ask.access == Access::Read && batch.ops.is_empty() => {
                return Ok(Verdict::Now(Answer::Done(reply.get().to_owned().into())));
            }
            // A read behind changes of its own batch must not be answered before they are committed.
            Ok(decision) => Ok(decision),
            Err(error) => {
                // What could not be read is worth a look.
                self.look_due |= verb == Verb::DocLoad;
                // So must a refusal behind such changes; any other is good if this agent still owns the session.
                if batch.ops.is_empty() {
                    self.refresh_or_end().await?;
                    if self.doubt.is_none() {
                        return Err(error.into());
                    }
                }
                Err(error)
            }
        };
        Ok(Verdict::Stage { ask: Box::new(ask), request_id: request_id.clone(), decision })
    }

    /// Whether a read that may be behind by one lease may be answered.
    async fn check_ownership(&mut self) -> Result<(), Stop> {
        if mutant::is(Mutant::LocalReadUnconfirmed) {
            return Ok(());
        }
        if !self.core.health.is_confirmed() {
            let message = "this worker cannot prove that it still owns the session";
            return Err(Error::new(Reason::LeaseLost, message).retry_after_ms(Some(1000)).into());
        }
        // Somebody may have moved the session, and not have reached this worker to tell it.
        if self.is_proven() { Ok(()) } else { self.refresh_or_end().await }
    }

    /// Whether a change may be made with `token`; a no is asked of the record itself.
    pub(super) async fn check_lock(&mut self, token: Option<&str>) -> Result<(), Stop> {
        if may_write(&self.record, self.revision, token).is_ok() {
            return Ok(());
        }
        self.refresh_or_end().await?;
        may_write(&self.record, self.revision, token).map_err(|refusal| self.explained(refusal).into())
    }

    /// Completes a conflict with what the clocks say.
    pub(super) fn explained(&self, mut error: Error) -> Error {
        let held_for_ms = self.record.lock.as_ref().and_then(|lock| held_for_ms(&lock.acquired_at));
        explain(&mut error, held_for_ms, self.lease_view().expires_in_ms);
        because(error, self.released_because.as_deref())
    }
}

/// How long ago `since` was by this machine's clock. For people: nothing is decided by it.
fn held_for_ms(since: &str) -> Option<u64> {
    let since: jiff::Timestamp = since.parse().ok()?;
    u64::try_from(chance::now().as_millisecond() - since.as_millisecond()).ok()
}

/// The event of a change that `letter` asked for, with who asked as nats-server tells it.
pub(super) fn with_proven_actor(event: OpEvent, letter: &Letter) -> OpEvent {
    OpEvent { actor_proven: letter.actor_proven.clone(), ..event }
}

pub(super) fn chosen_id(own: Option<&str>, letter: &Letter) -> RequestId {
    own.and_then(|id| RequestId::parse(id).ok()).unwrap_or_else(|| letter.request_id.clone())
}

pub(crate) fn done<T: Serialize>(reply: &T) -> Answer {
    match serde_json::to_vec(reply) {
        Ok(json) => Answer::Done(json.into()),
        Err(error) => Answer::Refused(Box::new(Error::new(Reason::Bug, error.to_string()))),
    }
}

impl Agent {
    /// A letter that may end the session.
    pub(super) async fn stand_alone(&mut self, letter: Letter) -> Flow {
        // Nobody waits for it, and who builds the state again looks anyway.
        if matches!(letter.call, Call::Look) {
            return self.look().await;
        }
        if self.is_of_another_life(&letter) {
            letter.reply.send(Answer::Moved).await;
            return Ok(());
        }
        if let Err(end) = self.expire_before(&letter).await {
            answer_end(&self.key, vec![letter], &end).await;
            return Err(end);
        }
        if let Err(stop) = self.settle().await {
            return match stop.refusal() {
                Ok(error) => {
                    letter.reply.send(refused(&error, &letter.request_id)).await;
                    Ok(())
                }
                Err(end) => {
                    answer_end(&self.key, vec![letter], &end).await;
                    Err(end)
                }
            };
        }
        match &letter.call {
            Call::Activate(given) => {
                let given = given.clone();
                self.be_there(letter, &given).await
            }
            Call::Handover => self.hand_over(letter).await,
            Call::Verb(Verb::DocSave) => self.save(letter).await,
            Call::Passivate(why) => {
                let why = why.clone();
                self.passivate(letter, why).await
            }
            _ => self.close(letter).await,
        }
    }

    /// A coordinator says that the session is here, and perhaps what it begins with.
    async fn be_there(&mut self, letter: Letter, given: &Activate) -> Flow {
        let record = &given.hint.record;
        if given.hint.revision <= self.revision && record.log_after != self.record.log_after {
            // What an earlier session of this id began with.
            letter.reply.send(Answer::Moved).await;
            return Ok(());
        }
        let begun = match self.adopt(record.clone(), given.hint.revision) {
            Standing::Gone if record.is_owned_by(&self.core.config.name, self.core.boot) => {
                // The session went away and came back, and this agent was not told.
                self.forward = Some(Box::new(letter));
                return Err(End::Moved);
            }
            Standing::Gone => Err(self.gone()),
            Standing::Owner if given.content.is_none() => Ok(()),
            Standing::Owner => self.begin(given.content.as_ref(), given.request_id.clone()).await,
        };
        self.touch();
        match begun {
            Ok(()) => {
                letter.reply.send(Answer::Done("{}".into())).await;
                Ok(())
            }
            Err(end) => {
                answer_end(&self.key, vec![letter], &end).await;
                Err(end)
            }
        }
    }
}
