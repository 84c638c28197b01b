//! `session.list`: pages of sessions in the order of their ids.
//!
//! Deliberately absent: a consistent view. Records are read in bulk from any replica, so one that changed a moment ago may
//! be shown as it was; `session.get` asks the leader.

use std::collections::HashMap;

use holdfast_protocol::record::State;
use holdfast_protocol::reply::{Session, SessionPage};
use holdfast_protocol::request::List;
use holdfast_protocol::{Error, Namespace, Reason, SessionId, SessionKey, SessionRecord, WorkerName};
use holdfast_store::{StoreError, Stored};
use tokio::time::timeout_at;

use crate::answer::Answer;
use crate::call::{Call, Incoming};
use crate::error;
use crate::hub::Hub;

/// Page size when the request has none.
const DEFAULT_LIMIT: u64 = 100;
/// How many records are read at once.
const CHUNK: usize = 250;
/// Where a page ends before it has its number of sessions, so that it fits into one message.
const PAGE_BYTES: usize = 700 * 1024;

/// Lists a namespace's sessions. Closed ones are shown when they are asked for.
pub(crate) async fn list(hub: &Hub, namespace: &Namespace, incoming: &Incoming) -> Result<Answer, Error> {
    let (request, call) = incoming.parse::<List>(&hub.config.limits)?;
    let limit = usize::try_from(request.limit.unwrap_or(DEFAULT_LIMIT)).unwrap_or(usize::MAX);
    let after = request.after.as_deref().map(cursor).transpose()?;
    let keys = in_time(&call, hub.store.keys(Some(namespace))).await?;
    let mut rest = behind(&keys, after.as_ref());
    let mut page = Page::new(limit);
    while !rest.is_empty() && !page.is_full() {
        let (chunk, later) = rest.split_at(rest.len().min(CHUNK));
        let stored = in_time(&call, hub.store.read_many(chunk)).await?;
        page.take(chunk, &stored, &request);
        rest = later;
        if call.left().is_zero() {
            break;
        }
    }
    Answer::of(&page.finish(&keys))
}

async fn in_time<T>(call: &Call, reading: impl Future<Output = Result<T, StoreError>>) -> Result<T, Error> {
    let late = |_| Err(StoreError::Unavailable("not in time".to_owned()));
    let read = timeout_at(call.deadline, reading).await.unwrap_or_else(late);
    read.map_err(|error| error::storage_unavailable(&format!("the sessions cannot be listed: {error}")))
}

fn cursor(after: &str) -> Result<SessionId, Error> {
    SessionId::parse(after).map_err(|_| {
        Error::invalid(Reason::BadValue, "after must be the `next` of the page before").detail("field", "after")
    })
}

/// Those behind the cursor. `keys` are in order.
fn behind<'a>(keys: &'a [SessionKey], after: Option<&SessionId>) -> &'a [SessionKey] {
    let first = after.map_or(0, |after| keys.partition_point(|key| key.id <= *after));
    &keys[first..]
}

/// A page as it grows.
struct Page {
    sessions: Vec<Session>,
    /// The last key that was looked at, whether it is shown or not.
    last: Option<SessionKey>,
    limit: usize,
    bytes: usize,
}

impl Page {
    fn new(limit: usize) -> Self {
        Self { sessions: Vec::new(), last: None, limit, bytes: 0 }
    }

    fn is_full(&self) -> bool {
        self.sessions.len() >= self.limit || self.bytes >= PAGE_BYTES
    }

    fn take(&mut self, chunk: &[SessionKey], stored: &[Stored], request: &List) {
        let stored: HashMap<&SessionKey, &Stored> = stored.iter().map(|stored| (&stored.key, stored)).collect();
        for key in chunk {
            if self.is_full() {
                return;
            }
            self.last = Some(key.clone());
            let Some(stored) = stored.get(key) else { continue };
            let Some(json) = &stored.value else { continue };
            match SessionRecord::from_json(json, key) {
                Ok(record) if is_wanted(&record, request) => {
                    self.bytes += json.len();
                    self.sessions.push(Session::of(&record, stored.revision));
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%key, %error, "left out of a list"),
            }
        }
    }

