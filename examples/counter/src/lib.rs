//! A kind of session of one's own: a counter. `doc.edit` adds to it, `doc.get` reads it.
//!
//! Invariant: the value after a log is the sum of the changes in it: `apply` only adds, and `decide` has refused
//! whatever would overflow.
//!
//! Deliberately absent: locks, retries, failover, signals and idleness. The agent around every machine does these.

use std::any::Any;

use async_trait::async_trait;
use holdfast_protocol::document::Content;
use holdfast_protocol::error::Reason;
use holdfast_protocol::frame::OpEvent;
use holdfast_protocol::request::{Consistency, DocGet, Request, parse};
use holdfast_protocol::subject::Verb;
use holdfast_protocol::{Error, Limits, RequestId, SessionId, SessionRecord, Token};
use holdfast_worker::machine::{Access, Ask, Change, Decision, Kind, Machine, Memory, Surroundings};
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::{RawValue, to_raw_value};

/// The name that `session.open` has in `kind`.
pub const NAME: &str = "counter";

/// Makes counters.
pub struct CounterKind;

impl Kind for CounterKind {
    fn create(&self, record: &SessionRecord, surroundings: Surroundings) -> Box<dyn Machine> {
        Box::new(Counter { id: record.id.clone(), limits: (*surroundings.limits).clone(), state: State::default() })
    }
}

struct Counter {
    id: SessionId,
    limits: Limits,
    state: State,
}

/// What a snapshot has.
#[derive(Default, Serialize, Deserialize)]
struct State {
    value: i64,
    revision: u64,
}

/// The body of `doc.edit`, and a change in the log.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Add {
    add: i64,
    #[serde(default, skip_serializing)]
    token: Option<Token>,
    #[serde(default, skip_serializing)]
    request_id: Option<String>,
    #[serde(default, skip_serializing)]
    actor: Option<String>,
}

impl Request for Add {
    fn request_id(&self) -> Option<&str> {
        self.request_id.as_deref()
    }

    fn actor(&self) -> Option<&str> {
        self.actor.as_deref()
    }

    fn check(&self, _limits: &Limits) -> Result<(), Error> {
        Ok(())
    }
}

impl Counter {
    fn add(&self, add: &Add, ask: &Ask) -> Result<Decision, Error> {
        let State { value, revision: previous_revision } = self.state;
        let Some(value) = value.checked_add(add.add) else {
            let message = format!("add: the counter is at {value}, and {} more do not fit", add.add);
            return Err(Error::invalid(Reason::BadValue, message).detail("field", "add"));
        };
        let revision = previous_revision + 1;
        let event = OpEvent {
            kind: "edited".to_owned(),
            revision,
            previous_revision,
            changed: vec!["value".to_owned()],
            actor: ask.actor.clone(),
            // The agent adds it.
            actor_proven: None,
            path: None,
            error: None,
        };
        let reply = json!({
            "session_id": self.id, "revision": revision, "previous_revision": previous_revision, "value": value,
        });
        let (change, reply) = (raw(add), raw(&reply));
        Ok(Decision::Change(Change { change, event: Some(event), reply, memory: Memory::Answer }))
    }
}

#[async_trait]
impl Machine for Counter {
    fn parse(&self, verb: Verb, payload: &[u8]) -> Result<Ask, Error> {
        match verb {
            Verb::DocGet => {
                let get: DocGet = parse(payload, &self.limits)?;
                let access = match get.consistency.unwrap_or_default() {
                    Consistency::Local => Access::Read,
                    Consistency::Linearizable => Access::LinearizableRead,
                };
                ask(verb, access, &get, ())
            }
            Verb::DocEdit => {
                let add: Add = parse(payload, &self.limits)?;
                ask(verb, Access::Write { token: add.token.clone() }, &add.clone(), add)
            }
            verb => Err(Error::invalid(Reason::BadValue, format!("a counter does not answer {verb}"))),
        }
    }

    async fn decide(&self, ask: &Ask) -> Result<Decision, Error> {
        match ask.body.downcast_ref::<Add>() {
            Some(add) => self.add(add, ask),
            None => Ok(Decision::Reply(self.view())),
        }
    }

    async fn begin(&self, content: Option<&Content>) -> Result<Option<Change>, Error> {
        match content {
            Some(_) => Err(Error::invalid(Reason::BadValue, "a counter begins at 0").detail("field", "content")),
            None => Ok(None),
        }
    }

    fn apply(&mut self, change: &RawValue) -> Result<(), Error> {
        let Add { add, .. } = stored(change)?;
        self.state.value += add;
        self.state.revision += 1;
        Ok(())
    }

    fn snapshot(&self) -> Box<RawValue> {
        raw(&self.state)
    }

    fn restore(&mut self, state: &RawValue) -> Result<(), Error> {
        self.state = stored(state)?;
        Ok(())
    }

    fn view(&self) -> Box<RawValue> {
        raw(&json!({ "session_id": self.id, "revision": self.state.revision, "value": self.state.value }))
    }

    fn revision(&self) -> u64 {
        self.state.revision
    }
}

fn ask(verb: Verb, access: Access, request: &impl Request, body: impl Any + Send + Sync) -> Result<Ask, Error> {
    let request_id = request.request_id().map(RequestId::parse).transpose()?;
    let actor = request.actor().map(str::to_owned);
    Ok(Ask { verb, access, request_id, actor, body: Box::new(body) })
}

fn raw(value: &impl Serialize) -> Box<RawValue> {
    to_raw_value(value).expect("numbers and strings are JSON")
}

fn stored<T: for<'de> Deserialize<'de>>(json: &RawValue) -> Result<T, Error> {
    let invalid = |error| Error::new(Reason::RecordInvalid, format!("the log is not one of a counter: {error}"));
    serde_json::from_str(json.get()).map_err(invalid)
}
