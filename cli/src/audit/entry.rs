//! What a signal, or an act of the stream `HF_AUDIT`, says about what an operator did.

use holdfast_client::protocol::act::Act;
use holdfast_client::protocol::signal::{RECORD_DELETED, Signal};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

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

/// What it was done to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Object {
    Session { namespace: String, id: String },
    Worker(String),
    Secret,
}

/// One line of an audit.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) time: Timestamp,
    /// Of sessions `takeover`, `unlock`, `revoke`, `hand_edit`, `delete`, `move`, `passivate`, `reclaim`, `failover`;
    /// of workers `drain`, `undrain`; of the secret `rotation`.
    pub(super) kind: &'static str,
    pub(super) doer: Doer,
    object: Object,
    data: Map<String, Value>,
    id: String,
}

impl Entry {
    /// The act that `signal` is about; `None` if it is not one, or another signal of the same edit tells it.
    pub(super) fn of(signal: &Signal) -> Option<Self> {
        let data = &signal.data;
        let (actor, reason) = (text(data, "actor"), text(data, "reason"));
        let from = text(data, "previous_worker");
        let (kind, doer) = match name(signal) {
            "lock.taken_over" => ("takeover", Doer::Person),
            "lock.released" if is_unlock(signal) && is_rotation(reason) => ("revoke", Doer::Person),
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
            "session.passivated" => ("passivate", Doer::Person),
            _ => return None,
        };
        let (namespace, id) = signal.source.strip_prefix("/holdfast/")?.split_once('/')?;
        let object = Object::Session { namespace: namespace.to_owned(), id: id.to_owned() };
        let time = signal.time.parse().ok()?;
        Some(Self { time, kind, doer, object, data: signal.data.clone(), id: signal.id.clone() })
    }

    /// An act on a worker or on the secret; `None` if it is of a kind that only a later version knows.
    pub(super) fn of_act(act: Act) -> Option<Self> {
        let (kind, object) = match act.event() {
            "worker.drained" => ("drain", Object::Worker(act.subject.clone())),
            "worker.undrained" => ("undrain", Object::Worker(act.subject.clone())),
            "secret.rotated" => ("rotation", Object::Secret),
            _ => return None,
        };
        let time = act.time.parse().ok()?;
        Some(Self { time, kind, doer: Doer::Person, object, data: act.data, id: act.id })
    }

    /// For programs. The id of the request is left out: it could be used to ask for a grant again.
    pub(super) fn json(&self) -> Value {
        let member = |name: &str| self.data.get(name).cloned().unwrap_or(Value::Null);
        let (namespace, session) = match &self.object {
            Object::Session { namespace, id } => (Some(namespace), Some(id)),
            Object::Worker(_) | Object::Secret => (None, None),
        };
        json!({"time": self.time.to_string(), "kind": self.kind, "namespace": namespace, "session_id": session, "actor": member("actor"), "actor_proven": member("actor_proven"), "reason": member("reason"),
            "owner": member("owner"), "previous_owner": member("previous_owner"), "worker": member("worker"),
            "previous_worker": member("previous_worker"), "lock_revision": member("lock_revision"),
            "revision": member("revision"), "sessions_left": member("sessions_left"), "generation": member("generation"),
            "revoke": member("revoke"), "released": member("released"), "id": self.id})
    }

