//! `holdfast session list` and `holdfast list`: sessions of one namespace or of all, once or as they change.
//!
//! One namespace is listed by a coordinator, which filters. All namespaces are read from the bucket: a request of the
//! contract is about one namespace, so that a program can be confined to one, and an operator may read the bucket
//! anyway. So this works while no coordinator runs. Only idle times are asked of coordinators, by namespace.

mod everywhere;
mod pages;
mod watch;

use std::time::Duration;

use clap::Args;
use holdfast_client::protocol::WorkerName;
use holdfast_client::protocol::record::State;
use holdfast_client::protocol::reply::{Session, SessionPage};
use holdfast_client::protocol::request;
use tokio_util::sync::CancellationToken;

use crate::ask::{Asker, Audit, until};
use crate::connect::{Connection, duration};
use crate::exit::Failure;
use crate::output::{Format, plain};
use crate::table;
use crate::words::{Words, one_of, word};

const STATES: Words = &[("active", "An agent owns it"), ("passive", "Nobody owns it"), ("closed", "It is over")];

/// The top-level command.
#[derive(Args, Debug)]
pub(crate) struct List {
    #[command(flatten)]
    audit: Audit,
    #[command(flatten)]
    args: ListArgs,
}

/// What to list.
#[derive(Args, Clone, Debug)]
pub(crate) struct ListArgs {
    /// How many sessions to show at most, 1 to 1000; all when left out
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Continue here: `next` of the page before
    #[arg(long, value_name = "CURSOR", conflicts_with_all = ["all_namespaces", "watch"])]
    after: Option<String>,
    /// Only sessions in this state
    #[arg(long, value_name = "STATE", value_parser = one_of::<State>(STATES))]
    state: Option<State>,
    /// Only sessions on this worker
    #[arg(long, value_name = "NAME", value_parser = WorkerName::parse)]
    worker: Option<WorkerName>,
    /// Only sessions whose lock is held
    #[arg(long)]
    locked: bool,
    /// Only sessions whose lock this client holds
    #[arg(long, value_name = "NAME")]
    owner: Option<String>,
    /// Only sessions in memory without a request for at least this long, like 10m
    #[arg(long, value_name = "TIME", value_parser = duration)]
    idle: Option<Duration>,
    /// The sessions of all namespaces, read from the bucket; needs the rights of an operator
    #[arg(long, short = 'A')]
    all_namespaces: bool,
    /// Show changes as they happen, one line each, until Ctrl-C
    #[arg(long, conflicts_with = "idle")]
    watch: bool,
}

impl List {
    /// The same as `session list`.
    pub(crate) fn of(audit: Audit, args: ListArgs) -> Self {
        Self { audit, args }
    }

    /// Lists, and follows the changes until `stop` is cancelled if that is wanted.
    pub(crate) async fn run(
        self,
        connection: &Connection,
        format: Format,
        stop: &CancellationToken,
    ) -> Result<(), Failure> {
        let Self { audit, args } = self;
        if args.watch {
            let watching = watch::watch(connection, audit, &args, format);
            return match until(stop, watching).await {
                // The normal end.
                Err(Failure::Interrupted) => Ok(()),
                outcome => outcome,
            };
        }
        until(stop, async {
            let asker = Asker::connect(connection, audit, format).await?;
            if !args.all_namespaces {
                return args.show(&asker).await;
            }
            let page = everywhere::all(connection, &asker, &args).await?;
            let reply = serde_json::to_vec(&page).map_err(anyhow::Error::from)?;
            asker.write(&reply, &text(&page.sessions, Namespaces::Shown))
        })
        .await
    }
}

impl ListArgs {
    /// Lists one namespace.
    pub(crate) async fn show(&self, asker: &Asker) -> Result<(), Failure> {
        let page = pages::all(asker, &asker.client, self.request()).await?;
        let reply = serde_json::to_vec(&page).map_err(anyhow::Error::from)?;
        let mut shown = text(&page.sessions, Namespaces::Hidden);
        if let Some(next) = &page.next {
            shown.push_str(&format!("there is more: --after {next}\n"));
        }
        asker.write(&reply, &shown)
    }

    /// The contract's request.
    fn request(&self) -> request::List {
        request::List {
            limit: self.limit,
            after: self.after.clone(),
            state: self.state,
            worker: self.worker.clone(),
            locked: self.locked.then_some(true),
            lock_owner: self.owner.clone(),
            idle_ms: self.idle.and_then(|idle| u64::try_from(idle.as_millis()).ok()),
            ..request::List::default()
        }
    }

