//! All pages of a namespace's sessions, as one list. The coordinators filter.
//!
//! Invariant: a session is shown once. If it is on several pages because it changed meanwhile, the last one counts.

use std::collections::HashMap;

use holdfast_client::Client;
use holdfast_client::protocol::SessionId;
use holdfast_client::protocol::reply::{Session, SessionPage};
use holdfast_client::protocol::request::List;

use crate::ask::Asker;
use crate::exit::Failure;

/// The largest page.
const PAGE: u64 = 1_000;

/// Reads pages until the last one, or until `list.limit` sessions are read.
pub(super) async fn all(asker: &Asker, client: &Client, mut list: List) -> Result<SessionPage, Failure> {
    let limit = list.limit;
    let mut listing = Listing::default();
    loop {
        let left = limit.map(|limit| limit.saturating_sub(listing.sessions.len() as u64));
        // The coordinator refuses an invalid page size.
        list.limit = if listing.is_begun { Some(left.unwrap_or(PAGE).clamp(1, PAGE)) } else { limit.or(Some(PAGE)) };
        let page = asker.signed(client.list(list.clone())).send().await?;
        let next = page.next.clone();
        listing.take(page);
        let is_enough = limit.is_some_and(|limit| listing.sessions.len() as u64 >= limit);
        if next.is_none() || is_enough {
            return Ok(SessionPage { sessions: listing.sessions, next });
        }
        list.after = next;
    }
}

#[derive(Default)]
struct Listing {
    is_begun: bool,
    sessions: Vec<Session>,
    places: HashMap<SessionId, usize>,
}

impl Listing {
    fn take(&mut self, page: SessionPage) {
        self.is_begun = true;
        for session in page.sessions {
            let place = *self.places.entry(session.id.clone()).or_insert(self.sessions.len());
            match self.sessions.get_mut(place) {
                Some(known) => *known = session,
                None => self.sessions.push(session),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_session_that_comes_again_is_shown_once_as_it_came_last() {
        let page = |ids: &[(&str, u64)]| {
            let session = |(id, revision): &(&str, u64)| {
                json!({"id": id, "namespace": "default", "kind": "document", "workspace": null, "path": null,
                    "state": "passive", "owner": null, "lock": null, "lock_revision": 0, "revision": revision,
                    "config": {"idle_timeout_ms": 1, "on_idle": "passivate", "lock": "optional"}, "created_at": ""})
            };
            let sessions: Vec<_> = ids.iter().map(session).collect();
            serde_json::from_value(json!({"sessions": sessions, "next": null})).unwrap()
        };
        let mut listing = Listing::default();
        listing.take(page(&[("a", 1), ("b", 2)]));
        listing.take(page(&[("a", 5), ("c", 4)]));
        let shown: Vec<_> = listing.sessions.iter().map(|one| (one.id.to_string(), one.revision.0)).collect();
        assert_eq!(shown, [("a".to_owned(), 5), ("b".to_owned(), 2), ("c".to_owned(), 4)]);
    }
}
