//! What this coordinator believes about workers, from their leases and from the fate of its own messages.
//!
//! Invariant: only this machine's monotonic clock is used. A lease's age counts from when its change was seen here, and
//! only while leases could be read, so an outage of JetStream makes no worker look dead.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use holdfast_protocol::id::WorkspaceName;
use holdfast_protocol::internal::WorkerLease;
use holdfast_protocol::record::Owner;
use holdfast_protocol::reply::WorkerState;
use holdfast_protocol::{Boot, Error, Process, Reason, Revision, WorkerName};
use tokio::time::Instant;

use crate::error;
use crate::fleet::placement::{Candidate, Needs};

/// How long a worker whose lease is missing is remembered, so that its return is recognised.
const REMEMBERED: Duration = Duration::from_secs(600);
/// How many processes without a lease are remembered. Forgetting one costs one message without a responder.
const STRANGERS: usize = 1_024;

/// For how long messages for a process must have no responder before it counts as gone. A process whose nats-server
/// died reconnects to another server sooner than that.
pub(crate) const CONFIRM: Duration = Duration::from_millis(50);
/// For how long after an outage of NATS a missing responder proves nothing: the process may still be reconnecting.
const AFTER_OUTAGE: Duration = Duration::from_secs(2);
// By then every process has tried to reconnect.
const _: () = assert!(holdfast_store::connect::RECONNECT_MAX.as_millis() * 2 < AFTER_OUTAGE.as_millis());

/// Whether a process seems alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Liveness {
    /// It seems alive.
    Live,
    /// Its messages have no responder, whatever its lease says.
    Suspect,
    /// Its lease is missing, was not renewed in time, or was replaced by the lease of a later start of the worker.
    Gone,
    /// The worker's lease names another start, and this start was never seen. It may be an earlier one, or a later one
    /// that another coordinator has seen. Only a message to it can tell.
    Unknown,
}

/// How many earlier starts of a worker are remembered.
const EARLIER: usize = 16;

#[derive(Debug)]
struct Entry {
    lease: WorkerLease,
    /// Earlier starts of the worker whose leases were seen, the latest last.
    earlier: VecDeque<Boot>,
    revision: Revision,
    changed_at: Instant,
    missing_since: Option<Instant>,
    /// Sessions placed there since the lease last reported its number of sessions.
    placed: u64,
    /// Set while messages had no responder since the lease last changed.
    unheard: Option<Unheard>,
    /// Whether its loss was already reported.
    was_gone: bool,
    /// When the process was last probed.
    probed_at: Option<Instant>,
}

/// Messages for a process have had no responder.
#[derive(Clone, Copy, Debug)]
struct Unheard {
    since: Instant,
    /// This has lasted for [`CONFIRM`].
    is_confirmed: bool,
}

impl Unheard {
    fn confirmed(unheard: Option<&Self>) -> bool {
        unheard.is_some_and(|unheard| unheard.is_confirmed)
    }
}

/// All workers that were seen within [`REMEMBERED`].
#[derive(Debug)]
pub(crate) struct Workers {
    /// Ordered, so that decisions over all of them are deterministic.
    entries: BTreeMap<WorkerName, Entry>,
    /// Unheard processes whose lease was never seen. A record that was edited by hand may name any process.
    strangers: HashMap<Process, Unheard>,
    first_poll: Option<Instant>,
    last_poll: Option<Instant>,
    /// When NATS or JetStream was last known to be unavailable.
    outage: Option<Instant>,
    ttl: Duration,
    grace: Duration,
}

impl Workers {
    pub(crate) fn new(ttl: Duration, grace: Duration) -> Self {
        let (entries, strangers) = (BTreeMap::new(), HashMap::new());
        Self { entries, strangers, first_poll: None, last_poll: None, outage: None, ttl, grace }
    }

    /// Learns all leases as they were at `now`. Returns whether a process newly counts as gone.
    pub(crate) fn learn(&mut self, leases: Vec<(Revision, WorkerLease)>, now: Instant) -> bool {
        self.forgive_blindness(now);
        self.first_poll.get_or_insert(now);
        self.last_poll = Some(now);
        let mut lost = false;
        for entry in self.entries.values_mut() {
            entry.missing_since.get_or_insert(now);
        }
        for (revision, lease) in leases {
            lost |= self.learn_one(revision, lease, now);
        }
        let (ttl, grace) = (self.ttl, self.grace);
        for entry in self.entries.values_mut() {
            let is_gone = entry.is_gone(now, ttl, grace);
            lost |= is_gone && !entry.was_gone;
            entry.was_gone = is_gone;
        }
        self.entries.retain(|_, entry| entry.missing_since.is_none_or(|since| now - since < REMEMBERED));
        lost
    }

