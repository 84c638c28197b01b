//! A client: it opens, reads, changes, locks and closes sessions, and asks for some of it again.

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_protocol::subject::Verb;
use serde_json::{Value, json};

use super::Caller;
use crate::client::Reply;

/// What a client knows of one session.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    /// The token of its last grant, good or not.
    pub(super) token: Option<String>,
    /// The document's revision.
    pub(super) revision: u64,
}

/// What a client knows.
pub(super) struct Worker {
    pub(super) caller: Caller,
    pub(super) known: BTreeMap<String, Known>,
    /// The cursor of the list that it reads.
    after: Option<Value>,
}

/// Has `caller` make `requests` requests.
pub async fn work(caller: Caller, requests: u64) {
    let mut client = Worker { caller, known: BTreeMap::new(), after: None };
    for _ in 0..requests {
        let pause = client.caller.world.plan.pause;
        client.caller.pause(pause).await;
        let id = client.session();
        match client.caller.dice.below(100) {
            0..=31 => client.change(&id).await,
            32..=43 => client.read(&id).await,
            44..=57 => client.acquire(&id).await,
            58..=63 => client.release(&id).await,
            64..=68 => client.renew(&id).await,
            69..=70 => client.validate(&id).await,
            71..=73 => client.leave(&id).await,
            74..=76 => client.touch(&id).await,
            77..=83 => client.open(&id).await,
            84..=86 => client.close(&id).await,
            87..=88 => client.look(&id).await,
            89 => client.list().await,
            _ => client.caller.again().await,
        }
        if client.caller.dice.happens(40) {
            client.caller.pause(Duration::from_secs(6)).await;
        }
    }
}

impl Worker {
    fn session(&mut self) -> String {
        let Caller { world, dice, .. } = &mut self.caller;
        world.plan.session(dice)
    }

    pub(super) fn known(&mut self, id: &str) -> &mut Known {
        self.known.entry(id.to_owned()).or_default()
    }

    /// Asks, and opens the session where there is none.
    pub(super) async fn ask(&mut self, verb: Verb, id: &str, body: Value) -> Reply {
        let reply = self.caller.ask(verb, id, body).await;
        if reply.reason() == Some("no_session") && self.caller.dice.happens(800) {
            self.open(id).await;
        }
        reply
    }

    async fn open(&mut self, id: &str) {
        let mode = ["ensure", "ensure", "create", "attach"][crate::plan::place(&mut self.caller.dice, 4)];
        let mut body = json!({ "id": id, "mode": mode });
        if mode != "attach" {
            body["config"] = self.caller.world.plan.config(id).clone();
            if self.caller.dice.happens(400) {
                let text = format!("began {} ", self.caller.dice.below(1_000_000));
                body["content"] = json!({ "body": text, "fields": { "a": 1 } });
            }
        }
        self.caller.ask(Verb::SessionOpen, id, body).await;
    }

    async fn close(&mut self, id: &str) {
        let mut body = json!({ "discard": true });
        if let Some(token) = self.known(id).token.clone() {
            body["token"] = json!(token);
        }
        if matches!(self.caller.ask(Verb::SessionClose, id, body).await, Reply::Done(_)) {
            self.known.remove(id);
        }
    }

    async fn touch(&mut self, id: &str) {
        self.ask(Verb::SessionTouch, id, json!({})).await;
    }

    async fn look(&mut self, id: &str) {
        self.ask(Verb::SessionGet, id, json!({})).await;
    }

    async fn list(&mut self) {
        let mut body = json!({ "limit": 1 + self.caller.dice.below(3) });
        if let Some(after) = self.after.take() {
            body["after"] = after;
        }
        if let Reply::Done(page) = self.caller.ask(Verb::SessionList, "", body).await {
            self.after = Some(page["next"].clone()).filter(|next| !next.is_null());
        }
    }
}
