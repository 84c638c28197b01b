//! The text of `holdfast up` once everything runs: the addresses and folders, and example commands.

use std::path::Path;

use holdfast_client::protocol::subject::Root;
use holdfast_client::protocol::{Namespace, WorkerName};

use crate::output;
use crate::workspace::WorkspaceArg;

/// The default address of `holdfast` and `nats`.
const USUAL_SERVER: &str = "nats://127.0.0.1:4222";

/// What runs, and with which addresses and folders.
pub(super) struct Banner<'a> {
    /// The server's address; `None`: it is in a context file.
    pub(super) server: Option<&'a str>,
    pub(super) version: &'a str,
    /// Our own server; `None`: the server is not ours.
    pub(super) own: Option<Own<'a>>,
    pub(super) workers: &'a [WorkerName],
    pub(super) workspaces: &'a [WorkspaceArg],
    pub(super) root: &'a Root,
    pub(super) namespace: &'a Namespace,
}

/// A server that `up` started.
#[derive(Clone, Copy)]
pub(super) struct Own<'a> {
    /// The data folder.
    pub(super) data: &'a Path,
    /// Without a login.
    pub(super) insecure: bool,
}

impl Banner<'_> {
    /// The text, with a line end at its end.
    pub(super) fn text(&self) -> String {
        let Self { version, root, namespace, .. } = self;
        let server = self.server.unwrap_or(USUAL_SERVER);
        // Commands in this folder find the address of our own server.
        let setting = match self.server.filter(|server| self.own.is_none() && *server != USUAL_SERVER) {
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
{}{}
Try in another terminal{}:
{setting}  holdfast session open demo --body 'Hello'{options}
  holdfast lock acquire demo --owner me --ttl 1m{options}
  holdfast doc edit demo --body 'Hello, world' --token TOKEN{options}
  holdfast admin takeover demo --owner ops --reason 'just trying'{options}
  holdfast signals demo{options}

The same with the plain nats CLI:
{}  nats req {root}.{namespace}.session.open '{{\"id\":\"demo\"}}'
  nats req {root}.{namespace}.doc.get.demo '{{}}'
  nats kv get {bucket} {namespace}.demo
  nats sub '{root}.{namespace}.signal.>'
  nats micro ls

Ctrl-C ends it.
",
            self.own.map(|own| format!(", data in {}", own.data.display())).unwrap_or_default(),
            self.worker_names(),
            self.workspace_lines(),
            self.login(),
            if self.own.is_some() { ", in this folder" } else { "" },
            self.nats_alias(),
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

    /// Who may connect.
    fn login(&self) -> String {
        match self.own {
            None => String::new(),
            Some(Own { insecure: true, .. }) => {
                let warning = "  NO LOGIN   whoever reaches the port on this machine may do everything (--insecure)";
                format!("{}\n", output::red(warning))
            }
            Some(Own { data, .. }) => format!(
                "  login      users ops, client, coordinator, worker, sys; passwords in {}\n             commands in this \
                 folder are ops; `--context client` is a program, and `holdfast context show` says who you are\n",
                data.join("credentials.env").display()
            ),
        }
    }

    /// The line that lets the `nats` CLI use the contexts.
    fn nats_alias(&self) -> String {
        let Some(Own { data, .. }) = self.own else { return String::new() };
        let config = std::fs::canonicalize(data).unwrap_or_else(|_| data.to_owned()).join("config");
        format!("  alias nats='XDG_CONFIG_HOME={} nats --context ops'\n", quoted(&config.display().to_string()))
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

/// Quotes a path within single quotes of a shell, if it needs that.
fn quoted(path: &str) -> String {
    let is_plain = |letter: char| letter.is_alphanumeric() || "/._-+@%".contains(letter);
    if path.chars().all(is_plain) { path.to_owned() } else { format!("\"{path}\"") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(server: &str, root: &str, namespace: &str) -> String {
        Banner {
            server: Some(server),
            version: "2.15.1",
            own: Some(Own { data: Path::new(".holdfast"), insecure: false }),
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
        assert!(!text.contains("NATS_URL") && text.contains("passwords in .holdfast/credentials.env"), "{text}");
    }

    #[test]
    fn it_says_what_is_not_as_usual() {
        let text = text("nats://127.0.0.1:14222", "acme", "team");
        assert!(!text.contains("NATS_URL"), "{text}");
        assert!(text.contains("\n  alias nats='XDG_CONFIG_HOME="), "{text}");
        assert!(text.contains("\n  holdfast signals demo --root acme -n team\n"), "{text}");
        assert!(text.contains("\n  nats kv get acme_sessions team.demo\n"), "{text}");
    }
}
