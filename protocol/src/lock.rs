//! The lock rules: what a request does to a record. Deciding does no I/O and reads no clock.
//!
//! Invariant: tokens are never stored. A record has the blake3 hash of its lock's token, and the token follows from a secret
//! that only coordinators know, so that a retried acquire gets the same grant again.

use serde_json::Value;
use uuid::Uuid;

use crate::error::{Error, Reason};
use crate::id::{RequestId, Revision, SessionKey};
use crate::record::{Event, EventType, Lock, LockMode, SessionRecord};
use crate::reply::{Grant, Released, TakenOver, Unlocked, Validated};
use crate::request::{Acquire, Takeover, Unlock};
use crate::token::Token;

/// The secret that tokens are derived from. It has no `Debug`: it must not reach a log line.
#[derive(Clone)]
pub struct Secret([u8; 32]);

impl Secret {
    /// From 32 random bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The token of one grant: keyed blake3 over namespace, id, lock revision and nonce, 160 bits in hex.
    pub fn token(&self, key: &SessionKey, lock_revision: u64, nonce: Uuid) -> Token {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(key.namespace.as_str().as_bytes()).update(&[0]);
        hasher.update(key.id.as_str().as_bytes()).update(&[0]);
        hasher.update(&lock_revision.to_be_bytes()).update(nonce.as_bytes());
        format!("hft_{}", &hasher.finalize().to_hex()[..40]).into()
    }
}

/// What a record stores of a token.
pub fn hash_token(token: &str) -> String {
    blake3::hash(token.as_bytes()).to_hex().to_string()
}

impl Lock {
    /// Whether `token` is this lock's. Takes the same time wherever they differ.
    pub fn is_proven_by(&self, token: &str) -> bool {
        blake3::Hash::from_hex(&self.token_hash).is_ok_and(|stored| stored == blake3::hash(token.as_bytes()))
    }
}

/// A request's circumstances.
pub struct Asked<'a> {
    /// Idempotency key.
    pub request_id: &'a RequestId,
    /// Who asks.
    pub actor: Option<&'a str>,
    /// Now, RFC 3339, for people.
    pub at: &'a str,
    /// Fresh, for the token of a new grant.
    pub nonce: Uuid,
    /// What tokens are derived from.
    pub secret: &'a Secret,
}

impl Asked<'_> {
    fn event(&self, kind: EventType, previous_owner: Option<String>, reason: Option<String>) -> Option<Event> {
        Some(Event {
            kind,
            actor: self.actor.map(str::to_owned),
            reason,
            previous_owner,
            previous_worker: None,
            request_id: Some(self.request_id.clone()),
            unheard: false,
        })
    }

    fn grant(
        &self,
        record: &SessionRecord,
        revision: Revision,
        owner: &str,
        ttl_ms: Option<u64>,
        event: Option<Event>,
    ) -> (SessionRecord, Grant) {
        let lock_revision = record.lock_revision + 1;
        let token = self.secret.token(&record.key(), lock_revision, self.nonce);
        let lock = Lock {
            owner: owner.to_owned(),
            revision: lock_revision,
            token_hash: hash_token(&token),
            nonce: self.nonce,
            acquired_at: self.at.to_owned(),
            ttl_ms,
            request_id: Some(self.request_id.clone()),
            fence: revision.0,
            reasked: false,
        };
        let grant = grant_of(record, &lock, token);
        (SessionRecord { lock: Some(lock), lock_revision, event, ..record.clone() }, grant)
    }

    /// The grant of a lock that this very request got before: under its id, or by a write of its own whose outcome was
    /// unknown.
    pub fn regrant(&self, record: &SessionRecord) -> Option<Grant> {
        let is_its_own = |lock: &&Lock| lock.request_id.as_ref() == Some(self.request_id) || lock.nonce == self.nonce;
        let lock = record.lock.as_ref().filter(is_its_own)?;
        let token = self.secret.token(&record.key(), lock.revision, lock.nonce);
        lock.is_proven_by(&token).then(|| grant_of(record, lock, token))
    }
}

