//! `session.list`: pages of sessions in the order of the stream.
//!
//! Invariant: a page names a session at most once, and a listing names every session that exists from its beginning to
//! its end. The listing walks the stream up to the sequence that was last when it began. A record that changes so often
//! that all its earlier revisions are dropped is missed by this walk, so further walks cover what was written since,
//! for such records only. A session that changes meanwhile may be named again on a later page.
//!
//! A page costs what it reads. A page that finds few matches in its time returns early, with a cursor to continue at. A
//! cursor is checked when it comes back: it is valid for one namespace and one set of filters.
//!
//! Deliberately absent: a consistent view. Records are read from any replica, so a record that changed a moment ago may
//! be shown in its old state; `session.get` reads from the leader.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::TryStreamExt;
use futures_util::stream::{self, StreamExt};
use holdfast_protocol::record::State;
use holdfast_protocol::reply::{Session, SessionPage};
use holdfast_protocol::request::List;
use holdfast_protocol::{Error, Namespace, Reason, Revision, SessionId, SessionRecord, WorkerName};
use holdfast_store::{Page as Stretched, PageRecord, Store, StoreError, Stored, Walk};
use tokio::time::{Instant, timeout_at};

use crate::context::Context;
use crate::error;
use crate::operation::Incoming;
use crate::response::Response;

mod idle;
#[cfg(test)]
mod tests;

/// Page size when the request has none.
const DEFAULT_LIMIT: u64 = 100;
/// About how many messages one stretch reads, beyond those that the page still has room for.
const STRETCH: usize = 256;
const BEYOND: usize = 28;
/// How long one request waits for a permit; the time for its page comes after that.
const TURN: Duration = Duration::from_secs(2);
/// How long one request searches for matches.
const LOOK: Duration = Duration::from_secs(1);
/// The size at which a page ends early, so that it fits into one message.
const PAGE_BYTES: usize = 700 * 1024;
/// How many revisions of a record the bucket keeps.
const REVISIONS: u64 = 64;
/// How many sessions that later walks have named a cursor remembers. Those sessions change faster than pages are read.
const NAMED: usize = 32;
/// How many walks follow the first at most. Each covers only what was written during the one before, so the last ones
/// take milliseconds, and no record changes 64 times in each of them.
const WALKS: u64 = 8;
/// The longest cursor: four numbers, the names of [`NAMED`] sessions, and the checksum.
const CURSOR_BYTES: usize = 4 * 21 + NAMED * 65 + CHECK_CHARS;
const CHECK_CHARS: usize = 16;
/// How many histories are read concurrently.
const SIDE_BY_SIDE: usize = 16;

/// Lists a namespace's sessions; closed ones only if the request asks for that state.
pub(crate) async fn list(context: &Context, namespace: &Namespace, incoming: &Incoming) -> Result<Response, Error> {
    let (request, operation) = incoming.parse::<List>(&context.config.limits)?;
    let Ok(Ok(_turn)) = timeout_at(operation.deadline.min(Instant::now() + TURN), context.pages.acquire()).await else {
        return Err(error::busy(Reason::MailboxFull, "this coordinator has too many lists to read"));
    };
    let look_until = operation.deadline.min(Instant::now() + LOOK);
    let mut page = page(&context.store, namespace, &request, look_until, operation.deadline).await?;
    if let Some(idle_ms) = request.idle_ms {
        page.sessions = idle::at_least(context, namespace, page.sessions, idle_ms).await;
    }
    Response::of(&page)
}

/// Reads one page. Begins no further stretch after `look_until`.
async fn page(
    store: &Store,
    namespace: &Namespace,
    request: &List,
    look_until: Instant,
    deadline: Instant,
) -> Result<SessionPage, Error> {
    let listing = Listing { namespace, request };
    let mut page = Page::new(listing);
    let mut cursor = match request.after.as_deref() {
        Some(after) => listing.cursor(after)?,
        None => Cursor::at_begin(in_time(deadline, store.last()).await?),
    };
    let first = cursor.looked;
    loop {
        let Stretch { records, looked_until, end } =
            match in_time(deadline, stretch(store, namespace, &cursor, &page)).await {
                Ok(stretch) => stretch,
                // This page has made progress; the next one tries again.
                Err(error) if cursor.looked > first => {
                    tracing::debug!(%error, "a page of a listing ends early");
                    return Ok(page.finish(Some(cursor)));
                }
                Err(error) => return Err(error),
            };
        for found in records {
            if !page.take(&found.stored) {
                return Ok(page.finish(Some(cursor)));
            }
            cursor.passed(&found);
        }
        cursor.looked = looked_until;
        if let Some(last) = end {
            // While fewer messages were written than the bucket keeps revisions, no record has lost all its earlier
            // ones.
            if last < cursor.until.saturating_add(REVISIONS) || cursor.walk >= WALKS {
                return Ok(page.finish(None));
            }
            cursor = cursor.next_walk(last);
        }
        if page.is_full() || Instant::now() >= look_until {
            return Ok(page.finish(Some(cursor)));
        }
    }
}

