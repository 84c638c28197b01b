//! What everybody outside of Holdfast did and saw in one run: requests and their answers, faults, and who left.
//!
//! Invariant: written down in the moment in which it happens, so that the order of entries is that of the run.
//!
//! Deliberately absent: what Holdfast wrote. The storage and the net keep that themselves.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_protocol::subject::Verb;
use serde_json::Value;

use crate::client::Reply;

/// One request with all its copies.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its `request_id`.
    pub id: String,
    /// Who asks.
    pub client: String,
    /// What for.
    pub verb: Verb,
    /// The session that it names; empty: none.
    pub session: String,
    /// Its body.
    pub body: Value,
    /// Each time that it was sent.
    pub attempts: Vec<Attempt>,
}

impl Request {
    /// The token that it shows.
    pub fn token(&self) -> Option<&str> {
        self.body["token"].as_str()
    }

    /// The answers that say that it was done.
    pub fn done(&self) -> impl Iterator<Item = (&Attempt, &Value)> {
        self.attempts.iter().filter_map(|attempt| match &attempt.outcome {
            Outcome::Answered(Reply::Done(value)) => Some((attempt, value)),
            _ => None,
        })
    }
}

/// One copy of a request.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// When it was sent.
    pub sent: Duration,
    /// When its reply subject was gone: it was answered, or nobody waited any more.
    pub ended: Duration,
    /// Where its answer was to go.
    pub inbox: String,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of one copy of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It is still waited for.
    Open,
    /// An answer, or none in time.
    Answered(Reply),
    /// Whoever asked went away.
    Left,
}

/// What kind of fault somebody had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The net delays, doubles and misroutes.
    Net,
    /// The net also loses.
    Loss,
    /// The storage fails now and then.
    Storage,
    /// A record may be read as it was before its last revision, as a leader that was deposed has it.
    Stale,
    /// The link of this process is not up.
    Link(String),
    /// This process was killed or stopped; ends when another one has its place.
    Absent(String),
}

/// A fault and how long it was there.
#[derive(Clone, Debug)]
pub struct Trouble {
    /// What it was.
    pub fault: Fault,
    /// From when.
    pub from: Duration,
    /// Until when.
    pub until: Option<Duration>,
}

/// All that was seen.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// In the order of their first copies.
    pub requests: Vec<Request>,
    /// What else happened.
    pub notes: Vec<(Duration, String)>,
    /// Faults.
    pub troubles: Vec<Trouble>,
}

impl Seen {
    /// Whether there was no fault of which `matters` says so between `from` and `until`.
    pub fn is_calm(&self, from: Duration, until: Duration, matters: impl Fn(&Fault) -> bool) -> bool {
        let overlaps = |trouble: &Trouble| trouble.from <= until && trouble.until.is_none_or(|end| end >= from);
        !self.troubles.iter().any(|trouble| overlaps(trouble) && matters(&trouble.fault))
    }
}

/// One copy of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copy {
    request: usize,
    attempt: usize,
}

/// The history that is being written. Clones are the same one.
#[derive(Clone, Default)]
pub struct History(Arc<Mutex<Seen>>);

impl History {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of it so far.
    pub fn all(&self) -> Seen {
        self.seen().clone()
    }

    /// A new request, not yet sent; its number.
    pub fn request(&self, request: Request) -> usize {
        let mut seen = self.seen();
        seen.requests.push(request);
        seen.requests.len() - 1
    }

    /// Something about a request.
    pub fn look<T>(&self, request: usize, look: impl FnOnce(&Request) -> T) -> T {
        look(&self.seen().requests[request])
    }

    /// A copy of a request is sent.
    pub fn sent(&self, request: usize, at: Duration, inbox: &str) -> Copy {
        let attempt = Attempt { sent: at, ended: Duration::MAX, inbox: inbox.to_owned(), outcome: Outcome::Open };
        let attempts = &mut self.seen().requests[request].attempts;
        attempts.push(attempt);
        Copy { request, attempt: attempts.len() - 1 }
    }

    /// That is what came of it.
    pub fn ended(&self, copy: Copy, at: Duration, outcome: Outcome) {
        let attempt = &mut self.seen().requests[copy.request].attempts[copy.attempt];
        (attempt.ended, attempt.outcome) = (at, outcome);
    }

    /// Something else happened.
    pub fn note(&self, at: Duration, what: impl Into<String>) {
        self.seen().notes.push((at, what.into()));
    }

    /// A fault begins.
    pub fn begin(&self, at: Duration, fault: Fault) {
        let mut seen = self.seen();
        seen.notes.push((at, format!("fault begins: {fault:?}")));
        seen.troubles.push(Trouble { fault, from: at, until: None });
    }

    /// A fault ends.
    pub fn end(&self, at: Duration, fault: &Fault) {
        let mut seen = self.seen();
        let open = seen.troubles.iter_mut().filter(|trouble| trouble.until.is_none() && trouble.fault == *fault);
        let mut ends = false;
        for trouble in open {
            trouble.until = Some(at);
            ends = true;
        }
        if ends {
            seen.notes.push((at, format!("fault ends: {fault:?}")));
        }
    }
}
