//! Asking until it is known what became of a request, and clients that do so with edits while something is broken.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::{Fleet, Reply};
use crate::wait::until_ok;

/// How long one copy of a request may stay unanswered. The connection may have been the one that broke.
const COPY_TIMEOUT: Duration = Duration::from_millis(2_500);
/// How long a request may take in all.
const PATIENCE: Duration = Duration::from_secs(60);

impl Fleet {
    /// Asks until the answer is more than "ask again"; `body` must have a `request_id`. `heard` gets every answer.
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

/// Clients that edit one session, one edit after the other each, and insist on every one.
#[derive(Default)]
pub struct Editors {
    made: AtomicUsize,
    is_over: AtomicBool,
    slowest: Mutex<Duration>,
}

impl Editors {
    /// Edits with clients of these numbers until [`Editors::stop`]. Each inserts `<client.edit>` in front.
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

    /// No more edits.
    pub fn stop(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    /// How many edits were acknowledged.
    pub fn made(&self) -> usize {
        self.made.load(Ordering::Relaxed)
    }

    /// The longest that an edit took, its copies included.
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

    /// Each acknowledged edit is in the document once, each client's in its order, and nothing else is.
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
        // The last one is in front.
        for edit in edits.iter().rev() {
            let (client, n) = edit.split_once('.').expect("client and number");
            let expected = next.entry(client).or_default();
            assert_eq!(n.parse(), Ok(*expected), "of client {client}");
            *expected += 1;
        }
    }
}
