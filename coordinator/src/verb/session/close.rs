//! `session.close`, as far as a coordinator has a part in it: late copies. The session's agent closes.

use holdfast_protocol::record::{EventType, State};
use holdfast_protocol::reply::Closed;
use holdfast_protocol::subject::Verb;
use holdfast_protocol::{Error, SessionKey};
use holdfast_records::Known;
use holdfast_rules::past::is_made_by;

use crate::context::Context;
use crate::operation::Incoming;
use crate::response::Response;

/// What a `session.close` is about.
pub(crate) enum Closing {
    /// A copy of it closed the session that it was meant for.
    Before,
    /// This one, as the leader has it.
    Now(Known),
}

/// Looks whether a copy of a `session.close` took effect before. The session that is there now may have been opened
/// since.
pub(crate) async fn closing(context: &Context, key: &SessionKey, incoming: &Incoming) -> Result<Closing, Error> {
    let operation = incoming.peeked();
    let known = context.records.read_record(key, operation.deadline).await?;
    // The first session of an id that is there was not closed.
    let may_have_closed = known.record.log_after > 0 || known.record.state == State::Closed;
    if operation.by_caller && may_have_closed {
        let past = context.records.past(key, known.revision, operation.deadline).await?;
        if past.was_closed_by(&operation.request_id) {
            return Ok(Closing::Before);
        }
    }
    Ok(Closing::Now(known))
}

pub(crate) fn closed(verb: Verb, key: &SessionKey, known: &Known, incoming: &Incoming) -> Result<Response, Error> {
    // Its first copy may have been at work while this one was under way.
    let by_this = || is_made_by(&known.record, &incoming.peeked().request_id, &[EventType::SessionClosed]);
    if verb == Verb::SessionClose && by_this() { was_closed(key) } else { Err(Error::no_session(key)) }
}

pub(crate) fn was_closed(key: &SessionKey) -> Result<Response, Error> {
    Response::of(&Closed { session_id: key.id.clone(), closed: true })
}
