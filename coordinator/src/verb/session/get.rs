//! `session.get`.

use holdfast_protocol::record::State;
use holdfast_protocol::reply::Session;
use holdfast_protocol::request::Empty;
use holdfast_protocol::{Error, SessionKey};

use crate::context::Context;
use crate::operation::Incoming;
use crate::response::Response;

/// Shows one session, read from the leader. Neither activates nor touches it.
pub(crate) async fn get(context: &Context, key: &SessionKey, incoming: &Incoming) -> Result<Response, Error> {
    let (_, operation) = incoming.parse::<Empty>(&context.config.limits)?;
    let known = context.records.read_record(key, operation.deadline).await?;
    if known.record.state == State::Closed {
        return Err(Error::no_session(key));
    }
    Response::of(&Session::of(&known.record, known.revision))
}
