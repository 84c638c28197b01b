//! What operators did to workers is in `HF_AUDIT`: each act once, none that nobody asked for, and none is missing
//! unless a process was killed or cut off before it could be stored.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use holdfast_protocol::act::Act;
use holdfast_protocol::subject::Verb;

use super::facts::Facts;
use crate::history::Fault;

/// How long a coordinator goes on to publish an act, and a little more.
const PUBLISHED: Duration = Duration::from_secs(35);

/// The event of a request that is an act.
fn event(verb: Verb) -> Option<&'static str> {
    match verb {
        Verb::WorkerDrain => Some("worker.drained"),
        Verb::WorkerUndrain => Some("worker.undrained"),
        _ => None,
    }
}

pub(super) fn kept_once(facts: &Facts<'_>) -> Result<(), String> {
    // The processes that each request took effect on.
    let mut kept: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for message in &facts.run.acts {
        let act: Act = serde_json::from_slice(&message.payload).map_err(|error| format!("no act: {error}"))?;
        let id = act.correlationid.as_str();
        let request = facts.requests.get(id).ok_or_else(|| format!("nobody asked for {act:?}"))?;
        if event(request.verb) != Some(act.event()) || act.subject != request.session {
            return Err(format!("{act:?} is kept, and {id} asked for {} {}", request.verb, request.session));
        }
        let boot = act.data.get("boot").map(ToString::to_string).unwrap_or_default();
        if !kept.entry(id.to_owned()).or_default().insert(boot) {
            return Err(format!("the act of {id} is kept twice: {act:?}"));
        }
    }
    let is_in_the_way = |fault: &Fault| matches!(fault, Fault::Link(_) | Fault::Absent(_));
    for request in &facts.run.seen.requests {
        let Some(first) = request.attempts.first().filter(|_| event(request.verb).is_some()) else { continue };
        let Some((done, _)) = request.done().next() else { continue };
        let is_calm = facts.run.seen.is_calm(first.sent, done.ended + PUBLISHED, is_in_the_way);
        if is_calm && !kept.contains_key(&request.id) {
            return Err(format!("{} {} of {} is done, and is no act", request.verb, request.session, request.id));
        }
    }
    Ok(())
}
