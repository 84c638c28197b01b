//! A worker's look at itself: its lease, its sessions and its workspaces.
//!
//! Invariant: nothing here waits for NATS or for a disk, except the task that looks at the workspaces; a folder that
//! does not answer delays only that task, which is then seen to be late.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_files::{Mount, Usability};
use holdfast_meters::{Check, Part, Probe};
use holdfast_protocol::id::WorkspaceName;
use holdfast_store::LEASE_TTL;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::worker::Shared;

/// How many stuck sessions a reason names.
const NAMED: usize = 3;

/// What the last looks at the workspaces found.
#[derive(Default)]
pub(crate) struct Looks(Mutex<BTreeMap<WorkspaceName, Look>>);

struct Look {
    /// Why it cannot be used.
    failure: Option<String>,
    /// When the look that is under way began.
    begun: Option<Instant>,
}

impl Looks {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<WorkspaceName, Look>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, name: &WorkspaceName) {
        let mut looks = self.lock();
        looks.entry(name.clone()).or_insert(Look { failure: None, begun: None }).begun = Some(Instant::now());
    }

    fn end(&self, name: &WorkspaceName, failure: Option<String>) {
        self.lock().insert(name.clone(), Look { failure, begun: None });
    }

    /// Why each workspace cannot be used; `None`: it can.
    fn failures(&self, patience: Duration) -> BTreeMap<WorkspaceName, Option<String>> {
        let failure = |look: &Look| {
            let late = look.begun.map(|begun| begun.elapsed()).filter(|late| *late > patience);
            late.map(|late| format!("its folder has not answered for {} s", late.as_secs())).or(look.failure.clone())
        };
        self.lock().iter().map(|(name, look)| (name.clone(), failure(look))).collect()
    }
}

/// Looks at the workspaces every `interval`, until `stop`.
pub(crate) async fn run(shared: Arc<Shared>, interval: Duration, stop: CancellationToken) {
    let looking = async {
        loop {
            for (name, mount) in &shared.core.mounts {
                shared.looks.begin(name);
                let failure = look(mount.clone()).await;
                if let Some(why) = &failure {
                    tracing::debug!(workspace = %name, why, "a workspace cannot be used");
                }
                shared.looks.end(name, failure);
            }
            tokio::time::sleep(interval).await;
        }
    };
    stop.run_until_cancelled(looking).await;
}

async fn look(mount: Arc<Mount>) -> Option<String> {
    let found = tokio::task::spawn_blocking(move || mount.usability()).await;
    match found {
        Ok(Usability::Usable) => None,
        Ok(Usability::Unusable(why)) => Some(why),
        Err(_) => Some("looking at its folder panicked".to_owned()),
    }
}

/// A worker as it shows itself.
pub(crate) struct Shown(pub(crate) Arc<Shared>);

impl Shown {
    fn part(&self) -> String {
        format!("worker {}", self.0.core.config.name)
    }

    fn lease_failure(&self) -> Option<String> {
        let age = self.0.core.health.age();
        (age >= LEASE_TTL).then(|| {
            let (age, ttl) = (age.as_secs(), LEASE_TTL.as_secs());
            format!("the lease was last renewed {age} s ago and lasts {ttl} s: coordinators may give its sessions away")
        })
    }

    fn stuck_failure(&self) -> Option<String> {
        let core = &self.0.core;
        let stuck = self.0.supervisor.stuck(core.config.patience);
        (!stuck.is_empty()).then(|| {
            let named: Vec<&str> = stuck.iter().take(NAMED).map(|key| key.id.as_str()).collect();
            let more = if stuck.len() > NAMED { ", ..." } else { "" };
            let (count, patience, named) = (stuck.len(), core.config.patience, named.join(", "));
            format!("{count} sessions have not come on with their work for {patience:?}: {named}{more}")
        })
    }
}

impl Part for Shown {
    fn observe(&self) {
        let core = &self.0.core;
        let meters = &core.config.meters;
        meters.lease_age(core.health.age());
        meters.mailbox_bytes(self.0.supervisor.waiting_bytes());
        meters.stuck(self.0.supervisor.stuck(core.config.patience).len());
        for (name, failure) in self.0.looks.failures(core.config.patience) {
            meters.workspace(name.as_str(), failure.is_none());
        }
    }

    fn checks(&self) -> Vec<Check> {
        let name_taken = self.0.name_taken.is_cancelled().then(|| "another process has taken its name".to_owned());
        let lease = name_taken.or_else(|| self.lease_failure());
        let draining = self.0.is_draining().then(|| "it is drained, and gets no new sessions".to_owned());
        let unusable = self.0.looks.failures(self.0.core.config.patience);
        let unusable = unusable.into_iter().filter_map(|(name, failure)| Some(format!("{name}: {}", failure?)));
        let unusable: Vec<String> = unusable.collect();
        let workspaces = (!unusable.is_empty()).then(|| unusable.join("; "));
        vec![
            Check::new("sessions", self.part(), Probe::Liveness, self.stuck_failure()),
            Check::new("lease", self.part(), Probe::Readiness, lease),
            Check::new("workspaces", self.part(), Probe::Readiness, workspaces),
            Check::new("draining", self.part(), Probe::Readiness, draining),
        ]
    }
}