fn grant_of(record: &SessionRecord, lock: &Lock, lock_token: Token) -> Grant {
    Grant {
        session_id: record.id.clone(),
        owner: lock.owner.clone(),
        lock_token,
        lock_revision: lock.revision,
        ttl_ms: lock.ttl_ms,
        fence: lock.fence,
    }
}

/// What to do about one request.
#[derive(Debug)]
pub enum LockDecision<Reply> {
    /// Write `next` if the record is still at the revision that was decided on, then answer with `reply`.
    Commit {
        /// The next revision's record.
        next: Box<SessionRecord>,
        /// The answer once it is written.
        reply: Reply,
    },
    /// Nothing to write.
    Unchanged(Reply),
    /// No. To be decided again on a fresh read before it is said.
    Refuse(Error),
}

/// `lock.acquire`
pub fn acquire(
    record: &SessionRecord,
    revision: Revision,
    request: &Acquire,
    asked: &Asked<'_>,
) -> LockDecision<Grant> {
    if let Some(grant) = asked.regrant(record).filter(|grant| grant.owner == request.owner) {
        return LockDecision::Unchanged(grant);
    }
    let who = Some(request.owner.as_str());
    match (&record.lock, &request.expected_token) {
        (None, None) => {
            let event = asked.event(EventType::LockAcquired, None, None);
            commit(asked.grant(record, revision, &request.owner, request.ttl_ms, event))
        }
        (None, Some(_)) => LockDecision::Refuse(stale_token(record, revision, who)),
        (Some(_), None) => LockDecision::Refuse(lock_held(record, revision, who)),
        (Some(lock), Some(token)) if !lock.is_proven_by(token) => {
            LockDecision::Refuse(stale_token(record, revision, who))
        }
        (Some(lock), Some(_)) if lock.owner != request.owner => LockDecision::Refuse(lock_held(record, revision, who)),
        (Some(lock), Some(_)) if request.rotate == Some(true) => {
            let event = asked.event(EventType::LockRotated, Some(lock.owner.clone()), None);
            commit(asked.grant(record, revision, &request.owner, request.ttl_ms.or(lock.ttl_ms), event))
        }
        (Some(lock), Some(token)) => LockDecision::Unchanged(grant_of(record, lock, token.clone())),
    }
}

fn commit<Reply>((next, reply): (SessionRecord, Reply)) -> LockDecision<Reply> {
    LockDecision::Commit { next: Box::new(next), reply }
}

/// The lock that `token` proves.
///
/// # Errors
/// `not_locked` while the lock is free, else `stale_token`.
pub fn prove<'a>(record: &'a SessionRecord, revision: Revision, token: &str) -> Result<&'a Lock, Error> {
    match &record.lock {
        None => Err(not_locked(record, revision)),
        Some(lock) if lock.is_proven_by(token) => Ok(lock),
        Some(_) => Err(stale_token(record, revision, None)),
    }
}

/// `lock.validate`
///
/// # Errors
/// As [`prove`].
pub fn validate(record: &SessionRecord, revision: Revision, token: &str) -> Result<Validated, Error> {
    prove(record, revision, token).map(|lock| Validated {
        session_id: record.id.clone(),
        valid: true,
        owner: lock.owner.clone(),
        lock_revision: lock.revision,
    })
}

/// Whether a change of the document may be made with `token`.
///
/// # Errors
/// `lock_held`, `lock_required`, `not_locked` or `stale_token`.
pub fn may_write(record: &SessionRecord, revision: Revision, token: Option<&str>) -> Result<(), Error> {
    match (token, &record.lock) {
        (Some(token), _) => prove(record, revision, token).map(|_| ()),
        (None, Some(_)) => Err(lock_held(record, revision, None)),
        (None, None) if record.config.lock == LockMode::Required => Err(lock_required(record, revision)),
        (None, None) => Ok(()),
    }
}

/// `lock.release`
pub fn release(record: &SessionRecord, revision: Revision, token: &str, asked: &Asked<'_>) -> LockDecision<Released> {
    if let Some(released) = was_freed_by(record, asked.request_id, EventType::LockReleased) {
        return LockDecision::Unchanged(released);
    }
    match prove(record, revision, token) {
        Ok(lock) => {
            let event = asked.event(EventType::LockReleased, Some(lock.owner.clone()), None);
            commit(freed(record, event))
        }
        // What the caller wants is so already.
        Err(refusal) if refusal.reason == Reason::NotLocked => LockDecision::Refuse(refusal.advise(&[])),
        Err(refusal) => LockDecision::Refuse(refusal),
    }
}

