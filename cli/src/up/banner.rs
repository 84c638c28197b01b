//! What `holdfast up` says once everything runs: what is where, and what to type next.

use std::path::Path;

use holdfast_client::protocol::subject::Root;
use holdfast_client::protocol::{Namespace, WorkerName};

use crate::workspace::WorkspaceArg;

/// The address that both commands try by themselves.
const USUAL_SERVER: &str = "nats://127.0.0.1:4222";

/// What runs, and where.
pub(super) struct Banner<'a> {
    /// Its address; `None`: a context has it.
    pub(super) server: Option<&'a str>,
    pub(super) version: &'a str,
    /// Where our own server keeps its data; `None`: it is not ours.
    pub(super) data: Option<&'a Path>,
    pub(super) workers: &'a [WorkerName],
    pub(super) workspaces: &'a [WorkspaceArg],
    pub(super) root: &'a Root,
    pub(super) namespace: &'a Namespace,
}

impl Banner<'_> {
    /// The text, which ends its own last line.
    pub(super) fn text(&self) -> String {
        let Self { version, root, namespace, .. } = self;
        let server = self.server.unwrap_or("the server of the context");
        let setting = match self.server.filter(|server| *server != USUAL_SERVER) {
            Some(server) => format!("  export NATS_URL={server}\n"),
            None => String::new(),
        };
        let bucket = root.sessions_bucket();
        let options = self.options();
        format!(
            "\
Holdfast is up.
  nats       {server} (nats-server {version}{})
  workers    {}
{}
Try in another terminal:
{setting}  holdfast session open demo --body 'Hello'{options}
  holdfast lock acquire demo --owner me --ttl-ms 60000{options}
  holdfast doc edit demo --body 'Hello, world' --token TOKEN{options}
  holdfast admin takeover demo --owner ops --reason 'just trying'{options}
  holdfast signals demo{options}

The same with the plain nats CLI:
  nats req {root}.{namespace}.session.open '{{\"id\":\"demo\"}}'
  nats req {root}.{namespace}.doc.get.demo '{{}}'
  nats kv get {bucket} {namespace}.demo
  nats sub '{root}.{namespace}.signal.>'
  nats micro ls

Ctrl-C ends it.
",
            self.data.map(|data| format!(", data in {}", data.display())).unwrap_or_default(),
            self.worker_names(),
            self.workspace_lines(),
        )
    }

    fn worker_names(&self) -> String {
        self.workers.iter().map(WorkerName::as_str).collect::<Vec<_>>().join(", ")
    }

    fn workspace_lines(&self) -> String {
        let line = |workspace: &WorkspaceArg| {
            let note = if workspace.read_only { ", read only" } else { "" };
            format!("  workspace  {} is {}{note}\n", workspace.name, workspace.folder.display())
        };
        self.workspaces.iter().map(line).collect()
    }

    /// What every command must be told, when it is not what it would guess.
    fn options(&self) -> String {
        let root = if *self.root == Root::default() { String::new() } else { format!(" --root {}", self.root) };
        match self.namespace.as_str() {
            "default" => root,
            namespace => format!("{root} -n {namespace}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(server: &str, root: &str, namespace: &str) -> String {
        Banner {
            server: Some(server),
            version: "2.15.1",
            data: Some(Path::new(".holdfast")),
            workers: &["w1", "w2"].map(|name| WorkerName::parse(name).unwrap()),
            workspaces: &[WorkspaceArg::parse("main=notes:ro").unwrap()],
            root: &Root::parse(root).unwrap(),
            namespace: &Namespace::parse(namespace).unwrap(),
        }
        .text()
    }

    #[test]
    fn it_says_what_runs_and_what_to_type() {
        let text = text(USUAL_SERVER, "hf", "default");
        assert!(text.contains("workers    w1, w2\n  workspace  main is notes, read only\n"), "{text}");
        assert!(text.contains("\n  holdfast session open demo --body 'Hello'\n"), "{text}");
        assert!(text.contains("\n  nats kv get sessions default.demo\n"), "{text}");
        assert!(!text.contains("NATS_URL"), "{text}");
    }

    #[test]
    fn it_says_what_is_not_as_usual() {
        let text = text("nats://127.0.0.1:14222", "acme", "team");
        assert!(text.contains("\n  export NATS_URL=nats://127.0.0.1:14222\n"), "{text}");
        assert!(text.contains("\n  holdfast signals demo --root acme -n team\n"), "{text}");
        assert!(text.contains("\n  nats kv get acme_sessions team.demo\n"), "{text}");
    }
}
