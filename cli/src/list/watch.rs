//! A list that is kept up to date: each change is one line.
//!
//! Invariant: no change is missed. The signals are subscribed to before the list is read, and each signal only makes
//! this look at the session's record.

use std::collections::BTreeMap;

use futures_util::StreamExt;
use holdfast_client::protocol::reply::Session;
use holdfast_client::protocol::{Namespace, Reason, SessionId, SessionKey};
use serde::Serialize;

use super::{ListArgs, everywhere, line, pages};
use crate::ask::{Asker, Audit};
use crate::connect::Connection;
use crate::exit::Failure;
use crate::output::{self, Format};
use crate::probe::Probe;
use crate::status;

/// What happened to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Happened {
    /// It was there at the beginning.
    Listed,
    /// It matches the filters now.
    Added,
    /// It is another one than before.
    Changed,
    /// It does not match any more, or it is over.
    Removed,
}

/// One line of output.
#[derive(Serialize)]
struct Line<'a> {
    change: Happened,
    session: &'a Session,
}

/// Lists, and then shows changes without end.
pub(super) async fn watch(
    connection: &Connection,
    audit: Audit,
    args: &ListArgs,
    format: Format,
) -> Result<(), Failure> {
    let probe = status::probe(connection, "holdfast list --watch").await?;
    let subject = match args.all_namespaces {
        true => format!("{}.*.signal.>", connection.root),
        false => format!("{}.{}.signal.>", connection.root, connection.namespace),
    };
    let failed = |error: &dyn std::fmt::Display| Failure::Connect(anyhow::anyhow!("cannot follow signals: {error}"));
    let mut signals = probe.nats.subscribe(subject).await.map_err(|error| failed(&error))?;
    let asker = Asker::connect(connection, audit, format).await?;
    let begin = begin(connection, &asker, args, &probe).await?;
    let mut shown = Shown { format, sessions: BTreeMap::new() };
    for session in begin.into_iter().filter(|session| args.wants(session)) {
        let key = key_of(&session.namespace, session.id.as_str());
        if let Some(key) = key {
            shown.tell(key, Some(session), Happened::Listed)?;
        }
    }
    while let Some(signal) = signals.next().await {
        let Some(key) = key_in(&signal.subject) else { continue };
        let client = asker.client.clone().in_namespace(key.namespace.clone());
        let found = match client.session(key.id.clone()).get().send().await {
            Ok(session) => Some(session).filter(|session| args.wants(session)),
            Err(error) if error.contract().reason == Reason::NoSession => None,
            Err(error) => {
                output::note(&output::plain(&format!("{key} could not be read: {error}")));
                continue;
            }
        };
        let happened = if shown.sessions.contains_key(&key) { Happened::Changed } else { Happened::Added };
        shown.tell(key, found, happened)?;
    }
    Err(Failure::Connect(anyhow::anyhow!("the connection to NATS was closed")))
}

async fn begin(
    connection: &Connection,
    asker: &Asker,
    args: &ListArgs,
    probe: &Probe,
) -> Result<Vec<Session>, Failure> {
    if args.all_namespaces {
        return Ok(everywhere::sessions(&everywhere::survey(probe, connection.timeout).await?));
    }
    Ok(pages::all(asker, &asker.client, args.request()).await?.sessions)
}

/// `<root>.<namespace>.signal.<id>.<group>.<event>`
fn key_in(subject: &str) -> Option<SessionKey> {
    let mut tokens = subject.split('.').skip(1);
    let namespace = tokens.next()?;
    key_of(namespace, tokens.nth(1)?)
}

fn key_of(namespace: &str, id: &str) -> Option<SessionKey> {
    Some(SessionKey::new(Namespace::parse(namespace).ok()?, SessionId::parse(id).ok()?))
}

/// What was shown.
struct Shown {
    format: Format,
    sessions: BTreeMap<SessionKey, Session>,
}

impl Shown {
    /// Shows what changed, if anything did. `found`: the session as it is now, if it is to be listed.
    fn tell(&mut self, key: SessionKey, found: Option<Session>, happened: Happened) -> Result<(), Failure> {
        let before = self.sessions.get(&key);
        match found {
            Some(session) if before == Some(&session) => Ok(()),
            Some(session) => {
                self.write(happened, &session)?;
                self.sessions.insert(key, session);
                Ok(())
            }
            None => match self.sessions.remove(&key) {
                Some(session) => self.write(Happened::Removed, &session),
                None => Ok(()),
            },
        }
    }

    fn write(&self, change: Happened, session: &Session) -> Result<(), Failure> {
        let text = match self.format {
            Format::Json => serde_json::to_vec(&Line { change, session }).map_err(anyhow::Error::from)?,
            Format::People => {
                let mark = match change {
                    Happened::Listed => ' ',
                    Happened::Added => '+',
                    Happened::Changed => '~',
                    Happened::Removed => '-',
                };
                format!("{mark} {}", line(session)).into_bytes()
            }
        };
        output::line(&text).map_err(Failure::Output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_names_its_session() {
        assert_eq!(key_in("hf.team.signal.s1.lock.acquired"), key_of("team", "s1"));
        assert_eq!(key_in("hf.team.signal"), None);
    }
}