/// The answer to a release or unlock whose first copy made this very revision of the record.
pub fn was_freed_by(record: &SessionRecord, request_id: &RequestId, kind: EventType) -> Option<Released> {
    let event = record.event.as_ref()?;
    (event.kind == kind && event.request_id.as_ref() == Some(request_id) && record.lock.is_none()).then(|| Released {
        session_id: record.id.clone(),
        released: true,
        lock_revision: record.lock_revision,
    })
}

fn freed(record: &SessionRecord, event: Option<Event>) -> (SessionRecord, Released) {
    let lock_revision = record.lock_revision + 1;
    let next = SessionRecord { lock: None, lock_revision, event, ..record.clone() };
    (next, Released { session_id: record.id.clone(), released: true, lock_revision })
}

/// `admin.takeover`. Works on a free lock too.
pub fn takeover(
    record: &SessionRecord,
    revision: Revision,
    request: &Takeover,
    asked: &Asked<'_>,
) -> LockDecision<TakenOver> {
    let previous = record.lock.as_ref().map(|lock| lock.owner.clone());
    if let Some(grant) = asked.regrant(record).filter(|grant| grant.owner == request.owner) {
        let previous_owner = record.event.as_ref().and_then(|event| event.previous_owner.clone());
        return LockDecision::Unchanged(TakenOver { grant, previous_owner, reason: request.reason.clone() });
    }
    if let Some(refusal) = moved_since(record, revision, request.expected_lock_revision, Some(&request.owner)) {
        return LockDecision::Refuse(refusal);
    }
    let event = asked.event(EventType::LockTakenOver, previous.clone(), Some(request.reason.clone()));
    let (next, grant) = asked.grant(record, revision, &request.owner, request.ttl_ms, event);
    commit((next, TakenOver { grant, previous_owner: previous, reason: request.reason.clone() }))
}

/// `admin.unlock`
pub fn unlock(
    record: &SessionRecord,
    revision: Revision,
    request: &Unlock,
    asked: &Asked<'_>,
) -> LockDecision<Unlocked> {
    if let Some(released) = was_freed_by(record, asked.request_id, EventType::LockReleased) {
        let previous_owner = record.event.as_ref().and_then(|event| event.previous_owner.clone());
        return LockDecision::Unchanged(Unlocked { released, previous_owner });
    }
    if let Some(refusal) = moved_since(record, revision, request.expected_lock_revision, None) {
        return LockDecision::Refuse(refusal);
    }
    let Some(lock) = &record.lock else {
        // What the operator wants is so already.
        return LockDecision::Refuse(not_locked(record, revision).advise(&[]));
    };
    let previous_owner = Some(lock.owner.clone());
    let event = asked.event(EventType::LockReleased, previous_owner.clone(), Some(request.reason.clone()));
    let (next, released) = freed(record, event);
    commit((next, Unlocked { released, previous_owner }))
}

/// The record after the lease of the lock at `lock_revision` ran out; `None` when that lock is gone already.
pub fn expire(record: &SessionRecord, lock_revision: u64) -> Option<SessionRecord> {
    let lock = record.lock.as_ref().filter(|lock| lock.revision == lock_revision && lock.ttl_ms.is_some())?;
    let event = Event {
        kind: EventType::LockExpired,
        actor: None,
        reason: Some(format!("not renewed for {} ms", lock.ttl_ms.unwrap_or_default())),
        previous_owner: Some(lock.owner.clone()),
        previous_worker: None,
        request_id: None,
        unheard: false,
    };
    Some(freed(record, Some(event)).0)
}

