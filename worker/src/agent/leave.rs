//! The ways out of memory: idle, passivated, handed over, closed. Nothing acknowledged is lost on any of them.
//!
//! Invariant: a session ends by `session.close` or by idleness that its agent judges itself. No other way out writes
//! `closed`, whatever `on_idle` says.

use std::time::Duration;

use holdfast_protocol::error::Reason;
use holdfast_protocol::record::{EventType, OnIdle, SessionRecord, State, Urgency};
use holdfast_protocol::reply::Closed;
use holdfast_protocol::request::{Close, Request, parse};
use holdfast_protocol::{Error, RequestId};
use holdfast_store::StoreError;
use tokio::time::Instant;

use super::commit::refused;
use super::end::answer_end;
use super::record::{Standing, storage_unavailable};
use super::step::{chosen_id, done};
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

    async fn leave_for(&mut self, why: &Passivation) -> Result<Left, End> {
        if matches!(why, Passivation::Reclaimed { max_idle_ms, .. } if self.idle_ms() < *max_idle_ms) {
            return Ok(Left::Stayed(None));
        }
        let (kind, state) = match self.closes_for(why) {
            true => (EventType::SessionClosed, State::Closed),
            false => (why.event(), State::Passive),
        };
        let event = self.event(kind, why.actor(), Some(why.reason()), None);
        self.leave(SessionRecord { state, owner: None, event, ..self.record.clone() }).await
    }

    /// Whether leaving for `why` ends the session: by idleness only, and never what is locked or what a file still
    /// lacks.
    fn closes_for(&self, why: &Passivation) -> bool {
        let is_wanted = self.record.config.on_idle == OnIdle::Close && why.is_idleness();
        let is_free = self.record.lock.is_none() && self.machine.unsaved_changes().is_none();
        is_wanted && is_free && self.doubt.is_none()
    }

    /// For how long nobody asked for anything.
    fn idle_ms(&self) -> u64 {
        self.core.now_ms().saturating_sub(self.status.activity_ms())
    }

    /// Compacts the log, then writes `next`, on the known revision only: a lock taken meanwhile means that somebody is there.
    async fn leave(&mut self, next: SessionRecord) -> Result<Left, End> {
        self.stay_until = Some(Instant::now() + STAY);
        if let Err(error) = self.compact().await {
            return self.stayed(error).await;
        }
        // An operator who insists is told that it is busy, and an idle session has time.
        if self.keep_pace().await.is_err() {
            return Ok(Left::Stayed(None));
        }
        match self.write_record(next, Urgency::Ordinary).await {
            Ok(()) => Ok(Left::Gone),
            Err(error) => self.stayed(error).await,
        }
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
        if let Err(error) = self.compact().await {
            // The next owner reads a longer log; nothing else is lost.
            tracing::debug!(session = %self.key, %error, "the log was not compacted before its handover");
        }
        letter.reply.send(Answer::Done("{}".into())).await;
        Err(End::HandedOver)
    }

    /// `session.close`
    pub(super) async fn close(&mut self, letter: Letter) -> Flow {
        let close = match parse::<Close>(&letter.payload, &self.core.limits) {
            Ok(close) => close,
            Err(error) => {
                let answer = refused(&error, &letter.request_id);
                letter.reply.send(answer).await;
                return Ok(());
            }
        };
        let request_id = chosen_id(close.request_id(), &letter);
        match self.try_close(&close, &request_id).await {
            Ok(Ok(())) => {
                letter.reply.send(done(&Closed { session_id: self.key.id.clone(), closed: true })).await;
                Err(End::Closed(Box::new(self.closing(Some(request_id)))))
            }
            Ok(Err(error)) => {
                let answer = refused(&error, &request_id);
                letter.reply.send(answer).await;
                Ok(())
            }
            Err(end) => {
                answer_end(&self.key, vec![letter], &end).await;
                Err(end)
            }
        }
    }

    async fn try_close(&mut self, close: &Close, request_id: &RequestId) -> Result<Result<(), Error>, End> {
        loop {
            let needs_token = self.record.lock.is_some() || close.token.is_some();
            if needs_token && let Err(error) = self.check_lock(close.token.as_deref()).await? {
                return Ok(Err(error));
            }
            if close.discard != Some(true)
                && let Some(refusal) = self.machine.unsaved_changes()
            {
                return Ok(Err(refusal));
            }
            let event = self.event(EventType::SessionClosed, close.actor.clone(), None, Some(request_id.clone()));
            let lock_revision = self.record.lock_revision + u64::from(self.record.lock.is_some());
            let next = SessionRecord {
                state: State::Closed,
                owner: None,
                lock: None,
                lock_revision,
                event,
                ..self.record.clone()
            };
            // It is decided again below if the record changed meanwhile.
            if let Err(error) = self.keep_pace().await {
                return Ok(Err(error));
            }
            let fence = self.revision;
            match self.write_record(next, Urgency::Ordinary).await {
                Ok(()) => return Ok(Ok(())),
                // The lock changed: ask again whether the token is good.
                Err(StoreError::Moved { .. }) => {
                    if let Err(error) = self.catch_up_past(fence).await? {
                        return Ok(Err(storage_unavailable(&error)));
                    }
                    if let Err(error) = self.settle().await? {
                        return Ok(Err(error));
                    }
                }
                Err(error) => return Ok(Err(storage_unavailable(&error))),
            }
        }
    }
}
