//! Acknowledged edits are there exactly once, as they were acknowledged; what was refused for good is not there.

use holdfast_protocol::subject::Verb;

use super::facts::Facts;
use crate::client::Reply;
use crate::history::{Outcome, Request};

fn is_change(request: &Request) -> bool {
    matches!(request.verb, Verb::DocEdit | Verb::DocUndo | Verb::DocRedo)
}

pub(super) fn once_and_in_order(facts: &Facts<'_>) -> Result<(), String> {
    for request in facts.run.seen.requests.iter().filter(|request| is_change(request)) {
        let committed = facts.fold_of(request).and_then(|fold| fold.replies.get(&request.id));
        for (_, reply) in request.done() {
            if committed != Some(reply) {
                return Err(format!("{} was answered {reply} and is committed as {committed:?}", request.id));
            }
        }
        // A copy that the net made by itself has an answer that nobody saw.
        if let Some(committed) = committed.filter(|_| !facts.copied.contains(&request.id) && is_refused(request)) {
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
