//! What a newer revision of a record means to the session's agent: it still has the session, has lost it, or the
//! session is over. The revision may be a coordinator's or a hand edit.
//!
//! Deliberately absent: the signals of a hand edit (`signal::of_hand_edit` in `protocol`).

use holdfast_protocol::record::{SessionRecord, State};
use holdfast_protocol::{Activation, Boot, Revision, WorkerName};

/// The agent that learns a revision.
#[derive(Clone, Copy, Debug)]
pub struct Holder<'a> {
    /// Its worker's name.
    pub worker: &'a WorkerName,
    /// Its worker's process.
    pub boot: Boot,
    /// Its assignment.
    pub activation: Activation,
}

/// What a revision means to an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learnt {
    /// Nothing: the agent knows this revision or a newer one.
    Nothing,
    /// It still has the session, under this revision.
    Holds,
    /// It does not have the session any more.
    Lost,
    /// The session was closed.
    Over,
}

/// What `record` at `revision` means to `holder`, which knows `known` at `known_at`.
pub fn learn(
    known: &SessionRecord,
    known_at: Revision,
    record: &SessionRecord,
    revision: Revision,
    holder: Holder<'_>,
) -> Learnt {
    if revision <= known_at {
        return Learnt::Nothing;
    }
    // A hand edit may name another worker and keep the activation: then that worker appends under the same fence.
    let is_same = record.owner.as_ref().is_some_and(|owner| owner.activation == holder.activation);
    if is_same && record.is_owned_by(holder.worker, holder.boot) {
        return Learnt::Holds;
    }
    let is_same_life = record.log_after == known.log_after;
    if record.state == State::Closed && is_same_life { Learnt::Over } else { Learnt::Lost }
}
