//! `session.close`: recognises late copies.
//!
//! Deliberately absent: closing, which the session's agent does.

use holdfast_protocol::record::{EventType, State};
use holdfast_protocol::reply::Closed;
use holdfast_protocol::subject::Verb;
use holdfast_protocol::{Error, SessionKey};
use holdfast_records::Known;
use holdfast_rules::past::is_made_by;
use holdfast_store::mutant::{self, Mutant};

use crate::context::Context;
use crate::operation::Incoming;
use crate::response::Response;

/// Which session a `session.close` is meant for.
pub(crate) enum Closing {
    /// One that an earlier copy of the request has closed.
    Before,
    /// The current one, read from the leader.
    Now(Known),
}

/// Finds out whether an earlier copy of this `session.close` took effect. The current session may have been opened
/// since.
pub(crate) async fn closing(context: &Context, key: &SessionKey, incoming: &Incoming) -> Result<Closing, Error> {
    let operation = incoming.peeked();
    let known = context.records.read_record(key, operation.deadline).await?;
    // If this is the first session of its id and is not closed, nothing was closed before.
    let may_have_closed = known.record.log_after > 0 || known.record.state == State::Closed;
    if operation.by_caller && may_have_closed && !mutant::is(Mutant::LateCloseClosesNext) {
        let past = context.records.past(key, known.revision, operation.deadline).await?;
        if past.was_closed_by(&operation.request_id) {
            return Ok(Closing::Before);
        }
    }
    Ok(Closing::Now(known))
}

pub(crate) fn closed(verb: Verb, key: &SessionKey, known: &Known, incoming: &Incoming) -> Result<Response, Error> {
    // An earlier copy may have closed it while this one was on its way.
    let by_this = || is_made_by(&known.record, &incoming.peeked().request_id, &[EventType::SessionClosed]);
    if verb == Verb::SessionClose && by_this() { was_closed(key) } else { Err(Error::no_session(key)) }
}

pub(crate) fn was_closed(key: &SessionKey) -> Result<Response, Error> {
    Response::of(&Closed { session_id: key.id.clone(), closed: true })
}
