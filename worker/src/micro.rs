//! The micro service `holdfast-worker`: each worker answers `$SRV.PING`, `INFO` and `STATS` with its name and its boot,
//! so that `nats micro ls` shows the whole fleet. Source: ADR-32.
//!
//! It has no endpoints that others may ask: only coordinators ask agents. Coordinators ping `holdfast`, which is
//! another name, so a worker never answers them in a coordinator's place.

use holdfast_protocol::reply::WorkerState;
use holdfast_store::service::Question;
use serde_json::{Value, json};

/// The service's name.
pub(crate) const SERVICE: &str = "holdfast-worker";
const DESCRIPTION: &str = "hosts sessions of Holdfast; coordinators pass requests to it";

/// What a worker says about itself.
pub(crate) struct About<'a> {
    pub(crate) worker: &'a str,
    pub(crate) boot: String,
    pub(crate) root: &'a str,
    pub(crate) version: &'a str,
    pub(crate) state: WorkerState,
    /// The subject below which its agents are asked.
    pub(crate) agents: String,
    /// When it started, RFC 3339.
    pub(crate) started: &'a str,
    /// Messages to agents since then.
    pub(crate) letters: u64,
    /// Sessions in memory.
    pub(crate) sessions: usize,
    /// Bytes of messages that are not answered.
    pub(crate) waiting_bytes: usize,
}

impl About<'_> {
    /// The answer to `question`.
    pub(crate) fn answer(&self, question: Question) -> Value {
        let state = match self.state {
            WorkerState::Ready => "ready",
            WorkerState::Draining => "draining",
        };
        let metadata = json!({ "worker": self.worker, "boot": self.boot, "root": self.root, "state": state });
        let mut answer = question.answer(SERVICE, &self.boot, self.version, &metadata);
        match question {
            Question::Ping => {}
            Question::Info => {
                answer["description"] = json!(DESCRIPTION);
                answer["endpoints"] = json!([self.endpoint()]);
            }
            Question::Stats => {
                let mut endpoint = self.endpoint();
                endpoint["num_requests"] = json!(self.letters);
                // A client's error is counted by the coordinator that passes it on.
                endpoint["num_errors"] = json!(0);
                endpoint["last_error"] = json!("");
                endpoint["processing_time"] = json!(0);
                endpoint["average_processing_time"] = json!(0);
                endpoint["data"] = json!({ "sessions": self.sessions, "waiting_bytes": self.waiting_bytes });
                answer["started"] = json!(self.started);
                answer["endpoints"] = json!([endpoint]);
            }
        }
        answer
    }

    fn endpoint(&self) -> Value {
        json!({ "name": "agents", "subject": self.agents, "queue_group": "", "metadata": {} })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What async-nats' own service would say parses what this one says.
    #[test]
    fn answers_have_the_shape_of_the_client_librarys() {
        let about = About {
            worker: "w1",
            boot: "b1".to_owned(),
            root: "hf",
            version: "0.1.0",
            state: WorkerState::Draining,
            agents: "hf.sys.agent.w1.b1.>".to_owned(),
            started: "2026-11-22T12:00:00Z",
            letters: 7,
            sessions: 3,
            waiting_bytes: 1024,
        };
        let info: async_nats::service::Info = serde_json::from_value(about.answer(Question::Info)).unwrap();
        assert_eq!((info.name.as_str(), info.id.as_str(), info.endpoints.len()), (SERVICE, "b1", 1));
        let ping: async_nats::service::PingResponse = serde_json::from_value(about.answer(Question::Ping)).unwrap();
        assert_eq!((ping.metadata["worker"].as_str(), ping.metadata["state"].as_str()), ("w1", "draining"));
        let stats: async_nats::service::Stats = serde_json::from_value(about.answer(Question::Stats)).unwrap();
        assert_eq!(stats.endpoints[0].requests, 7);
        assert_eq!(stats.endpoints[0].data.as_ref().map(|data| data["sessions"].clone()), Some(json!(3)));
    }
}
