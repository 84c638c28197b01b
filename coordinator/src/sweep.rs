//! Walks all records: takes sessions back from workers that are gone, and removes what closed sessions left.
//!
//! A request brings the session of a gone worker back by itself. The sweep is for sessions that get no request: their
//! locks with a lease must expire, and their records should say that they have no owner. One coordinator sweeps for
//! all: the one that relays.
//!
//! Invariant: a lease that ran out or a worker without a responder only tells where to look. Each record is read from
//! the leader and written by compare-and-set, and a worker that answers keeps its sessions.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use holdfast_protocol::record::Owner;
use holdfast_protocol::{Error, Process, SessionKey, SessionRecord};
use holdfast_records::{Change, Done, Known, Wrote, change};
use holdfast_rules::sweep::{self, SweepDecision};
use holdfast_rules::{Author, Decision};
use holdfast_store::{Page, PageRecord, StoreError, Walk, chance};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::error;
use crate::fleet::Liveness;
use crate::link::{self, Beginning};
use crate::meters::Placement;
use crate::operation::Operation;
use crate::place;
use crate::relay::Pin;
use crate::revoke;
use crate::writer::Writer;

mod remains;

use remains::Remains;

/// About how many messages of the stream one chunk covers. The sweep never holds a list of all sessions.
const CHUNK: usize = 250;
/// The pause between two chunks, so that a sweep of a million records does not slow requests down.
const BREATH: Duration = Duration::from_millis(5);
/// How many sessions are taken back concurrently.
const SIDE_BY_SIDE: usize = 8;

/// How often a coordinator checks whether it has become the one that sweeps. The one before may have died with all
/// that it watched.
const LEADER_LOOK: Duration = Duration::from_secs(5);

/// Sweeps at start, when this coordinator begins to relay, when a worker seems lost, and periodically, until `cancel`.
pub(crate) async fn run(context: Arc<Context>, pin: Arc<Pin>, cancel: CancellationToken) {
    let sweeps = async {
        tokio::time::sleep(jittered(context.config.sweep_delay)).await;
        let (mut was_leading, mut due) = (false, Instant::now());
        loop {
            // An unknown answer counts as unchanged.
            let is_leading = pin.is_leading(&context).await.unwrap_or(was_leading);
            if is_leading && (!was_leading || Instant::now() >= due) {
                let is_done = sweep_and_report(&context).await;
                let pause = if is_done { context.config.sweep_interval } else { context.config.sweep_delay };
                due = Instant::now() + jittered(pause);
            }
            was_leading = is_leading;
            tokio::select! {
                biased;
                () = context.fleet.lost() => {
                    // Gives a disconnected worker time to return, and collects further losses.
                    tokio::time::sleep(jittered(context.config.sweep_delay)).await;
                    due = Instant::now();
                }
                () = tokio::time::sleep(jittered(LEADER_LOOK)) => {}
            }
        }
    };
    cancel.run_until_cancelled(sweeps).await;
}

fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(chance::share(0.8..1.2))
}

/// Returns whether the sweep was complete.
async fn sweep_and_report(context: &Context) -> bool {
    match walk(context).await {
        Ok(0) => true,
        Ok(taken) => {
            tracing::info!(taken, "sessions of lost workers taken back");
            true
        }
        Err(error) => {
            tracing::warn!(%error, "the sweep ended early");
            false
        }
    }
}

