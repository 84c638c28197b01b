//! What a busy installation does: sessions opened, locked, edited, taken over, moved, reclaimed and closed by many
//! clients at once, each of which insists until it knows what became of its request.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use futures_util::future::join_all;
use holdfast_tests::fleet::{Fleet, Reply};
use serde_json::{Value, json};

/// Sessions that are worked on side by side.
const SESSIONS: usize = 6;
/// How often each session goes through everything.
const ROUNDS: usize = 4;
/// Edits of each client in each round.
const EDITS: usize = 12;

/// What was asked for and what was answered.
#[derive(Default)]
pub(super) struct Work {
    seen: Mutex<Seen>,
    next: AtomicUsize,
    is_disturbed: AtomicBool,
}

#[derive(Default)]
struct Seen {
    tokens: BTreeSet<String>,
    /// Requests that changed a document, by session.
    changes: BTreeMap<String, BTreeSet<String>>,
    errors: Vec<String>,
    /// Sessions that are there at the end.
    alive: BTreeSet<String>,
}

impl Work {
    /// Does it all, and `disturb` in the middle; goes on until that is over.
    pub(super) async fn be_done(&self, fleet: &Fleet, disturb: impl AsyncFnOnce(&Fleet)) {
        let sessions = join_all((0..SESSIONS).map(|n| self.session(fleet, format!("s{n}"))));
        let disturbance = async {
            disturb(fleet).await;
            self.is_disturbed.store(true, Ordering::Relaxed);
        };
        tokio::join!(sessions, disturbance);
    }

    /// Requests that changed documents, by session.
    pub(super) fn changes(&self) -> BTreeMap<String, BTreeSet<String>> {
        self.seen().changes.clone()
    }

    /// All tokens that were granted.
    pub(super) fn tokens(&self) -> BTreeSet<String> {
        self.seen().tokens.clone()
    }

    /// All refusals, as they came.
    pub(super) fn errors(&self) -> Vec<String> {
        self.seen().errors.clone()
    }

    /// The revision of each document that is there.
    pub(super) async fn documents(&self, fleet: &Fleet) -> BTreeMap<String, u64> {
        let mut documents = BTreeMap::new();
        let alive = self.seen().alive.clone();
        for id in alive {
            let document = self.insist(fleet, "doc.get", &id, json!({"consistency": "linearizable"})).await.ok();
            documents.insert(id, document["revision"].as_u64().unwrap());
        }
        documents
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn request_id(&self) -> String {
        format!("request-{}", self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Asks with one `request_id` until the answer is more than "ask again".
    async fn insist(&self, fleet: &Fleet, verb: &str, id: &str, mut body: Value) -> Reply {
        let request_id = self.request_id();
        body["request_id"] = json!(request_id);
        let reply = fleet.insist(verb, id, &body, |reply| {
            if reply.number.is_some() {
                self.seen().errors.push(reply.body.to_string());
            }
        });
        let reply = reply.await;
        if let Some(token) = reply.body["lock_token"].as_str() {
            self.seen().tokens.insert(token.to_owned());
        }
        if reply.number.is_none() && matches!(verb, "doc.edit" | "doc.undo" | "doc.redo") {
            self.seen().changes.entry(id.to_owned()).or_default().insert(request_id);
        }
        reply
    }

    async fn session(&self, fleet: &Fleet, id: String) {
        let id = id.as_str();
        self.insist(fleet, "session.open", "", json!({ "id": id })).await.ok();
        self.seen().alive.insert(id.to_owned());
        for round in 0..ROUNDS {
            self.round(fleet, id, round).await;
        }
        while !self.is_disturbed.load(Ordering::Relaxed) {
            join_all((0..2).map(|_| self.edit(fleet, id, None))).await;
        }
        if id.ends_with(['1', '2', '3']) {
            self.insist(fleet, "session.close", id, json!({"actor": "janitor"})).await.ok();
            self.seen().alive.remove(id);
        }
        if id.ends_with('1') {
            let opened = self.insist(fleet, "session.open", "", json!({"id": id, "mode": "create"})).await.ok();
            assert_eq!(opened["created"], true);
            self.seen().alive.insert(id.to_owned());
            self.edit(fleet, id, None).await;
        }
    }

    async fn round(&self, fleet: &Fleet, id: &str, round: usize) {
        let free = (0..3).map(async |_| {
            for _ in 0..EDITS {
                self.edit(fleet, id, None).await;
            }
        });
        join_all(free).await;
        let owner = format!("client-{round}");
        let acquire = json!({"owner": owner, "actor": "tester", "ttl_ms": 60_000});
        let grant = self.insist(fleet, "lock.acquire", id, acquire).await.ok();
        let token = grant["lock_token"].as_str().unwrap().to_owned();
        let holder = async {
            for _ in 0..EDITS {
                self.edit(fleet, id, Some(&token)).await;
            }
            self.insist(fleet, "doc.undo", id, json!({ "token": token })).await.ok();
            self.insist(fleet, "doc.redo", id, json!({ "token": token })).await.ok();
        };
        let rival = async {
            for _ in 0..3 {
                let acquire = json!({"owner": "rival", "actor": "tester"});
                self.insist(fleet, "lock.acquire", id, acquire).await.refused("conflict", "lock_held");
                let edit = json!({"body": "mine", "token": "hft_0000000000000000000000000000000000000000"});
                self.insist(fleet, "doc.edit", id, edit).await.refused("conflict", "stale_token");
            }
        };
        tokio::join!(holder, rival);
        let rotate = json!({"owner": owner, "expected_token": token, "rotate": true});
        let rotated = self.insist(fleet, "lock.acquire", id, rotate).await.ok();
        match round {
            0 => {
                let takeover = json!({"owner": "ops", "reason": "stuck", "actor": "admin"});
                self.insist(fleet, "admin.takeover", id, takeover).await.ok();
                self.insist(fleet, "doc.edit", id, json!({"token": token, "body": "x"}))
                    .await
                    .refused("conflict", "stale_token");
                self.insist(fleet, "admin.unlock", id, json!({"reason": "done"})).await.ok();
            }
            _ => {
                self.insist(fleet, "lock.release", id, json!({"token": rotated["lock_token"]})).await.ok();
            }
        }
        if round == 1 {
            self.insist(fleet, "admin.move", id, json!({"reason": "balance"})).await.ok();
        }
        if round == 2 && id == "s0" {
            self.insist(fleet, "admin.reclaim", "", json!({"max_idle_ms": 0})).await.ok();
        }
    }

    async fn edit(&self, fleet: &Fleet, id: &str, token: Option<&str>) {
        let splice = json!([{"at": 0, "delete": 0, "insert": "x"}]);
        let mut edit = json!({"splices": splice, "actor": "tester"});
        if let Some(token) = token {
            edit["token"] = json!(token);
        }
        self.insist(fleet, "doc.edit", id, edit).await.ok();
    }
}
