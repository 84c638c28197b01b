//! `session.close`.
//!
//! Invariant: it is decided on a state that the log has, and under the lock that the record has when it is written.

use holdfast_protocol::record::Urgency;
use holdfast_protocol::reply::Closed;
use holdfast_protocol::request::{Close, Request, parse};
use holdfast_protocol::{RequestId, Revision};
use holdfast_records::{Change, Known, NotDone, change};
use holdfast_rules::{Author, Decision, close};
use tokio::time::Instant;

use super::commit::refused;
use super::decide::{chosen_id, done};
use super::end::answer_end;
use super::stop::Stop;
use super::writing::Writing;
use super::{Agent, End, Flow};
use crate::letter::Letter;

/// Ends the session, as its state is at this revision of its record.
struct Closing<'a> {
    at: Revision,
    close: &'a Close,
    request_id: &'a RequestId,
    /// Who asked, as nats-server tells it.
    actor_proven: Option<&'a str>,
}

impl Change<Writing<'_>> for Closing<'_> {
    type Reply = Closed;

    async fn decide(&self, writing: &Writing<'_>, known: &Known) -> Result<Decision<Closed>, Stop> {
        let author = Author {
            actor: self.close.actor.as_deref(),
            actor_proven: self.actor_proven,
            reason: None,
            request_id: Some(self.request_id),
        };
        let unsaved = match self.close.discard {
            Some(true) => None,
            Some(false) | None => writing.agent.machine.unsaved_changes(),
        };
        Ok(close::close(&known.record, known.revision, self.close.token.as_deref(), unsaved, author))
    }

    fn pinned(&self) -> Option<Revision> {
        Some(self.at)
    }
}

impl Agent {
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
        let stop = match self.try_close(&close, &request_id, letter.actor_proven.as_deref()).await {
            Ok(closed) => {
                letter.reply.send(done(&closed)).await;
                return Err(End::Closed(Box::new(self.closing(Some(request_id)))));
            }
            Err(stop) => stop,
        };
        match stop.refusal() {
            Ok(error) => {
                letter.reply.send(refused(&error, &request_id)).await;
                Ok(())
            }
            Err(end) => {
                answer_end(&self.key, vec![letter], &end).await;
                Err(end)
            }
        }
    }

    async fn try_close(
        &mut self,
        close: &Close,
        request_id: &RequestId,
        actor_proven: Option<&str>,
    ) -> Result<Closed, Stop> {
        let deadline = Instant::now() + self.core.config.recover_timeout;
        loop {
            let closing = Closing { at: self.revision, close, request_id, actor_proven };
            match change(&mut self.writing(Urgency::Ordinary, deadline), &closing).await {
                Ok(done) => return Ok(done.reply),
                Err(NotDone::Refused(refusal, _)) => return Err(self.explained(*refusal).into()),
                Err(NotDone::Stopped(stop)) => return Err(stop),
                // The lock changed, or an operator edited the record: decided again, on a state that is sure.
                Err(NotDone::Moved) => {
                    self.catch_up_past(closing.at).await?;
                    self.settle().await?;
                }
            }
        }
    }
}