    fn finish(self, keys: &[SessionKey]) -> SessionPage {
        let is_end = self.last.is_none() || self.last.as_ref() == keys.last();
        SessionPage { sessions: self.sessions, next: self.last.filter(|_| !is_end).map(|key| key.id.to_string()) }
    }
}

fn is_wanted(record: &SessionRecord, request: &List) -> bool {
    let state = match request.state {
        Some(state) => record.state == state,
        None => record.state != State::Closed,
    };
    let on = |worker: &WorkerName| record.owner.as_ref().is_some_and(|owner| owner.worker == *worker);
    state && request.worker.as_ref().is_none_or(on)
}

#[cfg(test)]
mod tests {
    use holdfast_protocol::Revision;

    use super::*;
    use crate::fixture;

    fn stored(n: u64, record: &SessionRecord) -> Stored {
        Stored {
            key: record.key(),
            revision: Revision(n),
            value: Some(record.to_json().into()),
            write_id: Some("w".to_owned()),
            time: jiff::Timestamp::UNIX_EPOCH,
        }
    }

    fn pages(records: &[SessionRecord], request: &str, limit: usize) -> Vec<Vec<String>> {
        let request: List = serde_json::from_str(request).unwrap();
        let keys: Vec<SessionKey> = records.iter().map(SessionRecord::key).collect();
        let stored: Vec<Stored> = records.iter().map(|record| stored(1, record)).collect();
        let mut pages = Vec::new();
        let mut after = None;
        loop {
            let mut page = Page::new(limit);
            page.take(behind(&keys, after.as_ref()), &stored, &request);
            let SessionPage { sessions, next } = page.finish(&keys);
            pages.push(sessions.iter().map(|session| session.id.to_string()).collect());
            match next {
                Some(next) => after = Some(cursor(&next).unwrap()),
                None => return pages,
            }
        }
    }

    #[test]
    fn pages_join_up_without_gaps_and_end_with_the_last_session() {
        let records: Vec<SessionRecord> = ["a", "b", "c", "d", "e"].iter().map(|id| fixture::passive(id)).collect();
        assert_eq!(pages(&records, "{}", 2), [vec!["a", "b"], vec!["c", "d"], vec!["e"]]);
        assert_eq!(pages(&records, "{}", 5), [["a", "b", "c", "d", "e"]]);
        assert_eq!(pages(&[], "{}", 5), [Vec::<String>::new()]);
    }

    #[test]
    fn closed_sessions_are_shown_when_asked_for_and_filters_apply() {
        let records =
            [fixture::active("a", "w1"), fixture::closed("b"), fixture::passive("c"), fixture::active("d", "w2")];
        assert_eq!(pages(&records, "{}", 10), [["a", "c", "d"]]);
        assert_eq!(pages(&records, r#"{"state":"closed"}"#, 10), [["b"]]);
        assert_eq!(pages(&records, r#"{"state":"active","worker":"w2"}"#, 10), [["d"]]);
    }

    #[test]
    fn a_page_that_grows_too_large_ends_early_and_says_where() {
        let mut page = Page::new(1_000);
        page.bytes = PAGE_BYTES - 1;
        let records = [fixture::passive("a"), fixture::passive("b")];
        let keys: Vec<SessionKey> = records.iter().map(SessionRecord::key).collect();
        let both: Vec<Stored> = records.iter().map(|record| stored(1, record)).collect();
        page.take(&keys, &both, &serde_json::from_str("{}").unwrap());
        assert_eq!(page.finish(&keys).next.as_deref(), Some("a"));
    }

    #[test]
    fn a_record_that_does_not_parse_is_left_out() {
        let mut broken = stored(1, &fixture::passive("a"));
        broken.value = Some("nonsense".into());
        let mut page = Page::new(10);
        page.take(&[fixture::key("a")], &[broken], &serde_json::from_str("{}").unwrap());
        assert!(page.finish(&[fixture::key("a")]).sessions.is_empty());
    }
}
