//! What a signal says about an operator's act.

use holdfast_client::protocol::signal::{RECORD_DELETED, Signal};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::why::phrase::{asker, is_unlock, name, text};
use crate::why::story::is_by_hand;

/// The events that may be an operator's.
pub(super) const EVENTS: [(&str, &str); 7] = [
    ("lock", "taken_over"),
    ("lock", "released"),
    ("lock", "changed"),
    ("session", "moved"),
    ("session", "passivated"),
    ("session", "reclaimed"),
    ("session", "closed"),
];

/// How many sessions of a group are named.
const NAMED: usize = 5;

/// Whose act it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doer {
    /// A person's.
    Person,
    /// Holdfast's own.
    Holdfast,
}

/// One act.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) time: Timestamp,
    /// `takeover`, `unlock`, `rotation`, `hand_edit`, `delete`, `move`, `drain`, `reclaim`, `failover`.
    pub(super) kind: &'static str,
    pub(super) doer: Doer,
    namespace: String,
    session: String,
    signal: Signal,
}

impl Entry {
    /// The act that `signal` is about; `None` if it is not one, or another signal of the same edit tells it.
    pub(super) fn of(signal: &Signal) -> Option<Self> {
        let data = &signal.data;
        let (actor, reason) = (text(data, "actor"), text(data, "reason"));
        let from = text(data, "previous_worker");
        let (kind, doer) = match name(signal) {
            "lock.taken_over" => ("takeover", Doer::Person),
            "lock.released" if is_unlock(signal) && is_rotation(reason) => ("rotation", Doer::Person),
            "lock.released" if is_unlock(signal) => ("unlock", Doer::Person),
            "lock.changed" => ("hand_edit", Doer::Person),
            "session.closed" if reason == Some(RECORD_DELETED) => ("delete", Doer::Person),
            // `lock.changed` tells the edit.
            _ if is_by_hand(reason) => return None,
            "session.moved" if is_own(actor, reason, from) => ("failover", Doer::Holdfast),
            "session.moved" => ("move", Doer::Person),
            "session.reclaimed" => ("failover", Doer::Holdfast),
            "session.passivated" | "session.closed" if actor.is_some() && is_reclaim(reason) => {
                ("reclaim", Doer::Person)
            }
            "session.passivated" if is_own(actor, reason, from) || actor.is_none() => return None,
            "session.passivated" => ("drain", Doer::Person),
            _ => return None,
        };
        let (namespace, session) = signal.source.strip_prefix("/holdfast/")?.split_once('/')?;
        let time = signal.time.parse().ok()?;
        let (namespace, session) = (namespace.to_owned(), session.to_owned());
        Some(Self { time, kind, doer, namespace, session, signal: signal.clone() })
    }

    /// For programs. The id of the request is left out: it could be used to ask for a grant again.
    pub(super) fn json(&self) -> Value {
        let member = |name: &str| self.signal.data.get(name).cloned().unwrap_or(Value::Null);
        json!({"time": self.time.to_string(), "kind": self.kind, "namespace": self.namespace, "session_id": self.session,
            "actor": member("actor"), "actor_proven": member("actor_proven"), "reason": member("reason"),
            "owner": member("owner"), "previous_owner": member("previous_owner"), "worker": member("worker"),
            "previous_worker": member("previous_worker"), "lock_revision": member("lock_revision"),
            "revision": member("revision"), "id": self.signal.id})
    }

    fn what(&self) -> String {
        let data = &self.signal.data;
        let (owner, previous) = (text(data, "owner"), text(data, "previous_owner"));
        match self.kind {
            "takeover" => {
                format!("{} over {}", owner.unwrap_or("somebody"), previous.unwrap_or("nobody: the lock was free"))
            }
            "unlock" => format!("the lock of {}", previous.unwrap_or("somebody")),
            "hand_edit" => {
                let shown = |owner: Option<&str>| owner.map_or("free".to_owned(), |owner| format!("held by {owner}"));
                format!("lock {}, before {}", shown(owner), shown(previous))
            }
            _ => String::new(),
        }
    }

    fn why(&self) -> String {
        let data = &self.signal.data;
        let who = asker(data, None).unwrap_or_else(|| "nobody is named".to_owned());
        let why = text(data, "reason").map(|reason| format!(": {reason}")).unwrap_or_default();
        format!("({who}){why}")
    }