    fn what(&self) -> String {
        let data = &self.data;
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
            "drain" => match data.get("sessions_left").and_then(Value::as_u64) {
                Some(1) => "with 1 session".to_owned(),
                Some(count) if count > 0 => format!("with {count} sessions"),
                _ => "without sessions".to_owned(),
            },
            "rotation" => {
                let generation = data.get("generation").and_then(Value::as_u64).unwrap_or_default();
                let old = match (data.get("revoke"), data.get("released").and_then(Value::as_u64)) {
                    (Some(Value::Bool(true)), Some(1)) => "old tokens are revoked, 1 lock was freed".to_owned(),
                    (Some(Value::Bool(true)), Some(count)) => {
                        format!("old tokens are revoked, {count} locks were freed")
                    }
                    (Some(Value::Bool(true)), None) => "old tokens are revoked".to_owned(),
                    _ => "old tokens stay good".to_owned(),
                };
                format!("generation {generation}, {old}")
            }
            _ => String::new(),
        }
    }

    fn why(&self) -> String {
        let data = &self.data;
        let who = asker(data, None).unwrap_or_else(|| "nobody is named".to_owned());
        let why = text(data, "reason").map(|reason| format!(": {reason}")).unwrap_or_default();
        format!("({who}){why}")
    }

    /// From which worker; and to which, if that is the same for all sessions of a line.
    fn way(&self, is_alone: bool) -> String {
        let named = |member, word: &str| Some(format!("{word} worker {}", text(&self.data, member)?));
        let parts = match self.kind {
            "move" | "failover" | "passivate" | "reclaim" => {
                [named("previous_worker", "from"), named("worker", "to").filter(|_| is_alone)]
            }
            _ => [None, None],
        };
        parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }

    /// Whether it is one of many of the same act, like the moves of a drain.
    fn is_with(&self, other: &Self) -> bool {
        let members = ["actor", "actor_proven", "reason", "previous_worker"];
        let same = |member: &str| self.data.get(member) == other.data.get(member);
        matches!(self.kind, "move" | "failover" | "passivate" | "reclaim" | "revoke")
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

/// One act on one or many objects. Only acts on sessions are grouped.
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
        let names = self.0.iter().take(NAMED).map(|entry| match &entry.object {
            Object::Session { namespace, id } => format!("{namespace}/{id}"),
            Object::Worker(name) => format!("worker {name}"),
            Object::Secret => "the secret of tokens".to_owned(),
        });
        let mut objects = names.collect::<Vec<_>>().join(", ");
        if self.0.len() > NAMED {
            objects = format!("{} sessions: {objects}, …", self.0.len());
        }
        let parts = [first.what(), first.way(self.0.len() == 1)].into_iter().filter(|part| !part.is_empty());
        let what: String = parts.map(|part| format!("  {part}")).collect();
        format!("{:.3}  {:<9}  {objects}{what}  {}", first.time, first.kind, first.why())
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
                Some(("revoke", Person)),
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
            ("session.passivated", false, json!({"reason": "new disk", "actor": "ann"}), Some(("passivate", Person))),
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

    fn act(kind: &str, subject: &str, data: Value) -> Option<Entry> {
        let act = json!({"specversion": "1.0", "id": "a1", "source": "/holdfast/sys", "type": kind, "subject": subject,
            "time": "2026-11-22T12:00:00Z", "datacontenttype": "application/json", "correlationid": "secret-request",
            "data": data});
        Entry::of_act(serde_json::from_value(act).unwrap())
    }

    #[test]
    fn acts_on_workers_and_on_the_secret_are_lines_of_their_own() {
        let drained = |left: u64| {
            json!({"worker": "w1", "boot": "b", "sessions_left": left, "reason": "new disk", "actor": "oncall",
                "actor_proven": "OPS/ops"})
        };
        let rotated = |revoke: bool, released: Value| json!({"generation": 2, "revoke": revoke, "released": released, "reason": "lost", "actor": null});
        let (drain, undrain, rotation) =
            ("holdfast.worker.drained.v1", "holdfast.worker.undrained.v1", "holdfast.secret.rotated.v1");
        let asked = "(asked by oncall, proven OPS/ops): new disk";
        let nobody = "(nobody is named): lost";
        let cases = [
            (drain, "w1", drained(0), format!("drain      worker w1  without sessions  {asked}")),
            (drain, "w1", drained(1), format!("drain      worker w1  with 1 session  {asked}")),
            (drain, "w1", drained(7), format!("drain      worker w1  with 7 sessions  {asked}")),
            (undrain, "w1", drained(0), format!("undrain    worker w1  {asked}")),
            (
                rotation,
                "secret",
                rotated(false, json!(0)),
                format!("rotation   the secret of tokens  generation 2, old tokens stay good  {nobody}"),
            ),
            (
                rotation,
                "secret",
                rotated(true, json!(5)),
                format!(
                    "rotation   the secret of tokens  generation 2, old tokens are revoked, 5 locks were freed  {nobody}"
                ),
            ),
            (
                rotation,
                "secret",
                rotated(true, Value::Null),
                format!("rotation   the secret of tokens  generation 2, old tokens are revoked  {nobody}"),
            ),
        ];
        for (kind, subject, data, expected) in cases {
            let entry = act(kind, subject, data.clone()).unwrap();
            let text = Group::all(std::slice::from_ref(&entry))[0].text();
            assert_eq!(text, format!("2026-11-22T12:00:00.000Z  {expected}"));
            let json = entry.json();
            assert_eq!((&json["session_id"], &json["reason"]), (&Value::Null, &data["reason"]));
            for member in ["worker", "sessions_left", "generation", "revoke", "released"] {
                assert_eq!(json[member], data.get(member).cloned().unwrap_or_default(), "{member} of {kind}");
            }
            assert!(!json.to_string().contains("secret-request"), "{json}");
        }
        assert_eq!(act("holdfast.worker.painted.v1", "w1", json!({})), None, "of a later version");
    }

    #[test]
    fn two_drains_are_two_lines() {
        let drained = |worker: &str| {
            let data = json!({"worker": worker, "sessions_left": 0, "reason": "new disk", "actor": "oncall"});
            act("holdfast.worker.drained.v1", worker, data).unwrap()
        };
        assert_eq!(Group::all(&[drained("w1"), drained("w1"), drained("w2")]).len(), 3);
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