/// The record after the grant with this fence was taken back, because nobody listened to it; `None` when that lock is
/// gone already, or when its request was asked again since.
pub fn take_back(record: &SessionRecord, fence: u64) -> Option<SessionRecord> {
    let lock = record.lock.as_ref().filter(|lock| lock.fence == fence && !lock.reasked)?;
    let event = Event {
        kind: EventType::LockReleased,
        actor: None,
        reason: Some("whoever asked was gone before the grant".to_owned()),
        previous_owner: Some(lock.owner.clone()),
        previous_worker: None,
        request_id: None,
        unheard: true,
    };
    Some(freed(record, Some(event)).0)
}

/// The record once a copy of the granted request is answered, so that the grant is not taken back; `None` when it says
/// so already.
pub fn asked_again(record: &SessionRecord) -> Option<SessionRecord> {
    let lock = record.lock.as_ref().filter(|lock| !lock.reasked)?;
    Some(SessionRecord { lock: Some(Lock { reasked: true, ..lock.clone() }), event: None, ..record.clone() })
}

fn moved_since(record: &SessionRecord, revision: Revision, expected: Option<u64>, who: Option<&str>) -> Option<Error> {
    let expected = expected.filter(|expected| *expected != record.lock_revision)?;
    let message = format!("the lock of session {} is at revision {}, not {expected}", record.id, record.lock_revision);
    Some(
        describe(Error::new(Reason::LockMoved, message), record, revision, who)
            .detail("expected_lock_revision", expected),
    )
}

/// Who holds it, since when, and what was asked for: what every conflict about a lock says.
fn describe(error: Error, record: &SessionRecord, revision: Revision, who: Option<&str>) -> Error {
    let lock = record.lock.as_ref();
    error
        .detail("session_id", record.id.as_str())
        .detail("owner", lock.map_or(Value::Null, |lock| lock.owner.clone().into()))
        .detail("requested_owner", who.map_or(Value::Null, Value::from))
        .detail("lock_revision", record.lock_revision)
        .detail("acquired_at", lock.map_or(Value::Null, |lock| lock.acquired_at.clone().into()))
        .detail("held_for_ms", Value::Null)
        .detail("expires_in_ms", Value::Null)
        .detail("revision", revision.0)
}

fn lock_held(record: &SessionRecord, revision: Revision, who: Option<&str>) -> Error {
    let owner = record.lock.as_ref().map_or("nobody", |lock| lock.owner.as_str());
    let error = Error::new(Reason::LockHeld, format!("session {} is locked by {owner}", record.id));
    describe(error, record, revision, who).detail("same_owner", who == Some(owner))
}

fn stale_token(record: &SessionRecord, revision: Revision, who: Option<&str>) -> Error {
    let (message, actions): (_, &[&str]) = match &record.lock {
        Some(lock) => (format!("session {} is locked by {}", record.id, lock.owner), &["wait", "takeover"]),
        None => (format!("session {} is not locked", record.id), &["acquire"]),
    };
    let error = Error::new(Reason::StaleToken, format!("the token is not the current one: {message}"));
    describe(error.advise(actions), record, revision, who)
}

fn not_locked(record: &SessionRecord, revision: Revision) -> Error {
    let error = Error::new(Reason::NotLocked, format!("session {} is not locked", record.id));
    describe(error, record, revision, None)
}

fn lock_required(record: &SessionRecord, revision: Revision) -> Error {
    let message = format!("session {} is changed under its lock only, and none was shown", record.id);
    describe(Error::new(Reason::LockRequired, message), record, revision, None)
}

/// Completes a conflict about a lock with what only clocks know: how long it has been held, and how long it will be.
pub fn explain(error: &mut Error, held_for_ms: Option<u64>, expires_in_ms: Option<u64>) {
    if !matches!(error.reason, Reason::LockHeld | Reason::StaleToken | Reason::LockMoved) {
        return;
    }
    if let Some(held) = held_for_ms {
        error.details.insert("held_for_ms".to_owned(), held.into());
        if error.reason == Reason::LockHeld {
            error.message = format!("{} for {} s", error.message, held / 1000);
        }
    }
    if let Some(expires) = expires_in_ms {
        error.details.insert("expires_in_ms".to_owned(), expires.into());
        if error.reason == Reason::LockHeld {
            error.retry_after_ms = Some(expires);
        }
    }
}
