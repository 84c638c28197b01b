//! `holdfast signals`: prints the signals of one session, one per line, until it is interrupted.

use clap::Args;
use holdfast_client::Event;
use holdfast_client::protocol::SessionId;
use holdfast_client::protocol::signal::Signal;
use holdfast_client::signals::{Follower, Group};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::ask::until;
use crate::connect::Connection;
use crate::exit::Failure;
use crate::output::{self, Format};
use crate::words::{Words, one_of};

const GROUPS: Words = &[
    ("session", "Opened, activated, moved, passivated, reclaimed, closed"),
    ("lock", "Acquired, rotated, released, expired, taken_over, changed, conflict"),
    ("doc", "Loaded, edited, saved, undone, redone, failed, diverged, converged"),
];

/// The signals to print.
#[derive(Args, Debug)]
pub(crate) struct Signals {
    /// The session's id; it need not exist yet
    #[arg(value_name = "ID", value_parser = SessionId::parse)]
    session: SessionId,
    /// Only one group
    #[arg(long, value_parser = one_of::<Group>(GROUPS))]
    group: Option<Group>,
    /// End after this many
    #[arg(long, value_name = "N")]
    count: Option<u64>,
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
            let session = connection.client().await?.session(self.session);
            let follower = session.follow(self.group).await;
            let follower = follower.map_err(|error| Failure::Connect(error.into()))?;
            show(follower, self.count.unwrap_or(u64::MAX), format).await
        };
        match until(stop, following).await {
            Err(Failure::Interrupted) => Ok(()),
            outcome => outcome,
        }
    }
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
