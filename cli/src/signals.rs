//! `holdfast signals`: prints the signals of one session or of all, one per line, until it is interrupted.

pub(crate) mod feed;

use clap::Args;
use holdfast_client::Event;
use holdfast_client::protocol::SessionId;
use holdfast_client::protocol::signal::Signal;
use holdfast_client::signals::{Follower, Group};
use jiff::Timestamp;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::archive::Archive;
use crate::ask::until;
use crate::connect::Connection;
use crate::exit::Failure;
use crate::output::{self, Format};
use crate::span::Since;
use crate::words::{Words, one_of};
use feed::{Feed, Flow};

const GROUPS: Words = &[
    ("session", "Opened, activated, moved, passivated, reclaimed, closed"),
    ("lock", "Acquired, rotated, released, expired, taken_over, changed, conflict"),
    ("doc", "Loaded, edited, saved, undone, redone, failed, diverged, converged"),
];

/// The signals to print.
#[derive(Args, Debug)]
pub(crate) struct Signals {
    /// The session's id; it need not exist yet
    #[arg(value_name = "ID", value_parser = SessionId::parse, required_unless_present = "all")]
    session: Option<SessionId>,
    /// The signals of all sessions: of all namespaces, or of the one that --namespace names
    #[arg(long, conflicts_with = "session")]
    all: bool,
    /// Only one group
    #[arg(long, value_parser = one_of::<Group>(GROUPS))]
    group: Option<Group>,
    /// First those that are kept since: 30m, 2h, 7d, or a time like 2026-11-22T12:00:00Z. Those of documents are not
    /// kept
    #[arg(long, value_name = "TIME", value_parser = Since::parse)]
    since: Option<Since>,
    /// End after those that are kept
    #[arg(long, requires = "since")]
    no_follow: bool,
    /// End after this many
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Whether the command line names a namespace.
    #[arg(skip)]
    pub(crate) is_namespace_given: bool,
}

impl Signals {
    /// Prints signals until `stop` is cancelled, which is its normal end.
    pub(crate) async fn run(
        self,
        connection: &Connection,
        format: Format,
        stop: &CancellationToken,
    ) -> Result<(), Failure> {
        let following = async {
            match (&self.session, self.since) {
                // A follower of one session also detects gaps by the revisions in the signals.
                (Some(session), None) => {
                    let session = connection.client().await?.session(session.clone());
                    let follower = session.follow(self.group).await;
                    let follower = follower.map_err(|error| Failure::Connect(error.into()))?;
                    show(follower, self.count.unwrap_or(u64::MAX), format).await
                }
                _ => {
                    let archive = Archive::open(connection).await?;
                    archive.permitted(self.feed(&archive, format)).await
                }
            }
        };
        match until(stop, following).await {
            Err(Failure::Interrupted) => Ok(()),
            outcome => outcome,
        }
    }

    /// Prints kept signals, then live ones.
    async fn feed(&self, archive: &Archive, format: Format) -> Result<(), Failure> {
        let now = Timestamp::now();
        let mut feed =
            Feed::new(archive, self.kept_subjects(archive), self.since.map_or(now, |since| since.before(now)));
        let mut left = self.count.unwrap_or(u64::MAX);
        if left == 0 {
            return Ok(());
        }
        let mut print = |signal: &Signal| {
            let line = match format {
                Format::Json => signal.to_json(),
                Format::People if self.all => format!("{}  {}", session_of(signal), line(signal)).into_bytes(),
                Format::People => line(signal).into_bytes(),
            };
            output::line(&line).map_err(Failure::Output)?;
            left -= 1;
            Ok(if left == 0 { Flow::Break(()) } else { Flow::Continue(()) })
        };
        if self.since.is_some() && feed.kept(&mut print).await?.is_break() {
            return Ok(());
        }
        if self.no_follow {
            return Ok(());
        }
        feed.live(self.live_subject(archive), print).await
    }

    fn kept_subjects(&self, archive: &Archive) -> Vec<String> {
        match (&self.session, self.group) {
            (_, Some(Group::Doc)) => Vec::new(),
            // Without a group these subjects also match those of documents, of which none is kept.
            (Some(_), _) | (None, Some(_)) => vec![self.live_subject(archive)],
            (None, None) => ["session", "lock"].map(|group| self.of_all(archive, Some(group))).to_vec(),
        }
    }

    fn live_subject(&self, archive: &Archive) -> String {
        let group = self.group.map(Group::as_str);
        match &self.session {
            Some(session) => archive.root.signals(&archive.key(session), group),
            None => self.of_all(archive, group),
        }
    }

    fn of_all(&self, archive: &Archive, group: Option<&str>) -> String {
        archive.root.signals_of_all(self.is_namespace_given.then_some(&archive.namespace), group, None)
    }
}

/// The session of a signal, with its namespace.
fn session_of(signal: &Signal) -> String {
    output::plain(signal.source.strip_prefix("/holdfast/").unwrap_or(&signal.source))
}

async fn show(mut follower: Follower, count: u64, format: Format) -> Result<(), Failure> {
    let mut shown = 0;
    while shown < count {
        match follower.next().await {
            Some(Event::Signal(signal)) => {
                let line = match format {
                    Format::Json => signal.to_json(),
                    Format::People => line(&signal).into_bytes(),
                };
                output::line(&line).map_err(Failure::Output)?;
                shown += 1;
            }
            // On standard error, so that standard output has only signals.
            Some(Event::Gap(gap)) => tracing::warn!("{gap}"),
            Some(Event::Denied(error)) => return Err(error.into()),
            None => return Err(Failure::Connect(anyhow::anyhow!("the connection to NATS was closed"))),
        }
    }
    Ok(())
}

/// One signal for a person: the time, the event, and every member that is not empty.
pub(crate) fn line(signal: &Signal) -> String {
    let name = signal.kind.trim_start_matches("holdfast.").trim_end_matches(".v1");
    let mut line = format!("{}  {name}", signal.time);
    for (member, value) in &signal.data {
        match value {
            Value::Null => {}
            Value::Array(items) if items.is_empty() => {}
            // Of an error only its message; programs use `--json`.
            Value::Object(error) if error.contains_key("message") => {
                line.push_str(&format!("  {member}={}", error["message"]));
            }
            Value::String(text) => line.push_str(&format!("  {member}={text:?}")),
            other => line.push_str(&format!("  {member}={other}")),
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_line_says_when_and_what_and_no_nulls() {
        let signal: Signal = serde_json::from_value(json!({
            "specversion": "1.0", "id": "KV_sessions:7", "source": "/holdfast/default/s1",
            "type": "holdfast.lock.acquired.v1", "subject": "s1", "time": "2026-11-22T12:00:00Z",
            "datacontenttype": "application/json", "sequence": "00000000000000000007",
            "data": {"owner": "ann", "previous_owner": null, "lock_revision": 1},
        }))
        .unwrap();
        let line = line(&signal);
        assert!(line.starts_with("2026-11-22T12:00:00Z  lock.acquired  "), "{line}");
        assert!(line.contains("  owner=\"ann\"") && line.contains("  lock_revision=1"), "{line}");
        assert!(!line.contains("previous_owner"), "{line}");
        let error = json!({"code": "conflict", "message": "a.md was changed", "details": {"revision": 3}});
        let data = json!({"changed": [], "error": error}).as_object().unwrap().clone();
        let line = super::line(&Signal { data, ..signal });
        assert!(
            line.contains("  error=\"a.md was changed\"") && !line.contains("changed=") && !line.contains('3'),
            "{line}"
        );
    }
}