    /// Extends all deadlines by the time in which no lease could be read.
    fn forgive_blindness(&mut self, now: Instant) {
        let Some(blind) = self.last_poll.map(|last| now - last).filter(|blind| *blind > self.grace) else { return };
        self.outage(now);
        for entry in self.entries.values_mut() {
            entry.changed_at += blind;
            entry.missing_since = entry.missing_since.map(|since| since + blind);
        }
    }

    fn learn_one(&mut self, revision: Revision, lease: WorkerLease, now: Instant) -> bool {
        self.strangers.remove(&lease.process());
        let Some(entry) = self.entries.get_mut(&lease.worker) else {
            let entry = Entry {
                revision,
                changed_at: now,
                missing_since: None,
                placed: 0,
                unheard: None,
                was_gone: false,
                probed_at: None,
                earlier: VecDeque::new(),
                lease: lease.clone(),
            };
            self.entries.insert(lease.worker, entry);
            return false;
        };
        entry.missing_since = None;
        if entry.revision == revision {
            return false;
        }
        let restarted = entry.lease.boot != lease.boot;
        if restarted {
            entry.earlier.retain(|boot| *boot != lease.boot);
            entry.earlier.push_back(entry.lease.boot);
            if entry.earlier.len() > EARLIER {
                entry.earlier.pop_front();
            }
        }
        entry.revision = revision;
        entry.lease = lease;
        entry.changed_at = now;
        entry.placed = 0;
        entry.unheard = None;
        restarted
    }

    /// Notes that a message for `process` had no responder. Returns whether the process newly counts as gone.
    pub(crate) fn unheard(&mut self, process: &Process, now: Instant) -> bool {
        let is_outage = self.outage.is_some_and(|outage| now.saturating_duration_since(outage) < AFTER_OUTAGE);
        let fresh = Unheard { since: now, is_confirmed: false };
        let unheard = match self.entries.get_mut(&process.worker).filter(|entry| entry.lease.boot == process.boot) {
            Some(entry) => entry.unheard.get_or_insert(fresh),
            None => {
                if self.strangers.len() >= STRANGERS && !self.strangers.contains_key(process) {
                    self.strangers.clear();
                }
                self.strangers.entry(process.clone()).or_insert(fresh)
            }
        };
        if unheard.is_confirmed || is_outage || now.saturating_duration_since(unheard.since) < CONFIRM {
            return false;
        }
        unheard.is_confirmed = true;
        true
    }

    /// Notes that the process of `owner` answered.
    pub(crate) fn heard(&mut self, owner: &Owner) {
        self.strangers.remove(&owner.process());
        if let Some(entry) = self.entries.get_mut(&owner.worker).filter(|entry| entry.lease.boot == owner.boot) {
            entry.unheard = None;
        }
    }

    /// Notes that NATS or JetStream was unavailable until `now`.
    pub(crate) fn outage(&mut self, now: Instant) {
        self.outage = Some(now);
    }

    /// Whether the last message for the process of `owner` had no responder. It may not be confirmed yet.
    pub(crate) fn is_doubted(&self, owner: &Owner) -> bool {
        self.unheard_of(owner).is_some()
    }

    /// Whether the process of `owner` counts as gone because its messages have had no responder for [`CONFIRM`].
    pub(crate) fn is_unheard(&self, owner: &Owner) -> bool {
        Unheard::confirmed(self.unheard_of(owner))
    }

    fn unheard_of(&self, owner: &Owner) -> Option<&Unheard> {
        match self.entries.get(&owner.worker).filter(|entry| entry.lease.boot == owner.boot) {
            Some(entry) => entry.unheard.as_ref(),
            // The common case; it saves making a key.
            None if self.strangers.is_empty() => None,
            None => self.strangers.get(&owner.process()),
        }
    }

