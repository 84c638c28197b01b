//! Sends a request until its outcome is known, and clients that edit this way during faults.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::{Fleet, Reply};
use crate::wait::until_ok;

/// How long to wait for the answer to one copy of a request. Its connection may have broken.
const COPY_TIMEOUT: Duration = Duration::from_millis(2_500);
/// How long a request may take in total.
const PATIENCE: Duration = Duration::from_secs(60);

impl Fleet {
    /// Sends a request until the answer is final; `body` must have a `request_id`. `heard` gets every answer.
    ///
    /// # Panics
    /// When that takes too long.
    pub async fn insist(&self, verb: &str, id: &str, body: &Value, mut heard: impl FnMut(&Reply)) -> Reply {
        assert!(body["request_id"].is_string(), "without it {verb} would be made twice");
        let what = format!("{verb} of {id}");
        let reply = until_ok(&what, PATIENCE, async || {
            let copy = self.try_ask(verb, id, body, COPY_TIMEOUT).await;
            let reply = copy.map_err(|error| error.to_string())?;
            heard(&reply);
            match reply.body["error"]["code"].as_str() {
                Some("busy" | "unavailable" | "unknown_outcome") => Err(reply.body.to_string()),
                _ => Ok(reply),
            }
        });
        reply.await
    }
}

/// Clients that edit one session, each one edit after another, and insist on every edit.
#[derive(Default)]
pub struct Editors {
    made: AtomicUsize,
    is_over: AtomicBool,
    slowest: Mutex<Duration>,
}

impl Editors {
    /// Edits with clients of these numbers until [`Editors::stop`]. Each edit inserts `<client.edit>` at the beginning.
    pub async fn edit(&self, fleet: &Fleet, id: &str, clients: Range<usize>) {
        join_all(clients.map(|client| self.client(fleet, id, client))).await;
    }

    async fn client(&self, fleet: &Fleet, id: &str, client: usize) {
        for n in 0.. {
            if self.is_over.load(Ordering::Relaxed) {
                return;
            }
            let splice = json!([{"at": 0, "delete": 0, "insert": format!("<{client}.{n}>")}]);
            let edit = json!({"splices": splice, "request_id": format!("{id}-{client}-{n}")});
            let begin = Instant::now();
            fleet.insist("doc.edit", id, &edit, |_| ()).await.ok();
            let mut slowest = self.slowest.lock().unwrap_or_else(PoisonError::into_inner);
            *slowest = begin.elapsed().max(*slowest);
            self.made.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Stops editing.
    pub fn stop(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    /// How many edits were acknowledged.
    pub fn made(&self) -> usize {
        self.made.load(Ordering::Relaxed)
    }

    /// The longest time of an edit, with all its copies.
    pub fn slowest(&self) -> Duration {
        *self.slowest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `more` edits were acknowledged.
    pub async fn go_on(&self, more: usize) {
        let goal = self.made() + more;
        until_ok("edits to be acknowledged", PATIENCE, async || {
            if self.made() >= goal { Ok(()) } else { Err(format!("{} of {goal}", self.made())) }
        })
        .await;
    }

    /// Checks that the document has each acknowledged edit once, each client's in order, and nothing else.
    ///
    /// # Panics
    /// When that is not so.
    pub async fn assert_whole(&self, fleet: &Fleet, id: &str) {
        let read = json!({"consistency": "linearizable", "request_id": "read"});
        let document = fleet.insist("doc.get", id, &read, |_| ()).await.ok();
        assert_eq!(document["revision"].as_u64(), Some(self.made() as u64), "revisions and acknowledged edits");
        let body = document["body"].as_str().expect("a body");
        let mut next: std::collections::BTreeMap<&str, usize> = std::collections::BTreeMap::new();
        let edits: Vec<&str> = body.split(['<', '>']).filter(|part| !part.is_empty()).collect();
        assert_eq!(edits.len(), self.made(), "edits in the body");
        // The last edit is at the beginning.
        for edit in edits.iter().rev() {
            let (client, n) = edit.split_once('.').expect("client and number");
            let expected = next.entry(client).or_default();
            assert_eq!(n.parse(), Ok(*expected), "of client {client}");
            *expected += 1;
        }
    }
}
