//! Replies as tables for people.
//!
//! Invariant: a token is shown only in the replies of acquire and takeover, which grant it.

use comfy_table::{Table, presets};
use holdfast_client::protocol::id::KindName;
use holdfast_client::protocol::reply::{
    Closed, Document, Drained, Edited, Grant, Opened, Reclaimed, Released, Renewed, Saved, SecretRotated, Session,
    TakenOver, Touched, Unlocked, Validated, WorkerList, WorkerView,
};

use crate::output::plain;
use crate::words::word;

/// A reply for a person.
pub(crate) trait Shown {
    /// The text, with a line end at its end.
    fn shown(&self) -> String;
}

/// A table of names and values.
pub(crate) struct Facts(Table);

impl Facts {
    pub(crate) fn new() -> Self {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        Self(table)
    }

    pub(crate) fn add(mut self, name: &str, value: impl ToString) -> Self {
        self.0.add_row([name.to_owned(), plain(&value.to_string())]);
        self
    }

    fn add_some(self, name: &str, value: Option<impl ToString>) -> Self {
        match value {
            Some(value) => self.add(name, value),
            None => self,
        }
    }

    pub(crate) fn shown(self) -> String {
        let lines: Vec<String> = self.0.lines().map(|line| line.trim().to_owned()).collect();
        lines.join("\n") + "\n"
    }
}

pub(crate) fn list(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header(header.to_vec());
    table.add_rows(rows.map(|row| row.iter().map(|cell| plain(cell)).collect::<Vec<_>>()));
    format!("{table}\n")
}

fn ttl(ttl_ms: Option<u64>) -> String {
    ttl_ms.map_or("until released".to_owned(), |ttl| format!("{ttl} ms without renewal"))
}

pub(crate) fn file(workspace: Option<&String>, path: Option<&String>) -> Option<String> {
    Some(format!("{} in workspace {}", path?, workspace?))
}

fn session(session: &Session) -> Facts {
    let lock = session.lock.as_ref().map_or("free".to_owned(), |lock| format!("held by {}", lock.owner));
    Facts::new()
        .add("session", &session.id)
        .add_some("kind", (session.kind != KindName::DOCUMENT).then_some(&session.kind))
        .add("state", word(session.state))
        .add_some("worker", session.owner.as_ref().map(|owner| &owner.worker))
        .add_some("file", file(session.workspace.as_ref(), session.path.as_ref()))
        .add("lock", lock)
        .add_some("since", session.lock.as_ref().map(|lock| &lock.acquired_at))
        .add("lock revision", session.lock_revision)
        .add("revision", session.revision)
        .add("idle timeout", format!("{} ms", session.config.idle_timeout_ms))
        .add("created", &session.created_at)
}

impl Shown for Session {
    fn shown(&self) -> String {
        session(self).shown()
    }
}

impl Shown for Opened {
    fn shown(&self) -> String {
        session(&self.session).add("created now", if self.created { "yes" } else { "no" }).shown()
    }
}

impl Shown for Touched {
    fn shown(&self) -> String {
        Facts::new().add("session", &self.session_id).add("state", word(self.state)).shown()
    }
}

impl Shown for Closed {
    fn shown(&self) -> String {
        format!("session {} is closed\n", self.session_id)
    }
}

fn grant(grant: &Grant) -> Facts {
    Facts::new()
        .add("session", &grant.session_id)
        .add("owner", &grant.owner)
        .add("token", &*grant.lock_token)
        .add("lock revision", grant.lock_revision)
        .add("lives", ttl(grant.ttl_ms))
}

impl Shown for Grant {
    fn shown(&self) -> String {
        grant(self).shown()
    }
}

impl Shown for TakenOver {
    fn shown(&self) -> String {
        let previous = self.previous_owner.as_deref().unwrap_or("nobody");
        grant(&self.grant).add("taken from", previous).add("reason", &self.reason).shown()
    }
}

impl Shown for Validated {
    fn shown(&self) -> String {
        format!("the token is current: {} holds session {}\n", plain(&self.owner), self.session_id)
    }
}

