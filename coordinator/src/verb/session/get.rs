//! `session.get`.

use holdfast_protocol::record::State;
use holdfast_protocol::reply::Session;
use holdfast_protocol::request::Empty;
use holdfast_protocol::{Error, SessionKey};

use crate::answer::Answer;
use crate::call::Incoming;
use crate::hub::Hub;

/// Shows one session, as the leader has it. Neither activates nor touches.
pub(crate) async fn get(hub: &Hub, key: &SessionKey, incoming: &Incoming) -> Result<Answer, Error> {
    let (_, call) = incoming.parse::<Empty>(&hub.config.limits)?;
    let known = hub.records.read_record(key, call.deadline).await?;
    if known.record.state == State::Closed {
        return Err(Error::no_session(key));
    }
    Answer::of(&Session::of(&known.record, known.revision))
}