    /// Whether nobody has probed the process of `owner` within `every`; then the caller must.
    pub(crate) fn begin_probe(&mut self, owner: &Owner, every: Duration, now: Instant) -> bool {
        let Some(entry) = self.entries.get_mut(&owner.worker).filter(|entry| entry.lease.boot == owner.boot) else {
            // A process whose lease was not read yet. Rare, so its probes are not counted.
            return true;
        };
        let is_due = entry.probed_at.is_none_or(|probed| now.saturating_duration_since(probed) >= every);
        if is_due {
            entry.probed_at = Some(now);
        }
        is_due
    }

    /// Notes that `worker` was set to `state`, before its next lease says so.
    pub(crate) fn told(&mut self, worker: &WorkerName, state: WorkerState) {
        if let Some(entry) = self.entries.get_mut(worker) {
            entry.lease.state = state;
        }
    }

    /// Whether the process of `owner` seems alive.
    pub(crate) fn liveness(&self, owner: &Owner) -> Liveness {
        if self.is_unheard(owner) {
            return Liveness::Suspect;
        }
        let Some(now) = self.last_poll else { return Liveness::Live };
        let Some(entry) = self.entries.get(&owner.worker) else {
            // During an outage, and until all leases are written again, a lease that was never seen proves nothing.
            let since = self.first_poll.max(self.outage);
            let watched = since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
            return if watched >= self.grace { Liveness::Gone } else { Liveness::Live };
        };
        // The ids do not tell which of two starts came first: they come from another machine's clock.
        if owner.boot == entry.lease.boot {
            if entry.is_gone(now, self.ttl, self.grace) { Liveness::Gone } else { Liveness::Live }
        } else if entry.earlier.contains(&owner.boot) {
            Liveness::Gone
        } else {
            Liveness::Unknown
        }
    }

    /// Whether sessions of `owner` should move. When no other worker is ready, a worker whose lease ran out keeps its
    /// sessions until a message to it has no responder.
    pub(crate) fn is_lost(&self, owner: &Owner) -> bool {
        match self.liveness(owner) {
            Liveness::Live | Liveness::Unknown => false,
            Liveness::Suspect => true,
            Liveness::Gone => self.live().any(|lease| lease.state == WorkerState::Ready),
        }
    }

    /// The workers that seem alive.
    pub(crate) fn live(&self) -> impl Iterator<Item = &WorkerLease> {
        let now = self.last_poll;
        self.entries
            .values()
            .filter(move |entry| now.is_some_and(|now| entry.is_present(now, self.ttl)))
            .map(|entry| &entry.lease)
    }

    /// The workers that may take a session with these needs, without `except`. A worker that cannot write in the
    /// workspace is a candidate only if no worker can.
    ///
    /// # Errors
    /// `no_live_worker` when no worker is ready, or none of them hosts the kind; `no_workspace` when none of those has
    /// the workspace.
    pub(crate) fn candidates(&self, needs: Needs<'_>, except: Option<&WorkerName>) -> Result<Vec<Candidate>, Error> {
        let Needs { kind, workspace } = needs;
        let mut fitting: Vec<&WorkerLease> =
            self.live().filter(|lease| lease.state == WorkerState::Ready && Some(&lease.worker) != except).collect();
        if fitting.is_empty() {
            return Err(error::no_live_worker("no worker is there to take the session"));
        }
        fitting.retain(|lease| hosts(lease, kind));
        if fitting.is_empty() {
            let message = format!("no worker is there that hosts sessions of kind {kind}");
            return Err(error::no_live_worker(&message).detail("kind", kind));
        }
        fitting.retain(|lease| workspace.is_none_or(|workspace| has(lease, workspace)));
        if fitting.iter().any(|lease| may_write(lease, workspace)) {
            fitting.retain(|lease| may_write(lease, workspace));
        }
        let candidates: Vec<Candidate> = fitting.into_iter().map(|lease| self.candidate(lease)).collect();
        match (candidates.is_empty(), workspace) {
            (true, Some(workspace)) => Err(no_workspace(workspace)),
            _ => Ok(candidates),
        }
    }

    /// Whether `owner` can save files of `workspace`, according to its lease.
    pub(crate) fn may_write(&self, owner: &Owner, workspace: &WorkspaceName) -> bool {
        let lease = self.entries.get(&owner.worker).map(|entry| &entry.lease);
        lease
            .is_some_and(|lease| lease.boot == owner.boot && has(lease, workspace) && may_write(lease, Some(workspace)))
    }

