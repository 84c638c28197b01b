//! Acknowledged edits are there exactly once and in order, and nothing was written by a token that lost.

use std::collections::{HashMap, HashSet};

use holdfast_protocol::subject::Verb;

use super::fold::Fold;
use crate::client::Reply;
use crate::history::{Outcome, Request};
use crate::run::Run;
use crate::world::key;

fn is_change(request: &Request) -> bool {
    matches!(request.verb, Verb::DocEdit | Verb::DocUndo | Verb::DocRedo)
}

/// Requests that the net delivered once more by itself, whoever sent them.
pub(super) fn copied_by_the_net(run: &Run) -> HashSet<String> {
    let copies = run.published.iter().filter(|message| message.is_copy);
    let ids = copies.filter_map(|message| {
        let body: serde_json::Value = serde_json::from_slice(&message.payload).ok()?;
        body["request_id"].as_str().map(str::to_owned)
    });
    ids.collect()
}

pub(super) fn once_and_in_order(run: &Run) -> Result<(), String> {
    let requests: HashMap<&str, &Request> =
        run.seen.requests.iter().map(|request| (request.id.as_str(), request)).collect();
    let copied = copied_by_the_net(run);
    let mut folds = HashMap::new();
    for (key, written) in &run.sessions {
        let fold = Fold::of(written, &requests).map_err(|how| format!("{key}: {how}"))?;
        folds.insert(key.clone(), fold);
    }
    for request in run.seen.requests.iter().filter(|request| is_change(request)) {
        let committed = folds.get(&key(&request.session)).and_then(|fold| fold.replies.get(&request.id));
        for (_, reply) in request.done() {
            if committed != Some(reply) {
                return Err(format!("{} was answered {reply} and committed as {committed:?}", request.id));
            }
        }
        if let Some(committed) = committed.filter(|_| !copied.contains(&request.id) && is_refused(request)) {
            return Err(format!("{} was refused for good and is committed as {committed}", request.id));
        }
    }
    Ok(())
}

/// Whether each copy was refused with a word that says that nothing was changed.
fn is_refused(request: &Request) -> bool {
    let is_definite = |outcome: &Outcome| match outcome {
        Outcome::Answered(Reply::Refused(error)) => error["code"] != "unknown_outcome",
        Outcome::Answered(Reply::Nobody) => true,
        Outcome::Answered(Reply::Done(_) | Reply::Silence) | Outcome::Open | Outcome::Left => false,
    };
    request.attempts.iter().all(|attempt| is_definite(&attempt.outcome))
}
