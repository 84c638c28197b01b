//! The ways out of memory: idle, reclaimed, drained, handed over. Nothing acknowledged is lost on any of them.

use std::time::Duration;

use holdfast_protocol::error::Reason;
use holdfast_protocol::record::Urgency;
use holdfast_protocol::{Error, Revision};
use holdfast_records::{Change, Known, NotDone, change};
use holdfast_rules::{Author, Decision, passivate};
use holdfast_store::StoreError;
use holdfast_store::mutant::{self, Mutant};
use tokio::time::Instant;

use super::commit::refused;
use super::end::answer_end;
use super::record::{Standing, storage_unavailable};
use super::stop::Stop;
use super::writing::Writing;
use super::{Agent, End, Flow};
use crate::letter::{Answer, Letter, Passivation};

/// After a failed attempt to leave.
const STAY: Duration = Duration::from_secs(5);

/// What became of an attempt to leave.
enum Left {
    /// The record says so.
    Gone,
    /// Somebody wants the session after all, or the storage is away.
    Stayed(Option<StoreError>),
}

/// Takes the session out of memory, on the known revision only: a lock taken meanwhile means that somebody is there.
struct Leaving<'a> {
    at: Revision,
    why: &'a Passivation,
}

impl Change<Writing<'_>> for Leaving<'_> {
    type Reply = ();

    async fn decide(&self, writing: &Writing<'_>, known: &Known) -> Result<Decision<()>, Stop> {
        let agent = &writing.agent;
        let is_saved = agent.machine.unsaved_changes().is_none() && agent.doubt.is_none();
        let (who, reason) = (self.why.who(), self.why.reason());
        let author = Author {
            actor: who.and_then(|who| who.actor.as_deref()),
            actor_proven: who.and_then(|who| who.actor_proven.as_deref()),
            reason: Some(&reason),
            request_id: None,
        };
        let next = passivate::passivate(&known.record, self.why.cause(), is_saved, author);
        Ok(Decision::Commit { next: Box::new(next), reply: () })
    }

    fn pinned(&self) -> Option<Revision> {
        Some(self.at)
    }
}

impl Agent {
    /// Nobody asked for anything for long.
    pub(super) async fn leave_idle(&mut self) -> Flow {
        match self.leave_for(&Passivation::Idle).await? {
            Left::Gone => Err(End::Moved),
            Left::Stayed(error) => {
                if let Some(error) = error {
                    tracing::warn!(session = %self.key, %error, "an idle session could not leave yet");
                }
                Ok(())
            }
        }
    }

    /// Leaves memory because someone said so.
    pub(super) async fn passivate(&mut self, letter: Letter, why: Passivation) -> Flow {
        match self.leave_for(&why).await {
            Ok(Left::Gone) => {
                letter.reply.send(Answer::Done("{}".into())).await;
                Err(End::Moved)
            }
            Ok(Left::Stayed(error)) => {
                let error = error.as_ref().map_or_else(
                    || Error::new(Reason::MailboxFull, format!("session {} is in use", self.key.id)),
                    storage_unavailable,
                );
                let answer = refused(&error, &letter.request_id);
                letter.reply.send(answer).await;
                Ok(())
            }
            Err(end) => {
                answer_end(&self.key, vec![letter], &end).await;
                Err(end)
            }
        }
    }

    /// Compacts the log, then gives the session up.
    async fn leave_for(&mut self, why: &Passivation) -> Result<Left, End> {
        if matches!(why, Passivation::Reclaimed { max_idle_ms, .. } if self.idle_ms() < *max_idle_ms)
            && !mutant::is(Mutant::ReclaimOfBusy)
        {
            return Ok(Left::Stayed(None));
        }
        self.stay_until = Some(Instant::now() + STAY);
        if let Err(error) = self.compact().await {
            return self.stayed(error).await;
        }
        let deadline = Instant::now() + self.core.config.recover_timeout;
        let leaving = Leaving { at: self.revision, why };
        match change(&mut self.writing(Urgency::Ordinary, deadline), &leaving).await {
            Ok(_) => Ok(Left::Gone),
            Err(NotDone::Stopped(Stop::End(end))) => Err(end),
            Err(NotDone::Stopped(Stop::Storage(error))) => self.stayed(error).await,
            Err(NotDone::Moved) => self.stayed(StoreError::Moved { expected: leaving.at }).await,
            // The relay is behind. An operator who insists is told that it is busy, and an idle session has time.
            Err(NotDone::Stopped(Stop::Refused(_)) | NotDone::Refused(..)) => Ok(Left::Stayed(None)),
        }
    }

    /// For how long nobody asked for anything.
    fn idle_ms(&self) -> u64 {
        self.core.now_ms().saturating_sub(self.status.activity_ms())
    }

    async fn stayed(&mut self, error: StoreError) -> Result<Left, End> {
        match self.refresh().await {
            Ok(Standing::Gone) => Err(self.gone()),
            Ok(Standing::Owner) if matches!(error, StoreError::Moved { .. }) => Ok(Left::Stayed(None)),
            Ok(Standing::Owner) | Err(_) => Ok(Left::Stayed(Some(error))),
        }
    }

    async fn compact(&mut self) -> Result<(), StoreError> {
        if self.doubt.is_some() || !self.log.can_shrink() {
            return Ok(());
        }
        self.append_snapshot().await
    }

    /// Finishes, so that the coordinator that asked can give the session to another.
    pub(super) async fn hand_over(&mut self, letter: Letter) -> Flow {
        if mutant::is(Mutant::MoveThatCloses) {
            return self.passivate(letter, Passivation::Idle).await;
        }
        if let Err(error) = self.compact().await {
            // The next owner reads a longer log; nothing else is lost.
            tracing::debug!(session = %self.key, %error, "the log was not compacted before its handover");
        }
        letter.reply.send(Answer::Done("{}".into())).await;
        Err(End::HandedOver)
    }
}
