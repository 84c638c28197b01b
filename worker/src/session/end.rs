//! How an agent ends, and what those are told whose letters still wait.
//!
//! Invariant: a letter that came in one life of a session never reaches the next one. It is refused when the session is
//! over, and sent to look again when its sender knows of the next.

use holdfast_protocol::record::State;
use holdfast_protocol::reply::Closed;
use holdfast_protocol::request::peek_request_id;
use holdfast_protocol::subject::Verb;
use holdfast_protocol::{Error, RequestId, Revision, SessionKey};

use super::commit::refused;
use super::decide::{chosen_id, done};
use super::{Agent, answer_all};
use crate::letter::{Answer, Call, Letter};

/// Why an agent ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The session is somebody else's, or nobody's.
    Moved,
    /// The session is over: what was asked before is not for one that is opened later under the same id.
    Closed(Box<Closing>),
    /// Somebody is about to give the session to another worker; the record does not say so yet.
    HandedOver,
    /// The session cannot be served: its record or log is broken, or its file cannot be read.
    Failed(Box<Error>),
    /// The session's machine panicked; the next request builds the session again from its log.
    Panicked,
}

/// The end of a session's life.
#[derive(Debug)]
pub(crate) struct Closing {
    /// The record's revision that says so, or the last one known before it.
    pub(crate) revision: Revision,
    /// The life that ended, as the record's `log_after`.
    pub(crate) life: u64,
    /// The request that closed it.
    pub(crate) request_id: Option<RequestId>,
}

impl Agent {
    /// `end`, or that the session itself has ended.
    pub(super) fn closed_or(&self, end: End) -> End {
        match end {
            End::Moved if self.record.state == State::Closed => End::Closed(Box::new(self.closing(None))),
            end => end,
        }
    }

    /// The session is not this agent's any more.
    pub(super) fn gone(&self) -> End {
        self.closed_or(End::Moved)
    }

    pub(super) fn closing(&self, request_id: Option<RequestId>) -> Closing {
        Closing { revision: self.revision, life: self.record.log_after, request_id }
    }
}

/// Answers what can no longer be served here.
pub(crate) async fn answer_end(key: &SessionKey, letters: Vec<Letter>, end: &End) {
    answer_all(letters, |letter| match end {
        End::Moved | End::HandedOver | End::Panicked => Answer::Moved,
        End::Closed(closing) => closing.answer(key, letter),
        End::Failed(error) => refused(error, &letter.request_id),
    })
    .await;
}

impl Closing {
    /// The answer to a letter that waited when the session ended.
    fn answer(&self, key: &SessionKey, letter: &Letter) -> Answer {
        let Call::Verb(verb) = letter.call else { return Answer::Moved };
        // Its sender has seen the next session of this id.
        if letter.revision > self.revision || letter.life.is_some_and(|life| life != self.life) {
            return Answer::Moved;
        }
        if verb == Verb::SessionClose && self.is_by(letter) {
            return done(&Closed { session_id: key.id.clone(), closed: true });
        }
        refused(&Error::no_session(key), &letter.request_id)
    }

    /// Whether `letter` is a copy of the request that closed the session.
    fn is_by(&self, letter: &Letter) -> bool {
        let own = peek_request_id(&letter.payload);
        self.request_id.as_ref().is_some_and(|closed_by| *closed_by == chosen_id(own.as_deref(), letter))
    }
}
