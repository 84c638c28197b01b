//! `holdfast record`: break-glass on a session's record, for the day when no coordinator answers.
//!
//! Invariant: a write has the condition that the record is still the one that was shown, so it overwrites nobody; and
//! it is a hand edit, which the relay announces when it runs again. Secrets are not shown (`hidden`).

mod edit;
pub(crate) mod hidden;
pub(crate) mod unlock;

use clap::{Args, Subcommand};
use holdfast_client::protocol::{Revision, SessionKey, SessionRecord};
use holdfast_store::Stored;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::admin::Reason;
use crate::archive::Archive;
use crate::ask::until;
use crate::connect::Connection;
use crate::exit::Failure;
use crate::output::{self, Format, plain};
use crate::session::Of;
use hidden::Hidden;

/// What to do with a record.
#[derive(Subcommand, Debug)]
pub(crate) enum Record {
    /// Show a session's record as it is stored, with its revision
    Get {
        #[command(flatten)]
        session: Of,
        /// Print the stored bytes and nothing else, with what is hidden otherwise: the hash of the token and request
        /// ids
        #[arg(long)]
        raw: bool,
    },
    /// Free the lock in the record, whoever holds it; shows what that does, and asks first
    Unlock {
        #[command(flatten)]
        session: Of,
        #[command(flatten)]
        why: Why,
    },
    /// Edit the record in $VISUAL or $EDITOR; checks it, shows what changed, and asks before it is written
    Edit {
        #[command(flatten)]
        session: Of,
        #[command(flatten)]
        why: Why,
    },
}

/// Who edits, and why; both are in the record and in the signal.
#[derive(Args, Debug)]
pub(crate) struct Why {
    #[command(flatten)]
    pub(crate) reason: Reason,
    /// Who does this, for the audit trail
    #[arg(long, env = "USER", value_name = "TEXT")]
    pub(crate) actor: Option<String>,
    /// Do not ask
    #[arg(long, short = 'y')]
    pub(crate) yes: bool,
}

impl Record {
    /// Does it.
    pub(crate) async fn run(
        self,
        connection: &Connection,
        format: Format,
        stop: &CancellationToken,
    ) -> Result<(), Failure> {
        let archive = Archive::open(connection).await?;
        match self {
            Self::Get { session, raw } => {
                let key = archive.key(&session.id);
                let stored = archive.permitted(archive.record(&key)).await?;
                if raw { output::text(&text_of(&stored)).map_err(Failure::Output) } else { show(&stored, format) }
            }
            Self::Unlock { session, why } => {
                let key = archive.key(&session.id);
                until(stop, archive.permitted(unlock::run(&archive, &key, &why, format))).await
            }
            Self::Edit { session, why } => {
                let key = archive.key(&session.id);
                archive.permitted(edit::run(&archive, &key, &why, format)).await
            }
        }
    }
}

fn text_of(stored: &Stored) -> String {
    let mut text = String::from_utf8_lossy(stored.value.as_deref().unwrap_or_default()).into_owned();
    text.push('\n');
    text
}

/// Shows a record without its secrets.
fn show(stored: &Stored, format: Format) -> Result<(), Failure> {
    let key = &stored.key;
    let record = parse(stored).map(|record| Hidden::of(&record));
    let head = format!("record of {key}, revision {}, stored {:.3}", stored.revision, stored.time);
    let by = if stored.write_id.is_some() { "" } else { ", edited by hand" };
    let written = match (format, record) {
        (Format::Json, Ok(hidden)) => output::line(&in_json(stored, hidden.json()).to_string().into_bytes()),
        (Format::People, Ok(hidden)) => {
            let mut text = String::new();
            for line in hidden.text().lines() {
                text.push_str(&plain(line));
                text.push('\n');
            }
            output::note(&format!("{head}{by}"));
            output::text(&text)
        }
        (_, Err(failure)) => return Err(failure),
    };
    written.map_err(Failure::Output)
}

fn in_json(stored: &Stored, record: &serde_json::Value) -> serde_json::Value {
    json!({"session_id": stored.key.id.as_str(), "namespace": stored.key.namespace.as_str(), "revision": stored.revision,
           "time": stored.time.to_string(), "by_hand": stored.write_id.is_none(), "record": record})
}

/// The record, if it is there and valid.
///
/// # Errors
/// `no_session` when it was deleted, `record_invalid` with the problem when it does not parse.
fn parse(stored: &Stored) -> Result<SessionRecord, Failure> {
    let key = &stored.key;
    let Some(json) = &stored.value else {
        let message = format!("the record of {key} was deleted with revision {}", stored.revision);
        return Err(of_session(holdfast_client::protocol::Reason::NoSession, message, key));
    };
    SessionRecord::from_json(json, key).map_err(|mut error| {
        let help = "`holdfast record edit` begins with the last revision that was valid, `holdfast record get --raw` shows \
                    what is stored";
        error.message = format!("{}; {help}", error.message);
        error.advise(&[]).into()
    })
}

fn of_session(reason: holdfast_client::protocol::Reason, message: String, key: &SessionKey) -> Failure {
    let error = holdfast_client::protocol::Error::new(reason, message);
    error.advise(&[]).detail("session_id", key.id.as_str()).into()
}

/// Says what was written.
fn written(
    key: &SessionKey,
    revision: Revision,
    record: &SessionRecord,
    previous_owner: Option<&str>,
    format: Format,
) -> Result<(), Failure> {
    let holder = record.lock.as_ref().map(|lock| lock.owner.as_str());
    let shown = match format {
        Format::Json => output::line(
            json!({"session_id": key.id.as_str(), "namespace": key.namespace.as_str(), "revision": revision,
                   "lock_revision": record.lock_revision, "owner": holder, "previous_owner": previous_owner})
            .to_string()
            .as_bytes(),
        ),
        Format::People => {
            let lock = holder.map_or("free".to_owned(), |holder| format!("held by {holder}"));
            let text = format!("written as revision {revision}: lock {lock}, lock revision {}", record.lock_revision);
            output::line(plain(&text).as_bytes())
        }
    };
    shown.map_err(Failure::Output)
}
