//! A kind of session that never answers a change: the bug that the health check of sessions is for.

use async_trait::async_trait;
use holdfast_protocol::document::Content;
use holdfast_protocol::error::Reason;
use holdfast_protocol::subject::Verb;
use holdfast_protocol::{Error, SessionRecord};
use holdfast_worker::machine::{Access, Ask, Change, Decision, Kind, Machine, Surroundings};
use serde_json::value::RawValue;

/// Makes such sessions.
pub struct StuckKind;

impl Kind for StuckKind {
    fn create(&self, _: &SessionRecord, _: Surroundings) -> Box<dyn Machine> {
        Box::new(Stuck)
    }
}

struct Stuck;

#[async_trait]
impl Machine for Stuck {
    fn parse(&self, verb: Verb, _: &[u8]) -> Result<Ask, Error> {
        match verb {
            Verb::DocEdit => {
                let access = Access::Write { token: None };
                Ok(Ask { verb, access, request_id: None, actor: None, body: Box::new(()) })
            }
            verb => Err(Error::invalid(Reason::BadValue, format!("{verb} is not answered"))),
        }
    }

    async fn decide(&self, _: &Ask) -> Result<Decision, Error> {
        std::future::pending().await
    }

    async fn begin(&self, _: Option<&Content>) -> Result<Option<Change>, Error> {
        Ok(None)
    }

    fn apply(&mut self, _: &RawValue) -> Result<(), Error> {
        Ok(())
    }

    fn snapshot(&self) -> Box<RawValue> {
        self.view()
    }

    fn restore(&mut self, _: &RawValue) -> Result<(), Error> {
        Ok(())
    }

    fn view(&self) -> Box<RawValue> {
        RawValue::from_string("{}".to_owned()).expect("it is JSON")
    }

    fn revision(&self) -> u64 {
        0
    }
}
