//! `--dry-run` of takeover, unlock and move: who would lose what. Nothing is changed, and the output is the same for
//! programs whichever of them it is.

use std::time::Duration;

use holdfast_client::protocol::reply::{AgentPresence, AgentPreview, Preview};
use holdfast_client::protocol::{Error, Reason};

use crate::ask::Asker;
use crate::exit::Failure;
use crate::session::Of;
use crate::table::Facts;

/// What would be done.
#[derive(Clone, Debug)]
pub(crate) enum Planned {
    /// The lock goes to this owner.
    Takeover { owner: String },
    /// The lock is freed.
    Unlock,
    /// The session moves to this worker, or to any other.
    Move { worker: Option<String> },
}

/// Shows what `planned` would do to a session. With `expected_lock_revision` it fails as the request itself would.
pub(crate) async fn show(
    asker: &Asker,
    session: &Of,
    planned: &Planned,
    expected_lock_revision: Option<u64>,
) -> Result<(), Failure> {
    let call = asker.signed(asker.session(session).preview());
    let reply = match call.send_raw().await {
        Ok(reply) => reply,
        // A coordinator of an earlier version does not know the verb, and so changes nothing.
        Err(error) if is_unknown_verb(&error) => {
            return Err(Failure::Other(anyhow::anyhow!(
                "the coordinator that answered is of an earlier version and cannot tell; nothing was changed"
            )));
        }
        Err(error) => return Err(error.into()),
    };
    let preview: Preview = call.read(&reply)?;
    let found = preview.session.lock_revision;
    if let Some(expected) = expected_lock_revision.filter(|expected| *expected != found) {
        let message = format!("session {} is at lock revision {found}, not {expected}", session.id);
        let moved = Error::new(Reason::LockMoved, message).detail("session_id", session.id.as_str());
        return Err(holdfast_client::Error::from(moved).into());
    }
    asker.write(&reply, &text(&preview, planned))
}

fn is_unknown_verb(error: &holdfast_client::Error) -> bool {
    let error = error.contract();
    error.reason == Reason::BadValue && error.message.starts_with("no request is named")
}

/// The preview for a person.
fn text(preview: &Preview, planned: &Planned) -> String {
    let session = &preview.session;
    let mut facts = Facts::new().add("session", &session.id).add("would", would(preview, planned));
    facts = match &session.lock {
        None => facts.add("lock", "free: nobody loses it"),
        Some(lock) => {
            let held = preview.held_for_ms.map_or_else(String::new, |ms| format!(", for {}", spoken(ms)));
            let expires = preview.expires_in_ms.map(|ms| format!("in {} unless it is renewed", spoken(ms)));
            let actor = preview.lock_actor.as_ref().map(|actor| format!(", asked for by {actor}"));
            let proven = preview.lock_actor_proven.as_ref().map(|proven| format!(", which NATS knows as {proven}"));
            facts
                .add("lock", format!("{}{held}{}{}", lock.owner, actor.unwrap_or_default(), proven.unwrap_or_default()))
                .add("expires", expires.unwrap_or_else(|| "not by itself, or not known".to_owned()))
                .add("lock revision", session.lock_revision)
        }
    };
    for (name, value) in agent(preview.agent.as_ref()) {
        facts = facts.add(name, value);
    }
    facts = facts.add("waiters", waiters(preview));
    let to = preview.move_to.as_ref().map_or("nowhere: there is no other worker".to_owned(), ToString::to_string);
    facts.add("could move to", to).add("changed", "nothing: this is a dry run").shown()
}

fn would(preview: &Preview, planned: &Planned) -> String {
    let holder = preview.session.lock.as_ref().map(|lock| lock.owner.as_str());
    match (planned, holder) {
        (Planned::Takeover { owner }, Some(holder)) => {
            format!("give the lock to {owner}; each change with the token of {holder} is refused from then on")
        }
        (Planned::Takeover { owner }, None) => format!("give the free lock to {owner}"),
        (Planned::Unlock, Some(holder)) => {
            format!("free the lock; each change with the token of {holder} is refused from then on")
        }
        (Planned::Unlock, None) => "be refused: the lock is free (not_locked)".to_owned(),
        (Planned::Move { worker: Some(worker) }, _) => format!("move the session to {worker}; lock and token stay"),
        (Planned::Move { worker: None }, _) if preview.move_to.is_some() => {
            "move the session to another worker; lock and token stay".to_owned()
        }
        (Planned::Move { worker: None }, _) => "be refused: there is no other worker (no_live_worker)".to_owned(),
    }
}

