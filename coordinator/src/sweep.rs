//! Looking for sessions whose worker is gone and that nobody has asked for since, and for what ended long ago.
//!
//! Requests bring such a session back by themselves; the sweep is for those that nobody asks for: their locks with a lease
//! must run out, and their records should say that nobody has them. One coordinator does it for all, the one that relays.
//!
//! Invariant: a lease or a silent worker only says where to look. Each record is read from the leader and written by
//! compare-and-set; nothing is taken from a worker that answers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use holdfast_protocol::record::Owner;
use holdfast_protocol::{Boot, Error, SessionKey, SessionRecord, WorkerName};
use holdfast_records::{Change, Done, Known, Wrote, change};
use holdfast_rules::sweep::{self, SweepDecision};
use holdfast_rules::{Author, Decision};
use holdfast_store::{Found, Page, StoreError, Walk, chance};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::call::Call;
use crate::error;
use crate::fleet::Liveness;
use crate::hub::Hub;
use crate::link::{self, Beginning};
use crate::place;
use crate::relay::Pin;
use crate::writer::Writer;

mod remains;

use remains::Remains;

/// About how many messages of the stream are looked at at once; the sweep keeps no list of all sessions.
const CHUNK: usize = 250;
/// The pause between two chunks: a sweep of a million records must not be felt by requests.
const BREATH: Duration = Duration::from_millis(5);
/// How many sessions are taken back side by side.
const SIDE_BY_SIDE: usize = 8;

/// How often a coordinator looks whether it is the one that sweeps by now: whoever was may have died with all it
/// watched.
const LEADER_LOOK: Duration = Duration::from_secs(5);

/// Sweeps at start, when this coordinator begins to relay, when a worker seems lost, and from time to time, until
/// `cancel`.
pub(crate) async fn run(hub: Arc<Hub>, pin: Arc<Pin>, cancel: CancellationToken) {
    let sweeps = async {
        tokio::time::sleep(jittered(hub.config.sweep_delay)).await;
        let (mut was_leading, mut due) = (false, Instant::now());
        loop {
            // Where that is not known, it is as it was.
            let is_leading = pin.is_leading(&hub).await.unwrap_or(was_leading);
            if is_leading && (!was_leading || Instant::now() >= due) {
                let is_done = sweep_and_report(&hub).await;
                let pause = if is_done { hub.config.sweep_interval } else { hub.config.sweep_delay };
                due = Instant::now() + jittered(pause);
            }
            was_leading = is_leading;
            tokio::select! {
                biased;
                () = hub.registry.lost() => {
                    // Time for a worker that was only cut off to come back, and for more bad news.
                    tokio::time::sleep(jittered(hub.config.sweep_delay)).await;
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

/// Returns whether the sweep came to its end.
async fn sweep_and_report(hub: &Hub) -> bool {
    match walk(hub).await {
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

async fn walk(hub: &Hub) -> Result<usize, StoreError> {
    let mut lost = Lost::default();
    let mut taken = 0;
    let remains = Remains::of(hub).await?;
    match hub.store.purge_strays().await {
        Ok(0) => {}
        Ok(namespaces) => tracing::info!(namespaces, "messages in logs of reserved namespaces are removed"),
        Err(error) => tracing::info!(%error, "messages in logs of reserved namespaces may be left"),
    }
    let (mut after, until) = (0, hub.store.last().await?);
    while after < until {
        let Page { records, looked_until } =
            hub.store.page(&Walk { namespace: None, after, until, most: CHUNK }).await?;
        after = looked_until;
        let mut orphans = Vec::new();
        let mut over = Vec::new();
        for Found { stored, .. } in records {
            let record = stored.value.as_deref().map(|json| SessionRecord::from_json(json, &stored.key));
            if let Some(Ok(record)) = &record {
                hub.countdown.find(record);
            }
            match record {
                // One that does not parse is for an operator.
                Some(Err(_)) => {}
                Some(Ok(SessionRecord { owner: Some(owner), .. })) => {
                    if lost.holds(hub, &stored.key, &owner).await {
                        orphans.push(stored.key);
                    }
                }
                found => over.extend(remains.are_old(&stored, found.and_then(Result::ok)).then_some(stored)),
            }
        }
        let work = orphans.len() + over.len();
        let pace = Duration::from_secs(1).mul_f64(work as f64 / f64::from(hub.config.sweep_per_second.max(1)));
        let rescues = stream::iter(orphans).map(|key| rescue(hub, key, &lost)).buffer_unordered(SIDE_BY_SIDE);
        taken += rescues.filter(|taken| std::future::ready(*taken)).count().await;
        stream::iter(over).for_each_concurrent(SIDE_BY_SIDE, |stored| remains::remove(hub, stored)).await;
        tokio::time::sleep(pace.max(BREATH)).await;
    }
    Ok(taken)
}

/// Which processes are lost, found out once per sweep.
#[derive(Default)]
struct Lost(HashMap<(WorkerName, Boot), bool>);

impl Lost {
    fn knows(&self, owner: &Owner) -> Option<bool> {
        self.0.get(&(owner.worker.clone(), owner.boot)).copied()
    }

    /// Whether `owner`, who has the session `key`, is lost.
    async fn holds(&mut self, hub: &Hub, key: &SessionKey, owner: &Owner) -> bool {
        if let Some(known) = self.knows(owner) {
            return known;
        }
        let is_lost = match hub.registry.liveness(owner) {
            Liveness::Live => false,
            Liveness::Gone => true,
            // It may have been cut off for a moment only, or be a start that this coordinator has not heard of.
            Liveness::Suspect | Liveness::Unknown => link::is_unheard(hub, owner, key).await,
        };
        self.0.insert((owner.worker.clone(), owner.boot), is_lost);
        is_lost
    }
}

/// Takes one session back, if its record still says what it said.
async fn rescue(hub: &Hub, key: SessionKey, lost: &Lost) -> bool {
    let (key, call) = (&key, Call::own(hub.config.request_timeout));
    let reclaimed = change(&mut Writer::new(hub, key, &call), &Reclaiming { lost }).await;
    let outcome = match reclaimed {
        Ok(Done { reply: SweepDecision::Move, .. }) => {
            place::place(hub, key, &call, &Beginning::Log).await.map(|_| true)
        }
        Ok(Done { wrote, .. }) => Ok(wrote != Wrote::Nothing),
        Err(not_done) => Err(error::of_not_done(not_done, key)),
    };
    outcome.unwrap_or_else(|error| {
        tracing::info!(%key, %error, "a session of a lost worker stays for the next sweep");
        false
    })
}

/// Takes a session from a worker that is gone, if nobody needs it just now.
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
