//! The text of `holdfast up` once everything runs: the addresses and folders, and example commands.

use std::path::Path;

use holdfast_client::protocol::subject::Root;
use holdfast_client::protocol::{Namespace, WorkerName};

use crate::workspace::WorkspaceArg;

/// The default address of `holdfast` and `nats`.
const USUAL_SERVER: &str = "nats://127.0.0.1:4222";

/// What runs, and with which addresses and folders.
pub(super) struct Banner<'a> {
    /// The server's address; `None`: it is in a context file.
    pub(super) server: Option<&'a str>,
    pub(super) version: &'a str,
    /// The data folder of our own server; `None`: the server is not ours.
    pub(super) data: Option<&'a Path>,
    pub(super) workers: &'a [WorkerName],
    pub(super) workspaces: &'a [WorkspaceArg],
    pub(super) root: &'a Root,
    pub(super) namespace: &'a Namespace,
}

impl Banner<'_> {
    /// The text, with a line end at its end.
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

    /// The options that every command needs, where they differ from the defaults.
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
