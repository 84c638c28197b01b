//! An operator: takes locks over, frees them, moves and reclaims sessions, and drains workers.

use std::time::Duration;

use holdfast_protocol::subject::Verb;
use serde_json::json;

use super::Caller;
use crate::client::Reply;
use crate::plan::place;

/// Acts until the clients are done.
pub async fn operate(mut operator: Caller) {
    while !operator.world.is_over() {
        operator.pause(Duration::from_secs(4)).await;
        let id = operator.world.plan.session(&mut operator.dice);
        match operator.dice.below(100) {
            0..=19 => operator.take_over(&id).await,
            20..=37 => operator.unlock(&id).await,
            38..=57 => operator.move_away(&id).await,
            58..=67 => operator.reclaim().await,
            68..=84 => operator.drain().await,
            _ => operator.again().await,
        }
    }
}

impl Caller {
    /// What the lock revision is, for who wants to override only what it saw.
    async fn seen(&mut self, id: &str) -> Option<u64> {
        if !self.dice.happens(400) {
            return None;
        }
        let Reply::Done(session) = self.ask(Verb::SessionGet, id, json!({})).await else { return None };
        session["lock_revision"].as_u64()
    }

    async fn take_over(&mut self, id: &str) {
        let mut body = json!({ "owner": self.name, "reason": "stuck", "ttl_ms": 1_000 + self.dice.below(3_000) });
        if let Some(seen) = self.seen(id).await {
            body["expected_lock_revision"] = json!(seen);
        }
        self.ask(Verb::AdminTakeover, id, body).await;
    }

    async fn unlock(&mut self, id: &str) {
        let mut body = json!({ "reason": "stuck" });
        if let Some(seen) = self.seen(id).await {
            body["expected_lock_revision"] = json!(seen);
        }
        self.ask(Verb::AdminUnlock, id, body).await;
    }

    fn worker(&mut self) -> String {
        let workers = self.world.plan.workers;
        format!("w{}", 1 + place(&mut self.dice, workers))
    }

    async fn move_away(&mut self, id: &str) {
        let mut body = json!({ "reason": "rebalance" });
        if self.dice.happens(500) {
            body["worker"] = json!(self.worker());
        }
        self.ask(Verb::AdminMove, id, body).await;
    }

    async fn reclaim(&mut self) {
        let max_idle_ms = [0, 500, 3_000][place(&mut self.dice, 3)];
        self.ask(Verb::AdminReclaim, "", json!({ "max_idle_ms": max_idle_ms })).await;
    }

    /// Empties a worker for a while, or all of them, so that their sessions have nowhere to go.
    async fn drain(&mut self) {
        let workers = match self.dice.happens(300) {
            true => (1..=self.world.plan.workers).map(|n| format!("w{n}")).collect(),
            false => vec![self.worker()],
        };
        for worker in &workers {
            self.ask(Verb::WorkerDrain, worker, json!({ "reason": "new version" })).await;
        }
        self.pause(Duration::from_secs(3)).await;
        for worker in &workers {
            self.ask(Verb::WorkerUndrain, worker, json!({ "reason": "done" })).await;
        }
        if self.dice.happens(400) {
            self.again().await;
        }
    }
}