    /// The workers that may take a session with these needs and can save its file.
    pub(crate) fn writers(&self, needs: Needs<'_>) -> Vec<Candidate> {
        let fits = |lease: &&WorkerLease| {
            lease.state == WorkerState::Ready
                && hosts(lease, needs.kind)
                && needs.workspace.is_some_and(|workspace| has(lease, workspace))
                && may_write(lease, needs.workspace)
        };
        self.live().filter(fits).map(|lease| self.candidate(lease)).collect()
    }

    fn candidate(&self, lease: &WorkerLease) -> Candidate {
        let placed = self.entries.get(&lease.worker).map_or(0, |entry| entry.placed);
        Candidate { process: lease.process(), sessions: lease.sessions + placed }
    }

    /// Counts a session that was just placed on `worker`.
    pub(crate) fn placed(&mut self, worker: &WorkerName) {
        if let Some(entry) = self.entries.get_mut(worker) {
            entry.placed += 1;
        }
    }
}

impl Entry {
    fn is_gone(&self, now: Instant, ttl: Duration, grace: Duration) -> bool {
        now.saturating_duration_since(self.changed_at) >= ttl
            || self.missing_since.is_some_and(|since| now.saturating_duration_since(since) >= grace)
    }

    fn is_present(&self, now: Instant, ttl: Duration) -> bool {
        self.missing_since.is_none() && self.unheard.is_none() && now.saturating_duration_since(self.changed_at) < ttl
    }
}

/// Whether a worker hosts sessions of `kind`.
pub(crate) fn hosts(lease: &WorkerLease, kind: &str) -> bool {
    lease.kinds.iter().any(|hosted| hosted == kind)
}

/// Whether a worker mounts `workspace`.
pub(crate) fn has(lease: &WorkerLease, workspace: &WorkspaceName) -> bool {
    lease.workspaces.iter().any(|name| name == workspace.as_str())
}

/// Whether the worker can save files of `workspace`, which it mounts. Without a workspace there is no file: always
/// true.
pub(crate) fn may_write(lease: &WorkerLease, workspace: Option<&WorkspaceName>) -> bool {
    !workspace.is_some_and(|workspace| lease.read_only.iter().any(|name| name == workspace.as_str()))
}