    /// Whether a session is to be shown, as a coordinator decides it. Idle times are not looked at.
    fn wants(&self, session: &Session) -> bool {
        let state = match self.state {
            Some(state) => session.state == state,
            None => session.state != State::Closed,
        };
        let holder = session.lock.as_ref().map(|lock| lock.owner.as_str());
        let on = |worker: &WorkerName| session.owner.as_ref().is_some_and(|owner| owner.worker == *worker);
        state
            && (!self.locked || holder.is_some())
            && self.owner.as_deref().is_none_or(|owner| holder == Some(owner))
            && self.worker.as_ref().is_none_or(on)
    }
}

/// Whether a table has a column for the namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Namespaces {
    Shown,
    Hidden,
}

/// Sessions as a table.
fn text(sessions: &[Session], namespaces: Namespaces) -> String {
    let is_idle = sessions.iter().any(|session| session.idle_ms.is_some());
    let mut header = vec!["session", "state", "worker", "locked by", "file"];
    if namespaces == Namespaces::Shown {
        header.insert(0, "namespace");
    }
    if is_idle {
        header.push("idle");
    }
    let row = |session: &Session| {
        let mut row = cells(session);
        if namespaces == Namespaces::Shown {
            row.insert(0, session.namespace.clone());
        }
        if is_idle {
            row.push(session.idle_ms.map_or("not known".to_owned(), |ms| format!("{} s", ms / 1000)));
        }
        row
    };
    table::list(&header, sessions.iter().map(row))
}

fn cells(session: &Session) -> Vec<String> {
    vec![
        session.id.to_string(),
        word(session.state),
        session.owner.as_ref().map(|owner| owner.worker.to_string()).unwrap_or_default(),
        session.lock.as_ref().map(|lock| lock.owner.clone()).unwrap_or_default(),
        table::file(session.workspace.as_ref(), session.path.as_ref()).unwrap_or_default(),
    ]
}

/// One session in one line.
fn line(session: &Session) -> String {
    let holder = session.lock.as_ref().map(|lock| format!("  locked by {}", lock.owner)).unwrap_or_default();
    let worker = session.owner.as_ref().map(|owner| format!("  on {}", owner.worker)).unwrap_or_default();
    plain(&format!("{}.{}  {}{worker}{holder}", session.namespace, session.id, word(session.state)))
}

/// A page of everything that was found.
fn page(sessions: Vec<Session>) -> SessionPage {
    SessionPage { sessions, next: None }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    pub(super) fn session(id: &str, state: &str, holder: Option<&str>) -> Session {
        let lock =
            holder.map(|owner| json!({"owner": owner, "revision": 1, "acquired_at": "", "ttl_ms": null, "fence": 1}));
        let boot = "01935b3c-6a00-7000-8000-000000000001";
        let owner = (state == "active").then(|| json!({"worker": "w1", "boot": boot, "activation": boot, "since": ""}));
        serde_json::from_value(json!({"id": id, "namespace": "team", "kind": "document", "workspace": null,
            "path": null, "state": state, "owner": owner, "lock": lock, "lock_revision": 1, "revision": 1,
            "config": {"idle_timeout_ms": 1, "on_idle": "passivate", "lock": "optional"}, "created_at": ""}))
        .unwrap()
    }

    fn args(line: &[&str]) -> ListArgs {
        let command = ListArgs::augment_args(clap::Command::new("list"));
        let matches = command.get_matches_from([&["list"], line].concat());
        <ListArgs as clap::FromArgMatches>::from_arg_matches(&matches).unwrap()
    }

    #[test]
    fn filters_choose_what_a_coordinator_would_choose() {
        let all = [
            session("held", "active", Some("ann")),
            session("free", "active", None),
            session("passive", "passive", Some("bob")),
            session("over", "closed", None),
        ];
        let cases: [(&[&str], &[&str]); 6] = [
            (&[], &["held", "free", "passive"]),
            (&["--locked"], &["held", "passive"]),
            (&["--owner", "bob"], &["passive"]),
            (&["--state", "closed"], &["over"]),
            (&["--worker", "w1", "--locked"], &["held"]),
            (&["--worker", "w2"], &[]),
        ];
        for (line, wanted) in cases {
            let args = args(line);
            let found: Vec<&str> =
                all.iter().filter(|session| args.wants(session)).map(|one| one.id.as_str()).collect();
            assert_eq!(found, wanted, "{line:?}");
        }
    }

    #[test]
    fn a_line_has_no_more_than_there_is() {
        assert_eq!(line(&session("s1", "active", Some("ann"))), "team.s1  active  on w1  locked by ann");
        assert_eq!(line(&session("s1", "passive", None)), "team.s1  passive");
    }
}