async fn walk(context: &Context) -> Result<usize, StoreError> {
    let mut lost = Lost::default();
    let mut taken = 0;
    let remains = Remains::of(context).await?;
    match context.store.purge_strays().await {
        Ok(0) => {}
        Ok(namespaces) => tracing::info!(namespaces, "removed messages from logs of reserved namespaces"),
        Err(error) => tracing::info!(%error, "messages in logs of reserved namespaces were not removed"),
    }
    let (mut after, until) = (0, context.store.last().await?);
    while after < until {
        let Page { records, looked_until } =
            context.store.page(&Walk { namespace: None, after, until, most: CHUNK }).await?;
        after = looked_until;
        let (mut orphans, mut revoked) = (Vec::new(), Vec::new());
        let mut over = Vec::new();
        for PageRecord { stored, .. } in records {
            let record = stored.value.as_deref().map(|json| SessionRecord::from_json(json, &stored.key));
            if let Some(Ok(record)) = &record {
                context.countdown.find(record);
                if revoke::is_due(context, record) {
                    revoked.push(stored.key.clone());
                }
            }
            match record {
                // A record that does not parse is left to an operator.
                Some(Err(_)) => {}
                Some(Ok(SessionRecord { owner: Some(owner), .. })) => {
                    if lost.holds(context, &stored.key, &owner).await {
                        orphans.push(stored.key);
                    }
                }
                found => over.extend(remains.are_old(&stored, found.and_then(Result::ok)).then_some(stored)),
            }
        }
        stream::iter(revoked).for_each_concurrent(SIDE_BY_SIDE, async |key| revoke::found(context, &key).await).await;
        let work = orphans.len() + over.len();
        let pace = Duration::from_secs(1).mul_f64(work as f64 / f64::from(context.config.sweep_per_second.max(1)));
        let rescues = stream::iter(orphans).map(|key| rescue(context, key, &lost)).buffer_unordered(SIDE_BY_SIDE);
        taken += rescues.filter(|taken| std::future::ready(*taken)).count().await;
        stream::iter(over).for_each_concurrent(SIDE_BY_SIDE, |stored| remains::remove(context, stored)).await;
        tokio::time::sleep(pace.max(BREATH)).await;
    }
    Ok(taken)
}

/// Which processes are lost. Each is determined once per sweep.
#[derive(Default)]
struct Lost(HashMap<Process, bool>);

impl Lost {
    fn knows(&self, owner: &Owner) -> Option<bool> {
        self.0.get(&owner.process()).copied()
    }

    /// Whether `owner`, which has the session `key`, is lost.
    async fn holds(&mut self, context: &Context, key: &SessionKey, owner: &Owner) -> bool {
        if let Some(known) = self.knows(owner) {
            return known;
        }
        let is_lost = match context.fleet.liveness(owner) {
            Liveness::Live => false,
            Liveness::Gone => true,
            // It may have been disconnected for a moment, or be a start that this coordinator has not seen.
            Liveness::Suspect | Liveness::Unknown => link::is_unheard(context, owner, key).await,
        };
        self.0.insert(owner.process(), is_lost);
        is_lost
    }
}

/// Takes one session back, if its record still names a lost process.
async fn rescue(context: &Context, key: SessionKey, lost: &Lost) -> bool {
    let (key, operation) = (&key, Operation::own(context.config.request_timeout));
    let reclaimed = change(&mut Writer::new(context, key, &operation), &Reclaiming { lost }).await;
    let outcome = match reclaimed {
        Ok(Done { reply: SweepDecision::Move, .. }) => {
            place::place(context, key, &operation, &Beginning::Log).await.map(|_| true)
        }
        Ok(Done { wrote: Wrote::Nothing, .. }) => Ok(false),
        Ok(_) => {
            context.config.meters.placed(Placement::Reclaimed);
            Ok(true)
        }
        Err(not_done) => Err(error::of_not_done(not_done, key)),
    };
    outcome.unwrap_or_else(|error| {
        tracing::info!(%key, %error, "a session of a lost worker was not taken back; the next sweep retries");
        false
    })
}

/// Takes a session from a worker that is gone, or decides that it must be moved.
struct Reclaiming<'a> {
    lost: &'a Lost,
}

impl Change<Writer<'_>> for Reclaiming<'_> {
    type Reply = SweepDecision;

    async fn decide(&self, _: &Writer<'_>, known: &Known) -> Result<Decision<SweepDecision>, Error> {
        let decided = sweep::sweep(&known.record, |owner| self.lost.knows(owner).unwrap_or(false));
        if decided != SweepDecision::Reclaim {
            return Ok(Decision::Unchanged(decided));
        }
        let reason = known.record.owner.as_ref().map(|owner| place::is_gone(&owner.worker));
        let author = Author { reason: reason.as_deref(), ..Author::default() };
        Ok(Decision::Commit { next: Box::new(sweep::reclaimed(&known.record, author)), reply: decided })
    }
}