/// What one stretch of the walk found.
struct Stretch {
    records: Vec<PageRecord>,
    looked_until: u64,
    /// The stream's last sequence, if this stretch reaches the end of its walk.
    end: Option<u64>,
}

async fn stretch(
    store: &Store,
    namespace: &Namespace,
    cursor: &Cursor,
    page: &Page<'_>,
) -> Result<Stretch, StoreError> {
    let Cursor { looked, until, begin, .. } = *cursor;
    let most = if cursor.walk > 0 { STRETCH } else { page.most() };
    let walk = Walk { namespace: Some(namespace), after: looked, until, most };
    let Stretched { mut records, looked_until } = store.page(&walk).await?;
    if cursor.walk > 0 {
        records.retain(|found| !cursor.named.contains(&found.stored.key.id) && page.matching(&found.stored).is_some());
        let looks = records.into_iter().map(|found| async move {
            let history = store.history(&found.stored.key, Revision(0)).await?;
            // An earlier revision that is still kept was found by the walk before; and a record with fewer revisions is
            // new.
            let is_missed = history.len() as u64 >= REVISIONS && history.iter().all(|one| one.revision.0 > begin);
            Ok(is_missed.then_some(found))
        });
        let missed: Vec<Option<PageRecord>> = stream::iter(looks).buffered(SIDE_BY_SIDE).try_collect().await?;
        records = missed.into_iter().flatten().collect();
    }
    let end = if looked_until >= until { Some(store.last().await?) } else { None };
    Ok(Stretch { records, looked_until, end })
}

async fn in_time<T>(deadline: Instant, reading: impl Future<Output = Result<T, StoreError>>) -> Result<T, Error> {
    let late = |_| Err(StoreError::Unavailable("not in time".to_owned()));
    let read = timeout_at(deadline, reading).await.unwrap_or_else(late);
    read.map_err(|error| error::storage_unavailable(&format!("the sessions cannot be listed: {error}")))
}

/// The listing that a cursor is valid for.
#[derive(Clone, Copy, Debug)]
struct Listing<'a> {
    namespace: &'a Namespace,
    request: &'a List,
}

impl Listing<'_> {
    /// The text of a cursor, with a checksum at its end.
    fn next(&self, cursor: &Cursor) -> String {
        let text = cursor.to_string();
        let check = self.check(&text);
        format!("{text}.{check}")
    }

    /// Not a secret: a computed cursor shows no more than a listing does.
    fn check(&self, text: &str) -> String {
        let List { state, worker, locked, lock_owner, idle_ms, .. } = self.request;
        let state = match state {
            None => "",
            Some(State::Active) => "active",
            Some(State::Passive) => "passive",
            Some(State::Closed) => "closed",
        };
        let worker = worker.as_ref().map_or("", WorkerName::as_str);
        let mut whole = format!("{} {state} {worker} {text}", self.namespace);
        // Cursors of earlier versions stay good.
        if locked.is_some() || lock_owner.is_some() || idle_ms.is_some() {
            whole.push_str(&format!(" {locked:?} {lock_owner:?} {idle_ms:?}"));
        }
        let mut check = blake3::hash(whole.as_bytes()).to_hex().to_string();
        check.truncate(CHECK_CHARS);
        check
    }

    fn cursor(&self, after: &str) -> Result<Cursor, Error> {
        let checked = after.rsplit_once('.').filter(|_| after.len() <= CURSOR_BYTES);
        let checked = checked.filter(|(text, check)| self.check(text) == *check);
        checked.and_then(|(text, _)| Cursor::read(text)).ok_or_else(|| {
            let why = "after must be the `next` of the page before, of the same namespace and with the same filters";
            Error::invalid(Reason::BadValue, why).detail("field", "after")
        })
    }
}

/// The progress of a listing; opaque to clients.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Cursor {
    /// Everything up to here was read.
    looked: u64,
    /// Where this walk ends.
    until: u64,
    /// Where this walk began.
    begin: u64,
    /// How many walks came before.
    walk: u64,
    /// The sessions that walks after the first have named, so that they are not named again.
    named: Vec<SessionId>,
}

