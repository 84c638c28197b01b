//! Hands a lock that is released to the first waiter, in the write of the release.
//!
//! Invariant: the waiter does nothing itself from the offer to its outcome, and its request takes effect once: the
//! record's past is asked about it as for a request of its own, and the grant has the nonce of its operation, so that
//! a later attempt of the waiter recognises it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use holdfast_protocol::SessionRecord;
use holdfast_protocol::reply::Grant;
use holdfast_protocol::token::Secret;
use holdfast_records::{Done, Keeper, Known, NotDone, Wrote};
use holdfast_rules::release::hand_over;
use holdfast_store::mutant::{self, Mutant};

use crate::operation::now;
use crate::verb::lock::Outcome;
use crate::waiters::{Offer, Settled};
use crate::writer::Writer;

/// The hand-over of one release.
#[derive(Default)]
pub(super) struct HandOver(Mutex<Option<Offered>>);

/// The waiter, and the grant that the last attempt of the release writes.
struct Offered {
    offer: Offer,
    grant: Option<Grant>,
}

impl HandOver {
    fn offered(&self) -> MutexGuard<'_, Option<Offered>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What to write in the place of `freed`, which frees the lock of `known`: the same with the lock granted to the
    /// first waiter, if there is one that may have it. A past that cannot be read holds no release up.
    pub(super) async fn of(
        &self,
        writer: &Writer<'_>,
        known: &Known,
        freed: Box<SessionRecord>,
        secret: &Secret,
    ) -> Box<SessionRecord> {
        // An offer that an earlier attempt made is still good: that attempt wrote nothing.
        let Some(mut offered) = self.take(writer) else { return freed };
        let at = now();
        let wants = offered.offer.wants();
        let asked = wants.operation.asked(&at, secret);
        let may_have_copies = asked.by_caller && !mutant::is(Mutant::HeirsPastNotAsked);
        if may_have_copies {
            match writer.past(known.revision).await {
                Ok(past) if past.grant(&asked).is_none() && past.covers() <= known.revision => {}
                Ok(_) | Err(_) => return freed,
            }
        }
        let (next, grant) = hand_over(&freed, known.revision, &wants.request, &asked);
        offered.offer.expect(known.revision);
        offered.grant = Some(grant);
        *self.offered() = Some(offered);
        Box::new(next)
    }

    fn take(&self, writer: &Writer<'_>) -> Option<Offered> {
        let before = self.offered().take();
        before.or_else(|| Some(Offered { offer: writer.context.waiters.offer(writer.key)?, grant: None }))
    }

    /// Tells the waiter how the release ended.
    pub(super) fn settle<Reply>(&self, outcome: &Outcome<Reply>) {
        let Some(Offered { offer, grant }) = self.offered().take() else { return };
        match (outcome, grant) {
            (Ok(Done { known, .. }), Some(grant)) if is_of(&known.record, &grant) => {
                offer.settle(Settled::Granted(Box::new(Done {
                    known: known.clone(),
                    reply: grant,
                    wrote: Wrote::Change,
                })));
            }
            (Ok(_) | Err(NotDone::Refused(..) | NotDone::Moved), _) => offer.settle(Settled::Nothing),
            // Dropping the offer tells that a grant may come.
            (Err(NotDone::Stopped(_)), _) => {}
        }
    }
}

fn is_of(record: &SessionRecord, grant: &Grant) -> bool {
    record.lock.as_ref().is_some_and(|lock| lock.is_proven_by(&grant.lock_token))
}