    /// From which worker; and to which, if that is the same for all sessions of a line.
    fn way(&self, is_alone: bool) -> String {
        let named = |member, word: &str| Some(format!("{word} worker {}", text(&self.signal.data, member)?));
        let parts = match self.kind {
            "move" | "failover" | "drain" | "reclaim" => {
                [named("previous_worker", "from"), named("worker", "to").filter(|_| is_alone)]
            }
            _ => [None, None],
        };
        parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }

    /// Whether it is one of many of the same act, like the moves of a drain.
    fn is_with(&self, other: &Self) -> bool {
        let members = ["actor", "actor_proven", "reason", "previous_worker"];
        let same = |member: &str| self.signal.data.get(member) == other.signal.data.get(member);
        matches!(self.kind, "move" | "failover" | "drain" | "reclaim" | "rotation")
            && self.kind == other.kind
            && members.into_iter().all(same)
    }
}

/// Whether Holdfast moved a session by itself: from a worker that is gone, does not answer or may not write, or that
/// ends. The reason is the coordinator's (`place.rs`, `leave.rs`), the actor the worker's (`drain.rs`).
fn is_own(actor: Option<&str>, reason: Option<&str>, from: Option<&str>) -> bool {
    let Some(from) = from else { return false };
    let worker = format!("worker {from}");
    let rest = reason.and_then(|reason| reason.strip_prefix(&worker));
    let is_known = |rest: &str| {
        matches!(rest, " is gone" | " does not answer")
            || (rest.starts_with(" has workspace ") && rest.ends_with(" read-only"))
    };
    actor == Some(worker.as_str()) || rest.is_some_and(is_known)
}

/// Whether a lock was freed because its token was derived from a secret that was rotated away
/// (`coordinator/src/verb/admin/rotate_secret.rs`).
fn is_rotation(reason: Option<&str>) -> bool {
    reason.is_some_and(|reason| reason.starts_with("the secret of tokens was rotated: "))
}

fn is_reclaim(reason: Option<&str>) -> bool {
    reason.is_some_and(|reason| reason.starts_with("idle for ") && reason.ends_with(" ms"))
}

/// One act on one or many sessions.
pub(super) struct Group<'a>(Vec<&'a Entry>);

impl<'a> Group<'a> {
    /// Entries that follow each other and are of one act, as one group.
    pub(super) fn all(entries: &'a [Entry]) -> Vec<Self> {
        let mut groups: Vec<Self> = Vec::new();
        for entry in entries {
            match groups.last_mut() {
                Some(Self(group)) if group.last().is_some_and(|last| last.is_with(entry)) => group.push(entry),
                _ => groups.push(Self(vec![entry])),
            }
        }
        groups
    }