fn agent(agent: Option<&AgentPreview>) -> Vec<(&'static str, String)> {
    let Some(agent) = agent else {
        return vec![("worker", "none: the session is passive, and no request is under way".to_owned())];
    };
    let unknown = |why: &str| vec![("worker", format!("{} {why}", agent.worker)), ("unsaved", "not known".to_owned())];
    match agent.presence {
        AgentPresence::Silent => return unknown("is silent"),
        AgentPresence::Gone => return unknown("is gone"),
        AgentPresence::Absent => return unknown("answers, but does not have the session in memory"),
        AgentPresence::Answers => {}
    }
    let since = agent.unsaved_since.as_ref().map(|at| format!(", since {at}")).unwrap_or_default();
    let by = agent.unsaved_by.as_ref().map(|by| format!(", first by {by}")).unwrap_or_default();
    let unsaved = match agent.unsaved_changes {
        Some(true) => format!("yes{since}{by}: they stay in the session and are in no file"),
        Some(false) => "no".to_owned(),
        None => "not known".to_owned(),
    };
    let requests = agent.requests_waiting.map_or("not known".to_owned(), |count| count.to_string());
    vec![("worker", format!("{} answers", agent.worker)), ("unsaved", unsaved), ("requests waiting", requests)]
}

fn waiters(preview: &Preview) -> String {
    if preview.waiting == 0 {
        return "nobody".to_owned();
    }
    let one = |waiter: &holdfast_client::protocol::reply::WaiterPreview| {
        format!("{} (for {})", waiter.owner, spoken(waiter.waited_ms))
    };
    let named: Vec<String> = preview.waiters.iter().map(one).collect();
    let more = preview.waiting.saturating_sub(named.len() as u64);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    format!("{}: {}{more}", preview.waiting, named.join(", "))
}

/// A time in whole seconds, as people say it.
fn spoken(ms: u64) -> String {
    let duration = jiff::SignedDuration::try_from(Duration::from_secs(ms / 1000)).unwrap_or_default();
    format!("{duration:#}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn preview() -> serde_json::Value {
        json!({"session": {"id": "s1", "namespace": "default", "kind": "document", "workspace": null, "path": null,
                "state": "active", "owner": null, "lock_revision": 4, "revision": 9, "created_at": "",
                "lock": {"owner": "ann", "revision": 4, "acquired_at": "", "ttl_ms": 30000, "fence": 8},
                "config": {"idle_timeout_ms": 1, "on_idle": "passivate", "lock": "optional"}},
            "lock_actor": "ann@laptop", "lock_actor_proven": "APP/client", "held_for_ms": 754000, "expires_in_ms": 18000,
            "agent": {"worker": "w1", "presence": "answers", "unsaved_changes": true,
                "unsaved_since": "2026-11-22T12:00:00Z", "unsaved_by": "ann", "requests_waiting": 2},
            "waiters": [{"owner": "bob", "waited_ms": 4000}], "waiting": 3, "coordinators": 2, "move_to": "w2"})
    }

    fn shown(change: impl FnOnce(&mut serde_json::Value), planned: &Planned) -> String {
        let mut value = preview();
        change(&mut value);
        text(&serde_json::from_value(value).unwrap(), planned)
    }

    #[test]
    fn it_says_who_would_lose_what() {
        let takeover = Planned::Takeover { owner: "ops".to_owned() };
        let all = shown(|_| (), &takeover);
        for part in [
            "give the lock to ops; each change with the token of ann is refused",
            "ann, for 12m 34s, asked for by ann@laptop, which NATS knows as APP/client",
            "yes, since 2026-11-22T12:00:00Z, first by ann",
            "3: bob (for 4s) and 2 more",
            "nothing: this is a dry run",
        ] {
            assert!(all.contains(part), "{part}: {all}");
        }
        let silent = shown(
            |preview| {
                preview["agent"] = json!({"worker": "w1", "presence": "silent",
            "unsaved_changes": null, "unsaved_since": null, "unsaved_by": null, "requests_waiting": null})
            },
            &takeover,
        );
        assert!(silent.contains("w1 is silent") && silent.contains("not known"), "{silent}");
        let free = shown(|preview| preview["session"]["lock"] = json!(null), &Planned::Unlock);
        assert!(free.contains("be refused: the lock is free"), "{free}");
        let nowhere = shown(|preview| preview["move_to"] = json!(null), &Planned::Move { worker: None });
        assert!(nowhere.contains("be refused: there is no other worker"), "{nowhere}");
    }
}
