//! What a client does with a lock.

use std::time::Duration;

use holdfast_protocol::subject::Verb;
use serde_json::{Value, json};

use super::client::Worker;
use crate::client::Reply;

impl Worker {
    fn acquire_body(&mut self, id: &str) -> Value {
        let owner = &self.caller.name;
        let mut body = json!({ "owner": owner });
        let token = self.known(id).token.clone();
        let dice = &mut self.caller.dice;
        if dice.happens(700) {
            body["ttl_ms"] = json!(1_000 + dice.below(4_000));
        }
        if dice.happens(600) {
            body["wait_ms"] = json!(500 + dice.below(5_000));
        }
        if let Some(token) = token.filter(|_| dice.happens(250)) {
            body["expected_token"] = json!(token);
            if dice.happens(500) {
                body["rotate"] = json!(true);
            }
        }
        body
    }

    pub(super) async fn acquire(&mut self, id: &str) {
        let body = self.acquire_body(id);
        if let Reply::Done(grant) = self.ask(Verb::LockAcquire, id, body).await {
            self.known(id).token = grant["lock_token"].as_str().map(str::to_owned);
        }
    }

    /// Asks for the lock and goes away.
    pub(super) async fn leave(&mut self, id: &str) {
        let mut body = self.acquire_body(id);
        body["wait_ms"] = json!(3_000 + self.caller.dice.below(5_000));
        let after = Duration::from_millis(self.caller.dice.below(2_000));
        self.caller.ask_and_leave(Verb::LockAcquire, id, body, after).await;
    }

    pub(super) async fn release(&mut self, id: &str) {
        let Some(token) = self.known(id).token.clone() else { return };
        let reply = self.ask(Verb::LockRelease, id, json!({ "token": token })).await;
        if matches!(reply, Reply::Done(_)) && self.caller.dice.happens(800) {
            self.known(id).token = None;
        }
    }

    pub(super) async fn renew(&mut self, id: &str) {
        if let Some(token) = self.known(id).token.clone() {
            self.ask(Verb::LockRenew, id, json!({ "token": token })).await;
        }
    }

    pub(super) async fn validate(&mut self, id: &str) {
        if let Some(token) = self.known(id).token.clone() {
            self.ask(Verb::LockValidate, id, json!({ "token": token })).await;
        }
    }
}
