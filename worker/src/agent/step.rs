//! One request after the other: parse, remember, check the lock, decide, stage.
//!
//! Invariant: a yes is proven by the frame that carries it; a no about the lock is decided on a fresh read of the record.

use holdfast_protocol::error::Reason;
use holdfast_protocol::frame::Op;
use holdfast_protocol::internal::Activate;
use holdfast_protocol::reply::{Renewed, Touched};
use holdfast_protocol::request::{Empty, Request, ShowToken, parse};
use holdfast_protocol::subject::Verb;
use holdfast_protocol::{Error, RequestId, lock};
use holdfast_store::chance;
use serde::Serialize;
use serde_json::value::RawValue;

use super::commit::{Batch, Staged, refused, with_copies};
use super::end::answer_end;
use super::record::Standing;
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
        if let Err(error) = self.catch_up(letter).await? {
            return Ok(Verdict::Now(refused(&error, &letter.request_id)));
        }
        match &letter.call {
            // What a client did to the lock counts as activity where it is adopted; the hint itself does not.
            Call::Hint(hint) => match self.adopt(hint.record.clone(), hint.revision) {
                Standing::Owner => Ok(Verdict::Now(Answer::Done("{}".into()))),
                Standing::Gone => Err(self.gone()),
            },
            Call::CatchUp => Ok(Verdict::Now(Answer::Done("{}".into()))),
            Call::Verb(Verb::SessionTouch) => Ok(Verdict::Now(self.decide_touch(letter))),
            Call::Verb(_) => self.decide_renew(letter).await,
            // They end a batch before they come here, or are answered without the mailbox.
            Call::Activate(_) | Call::Handover | Call::Passivate(_) | Call::Look | Call::Lease => {
                Ok(Verdict::Now(Answer::Moved))
            }
        }
    }

    /// Whether a request was meant for an earlier or later session of this id.
    fn is_of_another_life(&self, letter: &Letter) -> bool {
        matches!(letter.call, Call::Verb(_)) && letter.life.is_some_and(|life| life != self.record.log_after)
    }

    /// What an earlier copy of the request was answered.
    pub(super) fn remembered(&self, request_id: &RequestId) -> Option<String> {
        let reply = self.answered.get(request_id)?;
        let is_whole = reply.get() != RawValue::NULL.get();
        Some(if is_whole { reply.get().to_owned() } else { self.machine.view().get().to_owned() })
    }

    /// Learns of the record what the letter's sender knew.
    pub(super) async fn catch_up(&mut self, letter: &Letter) -> Result<Result<(), Error>, End> {
        if letter.revision <= self.revision {
            return Ok(Ok(()));
        }
        self.refresh_or_end().await
    }

    fn decide_touch(&self, letter: &Letter) -> Answer {
        match parse::<Empty>(&letter.payload, &self.core.limits) {
            Ok(_) => {
                self.touch();
                done(&Touched { session_id: self.key.id.clone(), state: self.record.state })
            }
            Err(error) => refused(&error, &letter.request_id),
        }
    }

    async fn decide_renew(&mut self, letter: &Letter) -> Result<Verdict, End> {
        let show = match parse::<ShowToken>(&letter.payload, &self.core.limits) {
            Ok(show) => show,
            Err(error) => return Ok(Verdict::Now(refused(&error, &letter.request_id))),
        };
        let request_id = chosen_id(show.request_id(), letter);
        // Nothing proves this yes but the record itself.
        if let Err(error) = self.refresh_or_end().await? {
            return Ok(Verdict::Now(refused(&error, &request_id)));
        }
        let proven =
            lock::prove(&self.record, self.revision, &show.token).map(|lock| (lock.owner.clone(), lock.revision));
        Ok(Verdict::Now(match proven {
            Ok((owner, lock_revision)) => {
                self.touch();
                self.renew_lock_clock();
                let expires_in_ms = self.lease_view().expires_in_ms;
                done(&Renewed { session_id: self.key.id.clone(), owner, lock_revision, expires_in_ms })
            }
            Err(error) => refused(&self.explained(error), &request_id),
        }))
    }

    async fn decide_request(&mut self, verb: Verb, letter: &Letter, batch: &Batch) -> Result<Verdict, End> {
        let ask = match self.machine.parse(verb, &letter.payload) {
            Ok(ask) => ask,
            Err(error) => return Ok(Verdict::Now(refused(&error, &letter.request_id))),
        };
        self.touch();
        let request_id = ask.request_id.clone().unwrap_or_else(|| letter.request_id.clone());
        let no = |error: &Error| Ok(Verdict::Now(refused(error, &request_id)));
        if matches!(ask.access, Access::Write { .. }) {
            // Whatever has happened to lock and owner since.
            if let Some(reply) = self.remembered(&request_id) {
                return Ok(Verdict::Now(Answer::Done(reply.into())));
            }
            if let Some(place) = batch.staged.iter().position(|staged| staged.request_id == request_id) {
                return Ok(Verdict::CopyOf(place));
            }
        }
        if let Err(error) = self.catch_up(letter).await? {
            return no(&error);
        }
        if let Access::Write { token } = &ask.access
            && let Err(error) = self.check_lock(token.as_deref()).await?
        {
            return no(&error);
        }
        if ask.access == Access::Read && !self.core.health.is_confirmed() {
            let message = "this worker cannot prove that it still owns the session";
            return no(&Error::new(Reason::LeaseLost, message).retry_after_ms(Some(1000)));
        }
        // Somebody may have moved the session, and not have reached this worker to tell it.
        if ask.access == Access::Read
            && !self.is_proven()
            && let Err(error) = self.refresh_or_end().await?
        {
            return no(&error);
        }
        match self.machine.decide(&ask).await {
            Ok(Decision::Reply(reply)) if ask.access == Access::Read && batch.ops.is_empty() => {
                Ok(Verdict::Now(Answer::Done(reply.get().to_owned().into())))
            }
            // A read behind changes of its own batch must not be answered before they are committed.
            Ok(decision) => Ok(Verdict::Stage { ask: Box::new(ask), request_id, decision: Ok(decision) }),
            Err(error) => {
                // What could not be read is worth a look.
                self.look_due |= verb == Verb::DocLoad;
                // So must a refusal behind such changes; any other is good if this agent still owns the session.
                if batch.ops.is_empty() {
                    if let Err(unread) = self.refresh_or_end().await? {
                        return no(&unread);
                    }
                    if self.doubt.is_none() {
                        return no(&error);
                    }
                }
                Ok(Verdict::Stage { ask: Box::new(ask), request_id, decision: Err(error) })
            }
        }
    }

    /// Whether a change may be made with `token`; a no is asked of the record itself.
    pub(super) async fn check_lock(&mut self, token: Option<&str>) -> Result<Result<(), Error>, End> {
        if lock::may_write(&self.record, self.revision, token).is_ok() {
            return Ok(Ok(()));
        }
        if let Err(error) = self.refresh_or_end().await? {
            return Ok(Err(error));
        }
        let checked = lock::may_write(&self.record, self.revision, token);
        Ok(checked.map_err(|error| self.explained(error)))
    }

    /// Completes a conflict with what the clocks say.
    fn explained(&self, mut error: Error) -> Error {
        let held_for_ms = self.record.lock.as_ref().and_then(|lock| held_for_ms(&lock.acquired_at));
        lock::explain(&mut error, held_for_ms, self.lease_view().expires_in_ms);
        error
    }
}

/// How long ago `since` was by this machine's clock. For people: nothing is decided by it.
fn held_for_ms(since: &str) -> Option<u64> {
    let since: jiff::Timestamp = since.parse().ok()?;
    u64::try_from(chance::now().as_millisecond() - since.as_millisecond()).ok()
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
        match self.settle().await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let answer = refused(&error, &letter.request_id);
                letter.reply.send(answer).await;
                return Ok(());
            }
            Err(end) => {
                answer_end(&self.key, vec![letter], &end).await;
                return Err(end);
            }
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
