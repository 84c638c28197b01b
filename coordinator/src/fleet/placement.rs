//! Chooses the worker for a session: rendezvous hashing over the candidates, bounded by load.
//!
//! Invariant: coordinators that know the same workers choose the same one, and a worker that joins or leaves moves only
//! the sessions that it gains or loses. The load bound overrides this on purpose: no worker gets far more than the
//! mean. Source: Thaler and Ravishankar, rendezvous hashing (1998); Mirrokni et al., bounded loads (2016).
//!
//! Deliberately absent: which workers are alive (`workers`).

use holdfast_protocol::id::WorkspaceName;
use holdfast_protocol::{Process, SessionKey, SessionRecord, WorkerName};

/// A worker's load may be this much of the mean, in percent.
const BOUND_PERCENT: u64 = 125;
/// Sessions that a worker may have beyond that, so that a small fleet's sessions go where they hash to.
const SLACK: u64 = 8;

/// What a session needs of the worker that takes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Needs<'a> {
    /// The worker must host this kind of session.
    pub(crate) kind: &'a str,
    /// The worker must mount this workspace.
    pub(crate) workspace: Option<&'a WorkspaceName>,
}

impl<'a> Needs<'a> {
    /// The needs of the session of `record`.
    pub(crate) fn of(record: &'a SessionRecord) -> Self {
        Self { kind: &record.kind, workspace: record.workspace.as_ref() }
    }
}

/// A worker that may take the session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// Its process.
    pub(crate) process: Process,
    /// How many sessions it has.
    pub(crate) sessions: u64,
}

/// The candidate for `key`; `None` when there is none.
pub(crate) fn choose<'a>(key: &SessionKey, candidates: &'a [Candidate]) -> Option<&'a Candidate> {
    let total: u64 = candidates.iter().map(|candidate| candidate.sessions).sum();
    let bound = bound(total + 1, u64::try_from(candidates.len()).unwrap_or(u64::MAX));
    // The least loaded candidate is always within the bound, because the bound is above the mean.
    candidates
        .iter()
        .filter(|candidate| candidate.sessions < bound)
        .max_by_key(|candidate| (score(key, &candidate.process.worker), &candidate.process.worker))
}

fn bound(sessions: u64, workers: u64) -> u64 {
    (sessions * BOUND_PERCENT).div_ceil(100 * workers.max(1)) + SLACK
}

fn score(key: &SessionKey, worker: &WorkerName) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(key.namespace.as_str().as_bytes()).update(b".");
    hasher.update(key.id.as_str().as_bytes()).update(b"\0");
    hasher.update(worker.as_str().as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_be_bytes(first)
}

#[cfg(test)]
mod tests {
    use holdfast_protocol::{Boot, Namespace, SessionId};
    use uuid::Uuid;

    use super::*;

    fn key(n: u32) -> SessionKey {
        SessionKey::new(Namespace::parse("default").unwrap(), SessionId::parse(&format!("s{n}")).unwrap())
    }

    fn workers(names: &[&str]) -> Vec<Candidate> {
        names
            .iter()
            .map(|name| Process { worker: WorkerName::parse(name).unwrap(), boot: Boot(Uuid::nil()) })
            .map(|process| Candidate { process, sessions: 0 })
            .collect()
    }

    fn place(n: u32, candidates: &[Candidate]) -> &WorkerName {
        &choose(&key(n), candidates).unwrap().process.worker
    }

    #[test]
    fn nobody_is_chosen_among_nobody() {
        assert_eq!(choose(&key(1), &[]), None);
    }

    #[test]
    fn the_order_of_workers_does_not_matter() {
        let forth = workers(&["w1", "w2", "w3"]);
        let mut back = forth.clone();
        back.reverse();
        for n in 0..1_000 {
            assert_eq!(place(n, &forth), place(n, &back));
        }
    }

    #[test]
    fn a_worker_that_leaves_moves_only_its_own_sessions() {
        let before = workers(&["w1", "w2", "w3", "w4"]);
        let after: Vec<Candidate> =
            before.iter().filter(|candidate| candidate.process.worker.as_str() != "w3").cloned().collect();
        for n in 0..1_000 {
            if place(n, &before).as_str() != "w3" {
                assert_eq!(place(n, &before), place(n, &after), "session {n}");
            }
        }
    }

    #[test]
    fn a_worker_that_joins_takes_about_its_share_and_nothing_else_moves() {
        let before = workers(&["w1", "w2", "w3"]);
        let after = workers(&["w1", "w2", "w3", "w4"]);
        let moved: Vec<u32> = (0..4_000).filter(|n| place(*n, &before) != place(*n, &after)).collect();
        assert!(moved.iter().all(|n| place(*n, &after).as_str() == "w4"));
        assert!((800..1_200).contains(&moved.len()), "{} of 4000 moved", moved.len());
    }

    #[test]
    fn no_worker_gets_far_more_than_the_mean() {
        for count in [1, 2, 3, 7] {
            let names: Vec<String> = (0..count).map(|n| format!("w{n}")).collect();
            let mut candidates = workers(&names.iter().map(String::as_str).collect::<Vec<_>>());
            for n in 0..5_000 {
                let chosen = place(n, &candidates).clone();
                let candidate = candidates.iter_mut().find(|candidate| candidate.process.worker == chosen).unwrap();
                candidate.sessions += 1;
            }
            let most = candidates.iter().map(|candidate| candidate.sessions).max().unwrap();
            assert!(most <= bound(5_001, count), "{most} sessions on one of {count} workers");
        }
    }

    #[test]
    fn a_full_worker_is_passed_over_and_an_empty_fleet_of_one_is_not() {
        let mut candidates = workers(&["w1", "w2"]);
        let favourite = place(1, &candidates).clone();
        for candidate in &mut candidates {
            candidate.sessions = if candidate.process.worker == favourite { 1_000 } else { 10 };
        }
        assert_ne!(*place(1, &candidates), favourite);
        let mut alone = workers(&["w1"]);
        alone[0].sessions = 100_000;
        assert_eq!(place(1, &alone).as_str(), "w1");
    }
}
