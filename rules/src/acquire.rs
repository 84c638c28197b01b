//! `lock.acquire`: a grant, the same grant again, or a conflict.

use holdfast_protocol::Revision;
use holdfast_protocol::record::{Event, EventType, Lock, SessionRecord};
use holdfast_protocol::reply::Grant;
use holdfast_protocol::request::Acquire;
use holdfast_protocol::token::{Token, hash_token};

use crate::conflict::{lock_held, over, stale_token};
use crate::{Asked, Decision};

/// `lock.acquire`
pub fn acquire(record: &SessionRecord, revision: Revision, request: &Acquire, asked: &Asked<'_>) -> Decision<Grant> {
    if let Some(grant) = asked.regrant(record).filter(|grant| grant.owner == request.owner) {
        return match copy_is_noted(record, asked) {
            Some(next) => Decision::Note { next: Box::new(next), reply: grant },
            None => Decision::Unchanged(grant),
        };
    }
    if let Some(over) = over(record) {
        return Decision::Refuse(over);
    }
    let who = Some(request.owner.as_str());
    match (&record.lock, &request.expected_token) {
        (None, None) => {
            let event = asked.event(EventType::LockAcquired, None, None);
            Decision::commit(asked.grant(record, revision, &request.owner, request.ttl_ms, event))
        }
        (None, Some(_)) => Decision::Refuse(stale_token(record, revision, who)),
        (Some(_), None) => Decision::Refuse(lock_held(record, revision, who)),
        (Some(lock), Some(token)) if !lock.is_proven_by(token) => Decision::Refuse(stale_token(record, revision, who)),
        (Some(lock), Some(_)) if lock.owner != request.owner => Decision::Refuse(lock_held(record, revision, who)),
        (Some(lock), Some(_)) if request.rotate == Some(true) => {
            let event = asked.event(EventType::LockRotated, Some(lock.owner.clone()), None);
            Decision::commit(asked.grant(record, revision, &request.owner, request.ttl_ms.or(lock.ttl_ms), event))
        }
        (Some(lock), Some(token)) => Decision::Unchanged(grant_of(record, lock, token.clone())),
    }
}

/// The record with the note that another copy of the granted request was answered; such a grant is never taken back.
/// `None` when the record has the note already, or when this very request got the grant.
fn copy_is_noted(record: &SessionRecord, asked: &Asked<'_>) -> Option<SessionRecord> {
    let is_first = |lock: &Lock| lock.nonce == asked.nonce;
    let lock = record.lock.as_ref().filter(|lock| !lock.reasked && !is_first(lock))?;
    Some(SessionRecord { lock: Some(Lock { reasked: true, ..lock.clone() }), event: None, ..record.clone() })
}

impl Asked<'_> {
    pub(crate) fn grant(
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
            // A request with the id of a grant gets the grant again. An id that a coordinator made is announced in
            // signals and so is no secret: it must not be worth a token.
            request_id: self.by_caller.then(|| self.request_id.clone()),
            fence: revision.0,
            reasked: false,
        };
        let grant = grant_of(record, &lock, token);
        let secret = self.secret.generation();
        (SessionRecord { lock: Some(lock), lock_revision, secret, event, ..record.clone() }, grant)
    }

    /// The grant that this request got before: under the caller's id, or by its own write whose outcome was unknown.
    pub fn regrant(&self, record: &SessionRecord) -> Option<Grant> {
        let is_its_own = |lock: &&Lock| lock.request_id.as_ref() == Some(self.request_id) || lock.nonce == self.nonce;
        let lock = record.lock.as_ref().filter(is_its_own)?;
        self.secret.token_of(&record.key(), lock).map(|token| grant_of(record, lock, token))
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
