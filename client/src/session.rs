//! `session.*`: open, get, list, touch, close.

use holdfast_protocol::reply::{Closed, Opened, Session, SessionPage, Touched};
use holdfast_protocol::request::{Close, Empty, List, Open};
use holdfast_protocol::subject::Verb;

use crate::call::Call;
use crate::client::{Client, SessionClient};

impl Client {
    /// Finds or creates a session.
    pub fn open(&self, open: Open) -> Call<Opened> {
        self.call(Verb::SessionOpen, &open)
    }

    /// One page of the namespace's sessions. It may have fewer sessions than requested, or none, and still have a
    /// `next`. A session that changes meanwhile may be on a later page again.
    pub fn list(&self, list: List) -> Call<SessionPage> {
        self.call(Verb::SessionList, &list)
    }
}

impl SessionClient {
    /// Shows the session, without activating or touching it.
    pub fn get(&self) -> Call<Session> {
        self.call(Verb::SessionGet, &Empty::default())
    }

    /// Counts as activity.
    pub fn touch(&self) -> Call<Touched> {
        self.call(Verb::SessionTouch, &Empty::default())
    }

    /// Closes the session.
    pub fn close(&self, close: Close) -> Call<Closed> {
        self.call(Verb::SessionClose, &close)
    }
}