pub(crate) fn no_workspace(workspace: &WorkspaceName) -> Error {
    Error::new(Reason::NoWorkspace, format!("no worker has the workspace {workspace}"))
        .detail("workspace", workspace.as_str())
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const TTL: Duration = Duration::from_secs(10);
    const GRACE: Duration = Duration::from_secs(4);

    fn lease(worker: &str, boot: u128) -> WorkerLease {
        WorkerLease {
            worker: WorkerName::parse(worker).unwrap(),
            boot: Boot(Uuid::from_u128(boot)),
            state: WorkerState::Ready,
            sessions: 0,
            workspaces: vec!["main".to_owned()],
            read_only: Vec::new(),
            kinds: vec!["document".to_owned()],
            version: String::new(),
        }
    }

    fn document(workspace: Option<&WorkspaceName>) -> Needs<'_> {
        Needs { kind: "document", workspace }
    }

    fn owner(worker: &str, boot: u128) -> Owner {
        Owner { boot: Boot(Uuid::from_u128(boot)), ..crate::fixture::owner(worker) }
    }

    /// A worker w1 (boot 5) at second 0 and w2 (boot 6), whose leases move on every second until told otherwise.
    fn fleet() -> (Workers, Instant) {
        let mut workers = Workers::new(TTL, GRACE);
        let start = Instant::now();
        workers.learn(vec![(Revision(1), lease("w1", 5)), (Revision(2), lease("w2", 6))], start);
        (workers, start)
    }

    fn second(start: Instant, second: u64) -> Instant {
        start + Duration::from_secs(second)
    }

    #[test]
    fn a_lease_that_stands_still_for_its_lifetime_means_gone() {
        let (mut workers, start) = fleet();
        for n in 1..10 {
            let lost =
                workers.learn(vec![(Revision(1), lease("w1", 5)), (Revision(2 + n), lease("w2", 6))], second(start, n));
            assert!(!lost && workers.liveness(&owner("w1", 5)) == Liveness::Live, "second {n}");
        }
        assert!(workers.learn(vec![(Revision(1), lease("w1", 5)), (Revision(99), lease("w2", 6))], second(start, 10)));
        assert_eq!(workers.liveness(&owner("w1", 5)), Liveness::Gone);
        assert!(workers.is_lost(&owner("w1", 5)));
        assert_eq!(workers.liveness(&owner("w2", 6)), Liveness::Live);
    }

    #[test]
    fn a_missing_lease_takes_no_sessions_at_once_and_loses_its_own_after_the_grace() {
        let (mut workers, start) = fleet();
        for n in 1..=5 {
            let lost = workers.learn(vec![(Revision(2 + n), lease("w2", 6))], second(start, n));
            assert_eq!(lost, n == 5, "told once, at the end of the grace");
            assert_eq!(workers.liveness(&owner("w1", 5)) == Liveness::Gone, n == 5);
            assert_eq!(workers.candidates(document(None), None).unwrap().len(), 1);
        }
    }

    #[test]
    fn time_without_reading_leases_does_not_count() {
        let (mut workers, start) = fleet();
        // A minute's outage; then w2 has written its lease again, and w1 not yet.
        assert!(!workers.learn(vec![(Revision(9), lease("w2", 6))], second(start, 60)));
        assert_eq!(workers.liveness(&owner("w1", 5)), Liveness::Live);
        assert!(
            !workers.learn(vec![(Revision(10), lease("w2", 6)), (Revision(11), lease("w1", 5))], second(start, 61))
        );
        assert_eq!(workers.candidates(document(None), None).unwrap().len(), 2);
    }

    #[test]
    fn a_later_start_of_a_worker_loses_the_sessions_of_the_earlier_one() {
        let (mut workers, start) = fleet();
        assert!(workers.learn(vec![(Revision(3), lease("w1", 7)), (Revision(2), lease("w2", 6))], second(start, 1)));
        assert_eq!(workers.liveness(&owner("w1", 5)), Liveness::Gone);
        assert_eq!(workers.liveness(&owner("w1", 7)), Liveness::Live);
        for never_seen in [4, 8] {
            assert_eq!(workers.liveness(&owner("w1", never_seen)), Liveness::Unknown, "only asking it tells");
            assert!(!workers.is_lost(&owner("w1", never_seen)), "another coordinator may know more");
        }
        assert!(gone(&mut workers, &owner("w1", 4), second(start, 2)), "nobody listens for it");
        assert_eq!(workers.liveness(&owner("w1", 4)), Liveness::Suspect);
    }

    #[test]
    fn a_worker_that_nobody_heard_of_is_suspect_until_its_lease_moves_on() {
        let (mut workers, start) = fleet();
        assert!(!workers.unheard(&owner("w1", 5).process(), start), "to be confirmed");
        assert_eq!(workers.liveness(&owner("w1", 5)), Liveness::Live);
        assert_eq!(workers.candidates(document(None), None).unwrap().len(), 1, "it takes no sessions in doubt");
        assert!(workers.unheard(&owner("w1", 5).process(), start + CONFIRM));
        assert!(!workers.unheard(&owner("w1", 5).process(), start + CONFIRM), "no news");
        assert_eq!(workers.liveness(&owner("w1", 5)), Liveness::Suspect);
        assert!(workers.is_lost(&owner("w1", 5)));
        assert_eq!(workers.candidates(document(None), None).unwrap().len(), 1);
        workers.learn(vec![(Revision(3), lease("w1", 5)), (Revision(4), lease("w2", 6))], second(start, 1));
        assert_eq!(workers.liveness(&owner("w1", 5)), Liveness::Live);
    }

    /// Nobody listens for `owner` for long enough, from `at` on.
    fn gone(workers: &mut Workers, owner: &Owner, at: Instant) -> bool {
        let first = workers.unheard(&owner.process(), at);
        let second = workers.unheard(&owner.process(), at + CONFIRM);
        !first && second
    }

    #[test]
    fn a_worker_that_was_only_cut_off_for_a_moment_is_not_gone() {
        let (mut workers, start) = fleet();
        let owner = owner("w1", 5);
        assert!(!workers.unheard(&owner.process(), start));
        assert!(workers.is_doubted(&owner));
        workers.heard(&owner);
        assert!(!workers.is_doubted(&owner));
        assert!(!workers.unheard(&owner.process(), start + CONFIRM), "the time counts from the start again");
        assert_eq!(workers.candidates(document(None), None).unwrap().len(), 1);
    }

    #[test]
    fn after_an_outage_of_nats_workers_have_time_to_connect_again() {
        let (mut workers, start) = fleet();
        let owner = owner("w1", 5);
        workers.outage(start);
        let late = start + AFTER_OUTAGE;
        assert!(!workers.unheard(&owner.process(), start));
        assert!(!workers.unheard(&owner.process(), late.checked_sub(CONFIRM).unwrap()));
        assert_eq!(workers.liveness(&owner), Liveness::Live);
        assert!(workers.unheard(&owner.process(), late));
        assert_eq!(workers.liveness(&owner), Liveness::Suspect);
    }

    #[test]
    fn a_worker_that_joined_in_an_outage_is_not_gone() {
        let (mut workers, start) = fleet();
        let leases = || vec![(Revision(1), lease("w1", 5)), (Revision(2), lease("w2", 6))];
        workers.learn(leases(), second(start, 4));
        let joined = owner("w3", 7);
        assert_eq!(workers.liveness(&joined), Liveness::Gone, "its lease should have been seen by now");
        workers.outage(second(start, 6));
        assert_eq!(workers.liveness(&joined), Liveness::Live);
        workers.learn(leases(), second(start, 8));
        assert_eq!(workers.liveness(&joined), Liveness::Live);
        workers.learn(leases(), second(start, 10));
        assert_eq!(workers.liveness(&joined), Liveness::Gone);
    }

    #[test]
    fn one_of_all_who_wait_asks_whether_a_process_is_there_and_all_learn_it() {
        let (mut workers, start) = fleet();
        let every = Duration::from_millis(50);
        let (owner, other) = (owner("w1", 5), owner("w2", 6));
        assert!(workers.begin_probe(&owner, every, start));
        assert!(!workers.begin_probe(&owner, every, start + every / 2), "another one asks already");
        assert!(workers.begin_probe(&other, every, start + every / 2));
        assert!(workers.begin_probe(&owner, every, start + every));
        assert!(!workers.is_unheard(&owner));
        gone(&mut workers, &owner, start);
        assert!(workers.is_unheard(&owner) && !workers.is_unheard(&other));
        workers.learn(vec![(Revision(3), lease("w1", 5)), (Revision(4), lease("w2", 6))], second(start, 1));
        assert!(!workers.is_unheard(&owner), "its lease moved on");
    }

    #[test]
    fn a_process_without_a_lease_is_suspect_once_nobody_listens_for_it_until_its_lease_is_there() {
        let (mut workers, start) = fleet();
        for stranger in [owner("w1", 9), owner("w3", 5)] {
            assert!(!workers.is_lost(&stranger), "this coordinator may know too little");
            assert!(gone(&mut workers, &stranger, start));
            assert_eq!(workers.liveness(&stranger), Liveness::Suspect);
        }
        assert_eq!(workers.liveness(&owner("w1", 5)), Liveness::Live, "another process of that worker");
        workers.learn(vec![(Revision(3), lease("w3", 5))], second(start, 1));
        assert_eq!(workers.liveness(&owner("w3", 5)), Liveness::Live);
        for boot in 0..2 * STRANGERS as u128 {
            workers.unheard(&owner("w4", boot).process(), start);
        }
        assert!(workers.strangers.len() <= STRANGERS);
    }

    #[test]
    fn without_anybody_else_a_worker_without_a_lease_keeps_its_sessions() {
        let mut workers = Workers::new(TTL, GRACE);
        let start = Instant::now();
        workers.learn(vec![], start);
        assert_eq!(
            workers.liveness(&owner("w1", 5)),
            Liveness::Live,
            "a coordinator that has just started knows little"
        );
        workers.learn(vec![], second(start, 4));
        assert_eq!(workers.liveness(&owner("w1", 5)), Liveness::Gone);
        assert!(!workers.is_lost(&owner("w1", 5)));
    }

    #[test]
    fn candidates_are_ready_and_have_the_workspace() {
        let mut workers = Workers::new(TTL, GRACE);
        let reason = |result: Result<Vec<Candidate>, Error>| result.unwrap_err().reason;
        let (main, other) = (WorkspaceName::parse("main").unwrap(), WorkspaceName::parse("other").unwrap());
        assert_eq!(reason(workers.candidates(document(None), None)), Reason::NoLiveWorker);
        workers.learn(vec![(Revision(1), lease("w1", 5)), (Revision(2), lease("w2", 6))], Instant::now());
        assert_eq!(workers.candidates(document(Some(&main)), None).unwrap().len(), 2);
        assert_eq!(reason(workers.candidates(document(Some(&other)), None)), Reason::NoWorkspace);
        let w1 = owner("w1", 5).worker;
        assert_eq!(workers.candidates(document(None), Some(&w1)).unwrap().len(), 1);
        workers.told(&owner("w2", 6).worker, WorkerState::Draining);
        assert_eq!(reason(workers.candidates(document(None), Some(&w1))), Reason::NoLiveWorker);
        workers.placed(&w1);
        assert_eq!(workers.candidates(document(None), None).unwrap()[0].sessions, 1);
    }

    #[test]
    fn a_lease_that_says_nothing_of_kinds_is_of_a_worker_of_documents() {
        let mut lease = serde_json::to_value(lease("w1", 5)).unwrap();
        assert!(lease.as_object_mut().unwrap().remove("kinds").is_none(), "nor is it said where it need not be");
        let lease: WorkerLease = serde_json::from_value(lease).unwrap();
        assert!(hosts(&lease, "document") && !hosts(&lease, "counter"));
    }

    #[test]
    fn only_who_hosts_a_kind_is_a_candidate_for_it() {
        let mut workers = Workers::new(TTL, GRACE);
        let main = WorkspaceName::parse("main").unwrap();
        let counters = WorkerLease { kinds: vec!["counter".to_owned()], ..lease("w2", 6) };
        workers.learn(vec![(Revision(1), lease("w1", 5)), (Revision(2), counters)], Instant::now());
        let names = |kind, workspace| -> Vec<String> {
            let found = workers.candidates(Needs { kind, workspace }, None).unwrap();
            found.into_iter().map(|candidate| candidate.process.worker.to_string()).collect()
        };
        assert_eq!((names("document", None), names("counter", None)), (vec!["w1".to_owned()], vec!["w2".to_owned()]));
        assert_eq!(names("counter", Some(&main)), ["w2"]);
        let writers = workers.writers(Needs { kind: "counter", workspace: Some(&main) });
        assert_eq!(writers.len(), 1);
        let refusal = workers.candidates(Needs { kind: "clock", workspace: None }, None).unwrap_err();
        assert_eq!((refusal.reason, &refusal.details["kind"]), (Reason::NoLiveWorker, &"clock".into()));
        assert!(refusal.retryable, "a worker that hosts it may come");
    }

    #[test]
    fn who_may_not_write_is_a_candidate_only_where_nobody_may() {
        let mut workers = Workers::new(TTL, GRACE);
        let main = WorkspaceName::parse("main").unwrap();
        let reader = WorkerLease { read_only: vec!["main".to_owned()], ..lease("w1", 5) };
        workers.learn(vec![(Revision(1), reader), (Revision(2), lease("w2", 6))], Instant::now());
        let names = |workspace, except| -> Vec<String> {
            let found: Vec<Candidate> = workers.candidates(document(workspace), except).unwrap();
            found.into_iter().map(|candidate| candidate.process.worker.to_string()).collect()
        };
        assert_eq!(names(Some(&main), None), ["w2"]);
        assert_eq!(names(None, None).len(), 2, "what has no file is everybody's");
        let w2 = owner("w2", 6).worker;
        assert_eq!(names(Some(&main), Some(&w2)), ["w1"]);
        let writers: Vec<WorkerName> =
            workers.writers(document(Some(&main))).into_iter().map(|writer| writer.process.worker).collect();
        assert_eq!(writers, [w2]);
        assert!(!workers.may_write(&owner("w1", 5), &main));
        assert!(workers.may_write(&owner("w2", 6), &main));
        assert!(!workers.may_write(&owner("w2", 7), &main), "another start may be another one");
    }
}