impl Cursor {
    fn at_begin(last: u64) -> Self {
        Self { looked: 0, until: last, begin: 0, walk: 0, named: Vec::new() }
    }

    fn next_walk(self, last: u64) -> Self {
        Self { looked: self.until, until: last, begin: self.until, walk: self.walk + 1, named: self.named }
    }

    fn passed(&mut self, found: &PageRecord) {
        self.looked = found.at;
        if self.walk > 0 {
            self.named.push(found.stored.key.id.clone());
            let surplus = self.named.len().saturating_sub(NAMED);
            self.named.drain(..surplus);
        }
    }

    fn read(text: &str) -> Option<Self> {
        let number = |text: &str| text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
        let mut parts = text.split('.');
        let mut next = || number(parts.next()?);
        let (looked, until, begin, walk) = (next()?, next()?, next()?, next()?);
        let named = parts.map(|id| SessionId::parse(id).ok()).collect::<Option<Vec<_>>>()?;
        let is_possible = begin <= looked && looked <= until && walk <= WALKS && named.len() <= NAMED;
        is_possible.then_some(Self { looked, until, begin, walk, named })
    }
}

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}.{}", self.looked, self.until, self.begin, self.walk)?;
        self.named.iter().try_for_each(|id| write!(f, ".{id}"))
    }
}

/// A page in the making.
struct Page<'a> {
    listing: Listing<'a>,
    /// `None` for a session that has changed and no longer matches.
    sessions: Vec<Option<Session>>,
    /// The index of each session in `sessions`.
    places: HashMap<SessionId, usize>,
    count: usize,
    bytes: usize,
    limit: usize,
}

impl<'a> Page<'a> {
    fn new(listing: Listing<'a>) -> Self {
        let limit = usize::try_from(listing.request.limit.unwrap_or(DEFAULT_LIMIT)).unwrap_or(usize::MAX);
        Self { listing, sessions: Vec::new(), places: HashMap::new(), count: 0, bytes: 0, limit }
    }

    fn is_full(&self) -> bool {
        self.count >= self.limit || self.bytes >= PAGE_BYTES
    }

    /// How many messages the next stretch should read.
    fn most(&self) -> usize {
        let List { state, worker, locked, lock_owner, idle_ms, .. } = self.listing.request;
        let is_filtered =
            state.is_some() || worker.is_some() || locked.is_some() || lock_owner.is_some() || idle_ms.is_some();
        if is_filtered {
            return STRETCH;
        }
        (self.limit.saturating_sub(self.count) + BEYOND).min(STRETCH)
    }

    /// Adds a matching record, or updates it if the page names it already. `false`: the page is full.
    fn take(&mut self, stored: &Stored) -> bool {
        let session = self.matching(stored);
        let Some(place) = self.places.get(&stored.key.id).copied() else {
            let Some(session) = session else { return true };
            if self.is_full() {
                return false;
            }
            self.places.insert(session.id.clone(), self.sessions.len());
            self.sessions.push(Some(session));
            self.count += 1;
            self.bytes += stored.value.as_ref().map_or(0, bytes::Bytes::len);
            return true;
        };
        let Some(named) = self.sessions.get_mut(place) else { return true };
        self.count = self.count - usize::from(named.is_some()) + usize::from(session.is_some());
        *named = session;
        true
    }

    fn matching(&self, stored: &Stored) -> Option<Session> {
        match SessionRecord::from_json(stored.value.as_deref()?, &stored.key) {
            Ok(record) => is_wanted(&record, self.listing.request).then(|| Session::of(&record, stored.revision)),
            Err(error) => {
                tracing::warn!(key = %stored.key, %error, "a record that does not parse is left out of a listing");
                None
            }
        }
    }

    fn finish(self, next: Option<Cursor>) -> SessionPage {
        let next = next.map(|cursor| self.listing.next(&cursor));
        SessionPage { sessions: self.sessions.into_iter().flatten().collect(), next }
    }
}

fn is_wanted(record: &SessionRecord, request: &List) -> bool {
    let state = match request.state {
        Some(state) => record.state == state,
        None => record.state != State::Closed,
    };
    let on = |worker: &WorkerName| record.owner.as_ref().is_some_and(|owner| owner.worker == *worker);
    let holder = record.lock.as_ref().map(|lock| lock.owner.as_str());
    let held = request.locked.is_none_or(|locked| locked == holder.is_some());
    let by_whom = request.lock_owner.as_deref().is_none_or(|owner| holder == Some(owner));
    // Only a session in memory has a time of its last activity.
    let in_memory = request.idle_ms.is_none() || record.state == State::Active;
    state && held && by_whom && in_memory && request.worker.as_ref().is_none_or(on)
}
