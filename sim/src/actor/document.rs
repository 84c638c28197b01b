//! What a client does with a document.

use holdfast_protocol::subject::Verb;
use serde_json::json;

use super::client::Worker;
use crate::client::Reply;

impl Worker {
    pub(super) async fn change(&mut self, id: &str) {
        let dice = &mut self.caller.dice;
        // No two changes have the same text, so that a state tells which changes are in it.
        let text = format!("<{}-{}>", self.caller.name, dice.below(1_000_000_000));
        let (verb, mut body) = match dice.below(10) {
            0 => (Verb::DocUndo, json!({})),
            1 => (Verb::DocRedo, json!({})),
            2 | 3 => (Verb::DocEdit, json!({ "body": text })),
            4 => (Verb::DocEdit, json!({ "fields": { (text): 1, "a": null } })),
            5 => (Verb::DocEdit, json!({ "splices": [{ "at": dice.below(20), "delete": 1, "insert": "é" }] })),
            _ => (Verb::DocEdit, json!({ "splices": [{ "at": 0, "delete": 0, "insert": text }] })),
        };
        let (shows_revision, shows_token) = (dice.happens(200), dice.happens(900));
        let known = self.known(id).clone();
        if shows_revision {
            body["expected_revision"] = json!(known.revision);
        }
        if let Some(token) = known.token.filter(|_| shows_token) {
            body["token"] = json!(token);
        }
        let reply = self.ask(verb, id, body).await;
        match &reply {
            Reply::Done(edited) => self.known(id).revision = edited["revision"].as_u64().unwrap_or(0),
            // A token that lost is shown once more at times.
            Reply::Refused(_) if matches!(reply.reason(), Some("stale_token" | "not_locked")) => {
                if self.caller.dice.happens(700) {
                    self.known(id).token = None;
                }
            }
            Reply::Refused(_) | Reply::Nobody | Reply::Silence => {}
        }
    }

    pub(super) async fn read(&mut self, id: &str) {
        let consistency = if self.caller.dice.happens(500) { "linearizable" } else { "local" };
        let reply = self.ask(Verb::DocGet, id, json!({ "consistency": consistency })).await;
        if let Reply::Done(document) = reply {
            self.known(id).revision = document["revision"].as_u64().unwrap_or(0);
        }
    }
}
