//! One holder at a time: lock revisions rise within a life, fences over all lives, and a token proves one grant.

use std::collections::{HashMap, HashSet};

use holdfast_protocol::record::{EventType, HandOver, Lock};
use holdfast_protocol::subject::Verb;

use super::facts::{Facts, changes};

fn is_same_grant(one: &Lock, other: &Lock) -> bool {
    (one.revision, &one.token_hash, &one.owner) == (other.revision, &other.token_hash, &other.owner)
}

/// Whether the request that a hand-over names released this lock, with its token.
fn released_it(facts: &Facts<'_>, hand_over: &HandOver, was: &Lock) -> bool {
    let request = hand_over.request_id.as_ref().and_then(|id| facts.requests.get(id.as_str()));
    let has_token = request.is_none_or(|request| {
        request.verb == Verb::LockRelease && request.body["token"].as_str().is_some_and(|token| was.is_proven_by(token))
    });
    has_token && hand_over.previous_owner.as_ref() == Some(&was.owner)
}

pub(super) fn one_holder(facts: &Facts<'_>) -> Result<(), String> {
    for (key, revised) in &facts.records {
        let mut fence = 0;
        for change in changes(revised) {
            let (at, record) = (change.after.revision, change.record);
            let before = change.same_life();
            let (was, is) = (before.and_then(|before| before.lock.as_ref()), record.lock.as_ref());
            let risen = before.map_or(0, |before| before.lock_revision);
            let kind = record.event.as_ref().map(|event| event.kind);
            let is_kept = match (was, is) {
                (Some(was), Some(is)) => is_same_grant(was, is),
                (None, None) => true,
                _ => false,
            };
            if is_kept {
                if record.lock_revision < risen {
                    return Err(format!("{key}: lock_revision falls from {risen} to {} at {at}", record.lock_revision));
                }
                continue;
            }
            if record.lock_revision <= risen {
                return Err(format!("{key}: the lock changes at {at} and its revision stays {risen}"));
            }
            if let Some(is) = is {
                if is.revision != record.lock_revision || is.fence <= fence {
                    return Err(format!(
                        "{key}: the grant at {at} has revision {} and fence {}, after fence {fence}",
                        is.revision, is.fence
                    ));
                }
                fence = is.fence;
                let may_override = matches!(kind, Some(EventType::LockTakenOver | EventType::LockRotated));
                let hand_over = record.event.as_ref().and_then(|event| event.hand_over.as_ref());
                match (was, hand_over) {
                    (Some(was), Some(hand_over)) => {
                        if record.lock_revision != risen + 2 || !released_it(facts, hand_over, was) {
                            return Err(format!("{key}: {} gets the lock at {at} by no release of it", is.owner));
                        }
                    }
                    (None, Some(_)) => return Err(format!("{key}: a free lock is handed over at {at}")),
                    (Some(_), None) if !may_override => {
                        return Err(format!("{key}: {} gets the lock at {at} while another holds it", is.owner));
                    }
                    (Some(_) | None, None) => {}
                }
            }
        }
    }
    Ok(())
}

pub(super) fn one_grant_a_token(facts: &Facts<'_>) -> Result<(), String> {
    for (key, revised) in &facts.records {
        let mut hashes = HashSet::new();
        for change in changes(revised) {
            let Some(lock) = &change.record.lock else { continue };
            let is_old = change
                .before
                .and_then(|before| before.record.as_ref())
                .is_some_and(|before| before.lock.as_ref().is_some_and(|before| is_same_grant(before, lock)));
            if !is_old && !hashes.insert(lock.token_hash.as_str()) {
                return Err(format!("{key}: the grant at {} has the token of another one", change.after.revision));
            }
        }
    }
    let mut told: HashMap<(&str, u64), &str> = HashMap::new();
    for request in &facts.run.seen.requests {
        if !matches!(request.verb, Verb::LockAcquire | Verb::AdminTakeover) {
            continue;
        }
        for (_, grant) in request.done() {
            let (fence, token) = (grant["fence"].as_u64().unwrap_or(0), grant["lock_token"].as_str().unwrap_or(""));
            let is_it = |lock: &Lock| {
                lock.fence == fence && lock.is_proven_by(token) && grant["lock_revision"] == lock.revision
            };
            let locks = facts.records_of(request).iter().filter_map(|revised| revised.record.as_ref()?.lock.as_ref());
            if !locks.into_iter().any(is_it) {
                return Err(format!("{} was told of a grant that is in no record: {grant}", request.id));
            }
            // Who shows a token gets the grant again that it proves.
            if request.body["expected_token"].is_string() {
                continue;
            }
            if let Some(other) = told.insert((&request.session, fence), &request.id)
                && other != request.id
            {
                return Err(format!("{other} and {} were told of one grant: {grant}", request.id));
            }
        }
    }
    Ok(())
}