impl Shown for Renewed {
    fn shown(&self) -> String {
        Facts::new()
            .add("session", &self.session_id)
            .add("owner", &self.owner)
            .add("lock revision", self.lock_revision)
            .add("lives", ttl(self.expires_in_ms))
            .shown()
    }
}

impl Shown for Released {
    fn shown(&self) -> String {
        format!("the lock of session {} is free, at lock revision {}\n", self.session_id, self.lock_revision)
    }
}

impl Shown for Unlocked {
    fn shown(&self) -> String {
        let previous = self.previous_owner.as_deref().unwrap_or("nobody");
        format!("{}it was held by {}\n", self.released.shown(), plain(previous))
    }
}

impl Shown for Document {
    fn shown(&self) -> String {
        let fields = (!self.fields.is_empty()).then(|| serde_json::Value::Object(self.fields.clone()));
        let facts = Facts::new()
            .add("session", &self.session_id)
            .add("revision", self.revision)
            .add("unsaved", if self.dirty { "yes" } else { "no" })
            .add_some("file", file(self.workspace.as_ref(), self.path.as_ref()))
            .add_some("on disk", self.diverged.then_some("changed by somebody else"))
            .add_some("fields", fields);
        let end = if self.body.is_empty() || self.body.ends_with('\n') { "" } else { "\n" };
        format!("{}\n{}{end}", facts.shown(), self.body)
    }
}

impl Shown for Edited {
    fn shown(&self) -> String {
        Facts::new()
            .add("session", &self.session_id)
            .add("revision", self.revision)
            .add("before", self.previous_revision)
            .add("unsaved", if self.dirty { "yes" } else { "no" })
            .shown()
    }
}

/// The note about other names (hard links) of a replaced file.
fn cut_off(names: u64) -> String {
    format!("{names} other name{} of the file, with the old content", if names == 1 { "" } else { "s" })
}

impl Shown for Saved {
    fn shown(&self) -> String {
        Facts::new()
            .add("session", &self.session_id)
            .add("revision", self.revision)
            .add("bytes", self.bytes)
            .add("digest", &self.digest)
            .add_some("cut off", (self.links_cut > 0).then(|| cut_off(self.links_cut)))
            .shown()
    }
}

impl Shown for SecretRotated {
    fn shown(&self) -> String {
        Facts::new()
            .add("generation", self.generation)
            .add("coordinators that use it", self.coordinators)
            .add("locks freed", self.released)
            .shown()
    }
}

impl Shown for Reclaimed {
    fn shown(&self) -> String {
        let ids: String = self.reclaimed.iter().map(|id| format!("  {id}\n")).collect();
        format!("{} reclaimed\n{ids}", self.reclaimed.len())
    }
}

/// The workspaces as a worker's options have them: `main, notes:ro`.
fn workspaces(worker: &WorkerView) -> String {
    let shown = |name: &String| format!("{name}{}", if worker.read_only.contains(name) { ":ro" } else { "" });
    worker.workspaces.iter().map(shown).collect::<Vec<String>>().join(", ")
}

impl Shown for WorkerList {
    fn shown(&self) -> String {
        let rows = self.workers.iter().map(|worker| {
            vec![
                worker.worker.to_string(),
                word(worker.state),
                worker.sessions.to_string(),
                workspaces(worker),
                worker.kinds.join(", "),
                worker.version.clone(),
                worker.boot.to_string(),
            ]
        });
        list(&["worker", "state", "sessions", "workspaces", "kinds", "version", "boot"], rows)
    }
}

impl Shown for Drained {
    fn shown(&self) -> String {
        Facts::new()
            .add("worker", &self.worker)
            .add("state", word(self.state))
            .add("sessions left", self.sessions_left)
            .shown()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_save_shows_the_links_that_it_cut_and_nothing_where_there_were_none() {
        let shown = |links_cut: u64| {
            let json = format!(r#"{{"session_id":"s1","revision":1,"bytes":2,"digest":"d","links_cut":{links_cut}}}"#);
            serde_json::from_str::<Saved>(&json).unwrap().shown()
        };
        assert!(shown(2).contains("2 other names of the file, with the old content"), "{}", shown(2));
        assert!(!shown(0).contains("other name"), "{}", shown(0));
    }
}