    /// One line.
    pub(super) fn text(&self) -> String {
        let Some(first) = self.0.first() else { return String::new() };
        let names = self.0.iter().take(NAMED).map(|entry| format!("{}/{}", entry.namespace, entry.session));
        let mut sessions = names.collect::<Vec<_>>().join(", ");
        if self.0.len() > NAMED {
            sessions = format!("{} sessions: {sessions}, …", self.0.len());
        }
        let parts = [first.what(), first.way(self.0.len() == 1)].into_iter().filter(|part| !part.is_empty());
        let what: String = parts.map(|part| format!("  {part}")).collect();
        format!("{:.3}  {:<9}  {sessions}{what}  {}", first.time, first.kind, first.why())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signal(session: &str, name: &str, has_request: bool, data: Value) -> Signal {
        let mut signal = json!({"specversion": "1.0", "id": "KV_sessions:7", "source": format!("/holdfast/team/{session}"),
            "type": format!("holdfast.{name}.v1"), "subject": session, "time": "2026-11-22T12:00:00Z",
            "datacontenttype": "application/json", "sequence": "00000000000000000007", "data": data});
        if has_request {
            signal["correlationid"] = json!("secret-request");
        }
        serde_json::from_value(signal).unwrap()
    }

    fn kind(name: &str, has_request: bool, data: Value) -> Option<(&'static str, Doer)> {
        Entry::of(&signal("s1", name, has_request, data)).map(|entry| (entry.kind, entry.doer))
    }

    #[test]
    fn acts_of_people_are_told_from_what_happens_by_itself() {
        use Doer::{Holdfast, Person};
        let gone = json!({"previous_worker": "w1", "reason": "worker w1 is gone", "actor": "app"});
        let cases = [
            ("lock.taken_over", true, json!({"owner": "ops", "reason": "r"}), Some(("takeover", Person))),
            ("lock.released", true, json!({"previous_owner": "a", "reason": "r"}), Some(("unlock", Person))),
            ("lock.released", true, json!({"previous_owner": "a", "reason": null}), None),
            (
                "lock.released",
                true,
                json!({"reason": "the secret of tokens was rotated: leaked"}),
                Some(("rotation", Person)),
            ),
            ("lock.released", false, json!({"previous_owner": "a", "reason": "whoever asked was gone"}), None),
            ("lock.changed", false, json!({"reason": "edited by hand"}), Some(("hand_edit", Person))),
            ("session.moved", false, json!({"reason": "edited by hand: x", "previous_worker": "w1"}), None),
            ("session.closed", false, json!({"reason": "record deleted"}), Some(("delete", Person))),
            ("session.closed", true, json!({"reason": null, "actor": "app"}), None),
            ("session.moved", true, json!({"previous_worker": "w1", "reason": "hot"}), Some(("move", Person))),
            ("session.moved", true, gone, Some(("failover", Holdfast))),
            (
                "session.moved",
                true,
                json!({"previous_worker": "w1", "reason": "worker w2 is gone"}),
                Some(("move", Person)),
            ),
            (
                "session.moved",
                true,
                json!({"previous_worker": "w1", "actor": "worker w1"}),
                Some(("failover", Holdfast)),
            ),
            ("session.passivated", false, json!({"reason": "idle"}), None),
            (
                "session.passivated",
                false,
                json!({"reason": "idle for 5 ms", "actor": "ann"}),
                Some(("reclaim", Person)),
            ),
            ("session.passivated", false, json!({"reason": "new disk", "actor": "ann"}), Some(("drain", Person))),
            ("session.reclaimed", false, json!({"reason": "worker w1 is gone"}), Some(("failover", Holdfast))),
            ("lock.acquired", true, json!({"owner": "a"}), None),
        ];
        for (name, has_request, data, expected) in cases {
            assert_eq!(kind(name, has_request, data.clone()), expected, "{name} {data}");
        }
    }

    #[test]
    fn an_entry_says_what_over_whom_who_and_why_and_no_id_of_a_request() {
        let data = json!({"owner": "ops", "previous_owner": "ann", "reason": "ann hangs", "actor": "oncall",
            "actor_proven": "OPS/ops", "lock_revision": 2, "revision": 7});
        let entry = Entry::of(&signal("s1", "lock.taken_over", true, data)).unwrap();
        let text = Group::all(std::slice::from_ref(&entry))[0].text();
        let expected =
            "2026-11-22T12:00:00.000Z  takeover   team/s1  ops over ann  (asked by oncall, proven OPS/ops): ann hangs";
        assert_eq!(text, expected);
        let json = entry.json();
        assert_eq!((&json["namespace"], &json["actor_proven"]), (&json!("team"), &json!("OPS/ops")));
        assert!(!json.to_string().contains("secret-request"), "{json}");
    }

    #[test]
    fn the_moves_of_a_drain_are_one_line() {
        let moved = |n: usize, reason: &str| {
            let data = json!({"previous_worker": "w1", "worker": "w2", "reason": reason, "actor": "oncall"});
            Entry::of(&signal(&format!("s{n}"), "session.moved", true, data)).unwrap()
        };
        let entries: Vec<Entry> = (0..7).map(|n| moved(n, "new disk")).chain([moved(8, "hot")]).collect();
        let lines: Vec<String> = Group::all(&entries).iter().map(Group::text).collect();
        assert_eq!(lines.len(), 2, "{lines:#?}");
        assert!(lines[0].contains("7 sessions: team/s0, team/s1") && lines[0].contains("new disk"), "{lines:#?}");
        assert!(lines[1].contains("team/s8  from worker w1 to worker w2  (asked by oncall): hot"), "{lines:#?}");
    }
}
