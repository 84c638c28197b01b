//! `holdfast record edit`: a record in an editor.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::process::Command;

use holdfast_client::protocol::json::parse_fields;
use holdfast_client::protocol::record::SessionRecord;
use holdfast_client::protocol::{Revision, SessionKey};

use super::hidden::{Hidden, changes};
use super::unlock::by_hand;
use super::{Why, parse, written};
use crate::archive::{Archive, failure};
use crate::confirm::Consent;
use crate::exit::Failure;
use crate::output::{Format, note, plain};

/// The editor when the environment names none.
const EDITOR: &str = "vi";

/// Has the record edited until it is valid, shows what changed, asks, and writes it.
pub(super) async fn run(archive: &Archive, key: &SessionKey, why: &Why, format: Format) -> Result<(), Failure> {
    let stored = archive.record(key).await?;
    let (shown, is_repair) = match parse(&stored) {
        Ok(record) => (record, false),
        Err(failure) if stored.value.is_none() => return Err(failure),
        Err(failure) => match last_valid(archive, key).await? {
            Some((revision, record)) => {
                note(&format!(
                    "revision {} is not valid; this is revision {revision}, the last valid one",
                    stored.revision
                ));
                (record, true)
            }
            None => return Err(failure),
        },
    };
    let hidden = Hidden::of(&shown);
    let mut text = hidden.text_to_edit();
    let next = loop {
        text = edited(text).await?;
        match checked(&text, &hidden, &shown, key) {
            Ok(next) => break next,
            Err(problem) => {
                let problem = format!("the record was not written: {}", plain(&problem));
                if !io::stdin().is_terminal() {
                    return Err(Failure::Usage(problem));
                }
                note(&problem);
                if !Consent::Ask.obtain("Edit it again?").await? {
                    return Err(Failure::Usage(problem));
                }
            }
        }
    };
    let changes = changes(&shown, &next);
    if changes.is_empty() && !is_repair {
        note("nothing was changed");
        return Ok(());
    }
    note(&changes.iter().map(|change| plain(change)).collect::<Vec<_>>().join("\n"));
    let question = format!("Write this over revision {} of {key}?", stored.revision);
    if !Consent::of(why.yes).obtain(&question).await? {
        return Err(Failure::Other(anyhow::anyhow!("nothing was changed")));
    }
    let previous_owner = shown.lock.as_ref().map(|lock| lock.owner.clone());
    let next = SessionRecord { event: Some(by_hand(why, previous_owner.clone())), ..next };
    let write = archive.store.edit_by_hand(key, stored.revision, next.to_json().into());
    written(key, write.await.map_err(failure)?, &next, previous_owner.as_deref(), format)
}

async fn last_valid(archive: &Archive, key: &SessionKey) -> Result<Option<(Revision, SessionRecord)>, Failure> {
    let revisions = archive.revisions(key, Revision(0)).await?;
    Ok(revisions.iter().rev().find_map(|stored| Some((stored.revision, parse(stored).ok()?))))
}

/// The record in `text`, if it may follow `before`; otherwise what is wrong with it.
fn checked(text: &str, hidden: &Hidden, before: &SessionRecord, key: &SessionKey) -> Result<SessionRecord, String> {
    let members = parse_fields(text).map_err(|flaw| flaw.to_string())?;
    let members = hidden.restore(members)?;
    let json = serde_json::to_vec(&members).map_err(|error| error.to_string())?;
    let next = SessionRecord::from_json(&json, key).map_err(|error| error.message)?;
    if next.mark != before.mark {
        return Err("`mark` counts changes for the relay; leave it as it was".to_owned());
    }
    if next.log_after < before.log_after {
        return Err(format!("log_after was {} and may not become smaller", before.log_after));
    }
    let lowest = before.lock_revision + u64::from(next.lock != before.lock);
    if next.lock_revision < lowest {
        return Err(format!("the lock revision counts changes of the lock: it must be at least {lowest} now"));
    }
    Ok(next)
}

/// `text` after somebody edited it.
async fn edited(text: String) -> Result<String, Failure> {
    let editing = tokio::task::spawn_blocking(move || edit(&text));
    editing.await.map_err(|error| Failure::Other(error.into()))?
}

fn edit(text: &str) -> Result<String, Failure> {
    let failed = |error: io::Error| Failure::Other(anyhow::Error::new(error).context("the file for the editor"));
    let mut file = tempfile::Builder::new().prefix("holdfast-record-").suffix(".json").tempfile().map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    let editor = editor();
    // By a shell, since the variables may have options, as git reads them.
    let mut line = editor.clone();
    line.push(" \"$1\"");
    let status = Command::new("sh").arg("-c").arg(line).arg("sh").arg(file.path()).status().map_err(failed)?;
    if !status.success() {
        let message = format!("the editor {editor:?} ended with {status}; nothing was changed: set VISUAL or EDITOR");
        return Err(Failure::Usage(message));
    }
    // By its name: editors replace the file.
    std::fs::read_to_string(file.path()).map_err(failed)
}

fn editor() -> OsString {
    let named = |variable: &str| std::env::var_os(variable).filter(|editor| !editor.is_empty());
    named("VISUAL").or_else(|| named("EDITOR")).unwrap_or_else(|| EDITOR.into())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn record() -> SessionRecord {
        let lock = json!({"owner": "ann", "revision": 4, "token_hash": "abc"});
        let record = json!({"v": 1, "namespace": "default", "id": "s1", "kind": "document", "state": "passive",
            "owner": null, "lock": lock, "lock_revision": 4, "log_after": 9, "mark": {"at": 3, "changes": 2},
            "config": {"idle_timeout_ms": 1000}, "created_at": "2026-11-22T12:00:00Z"});
        serde_json::from_value(record).unwrap()
    }

    fn check(change: impl FnOnce(&mut Value)) -> Result<SessionRecord, String> {
        let before = record();
        let hidden = Hidden::of(&before);
        let mut json = serde_json::from_str(&hidden.text_to_edit()).unwrap();
        change(&mut json);
        checked(&json.to_string(), &hidden, &before, &before.key())
    }

    #[test]
    fn an_edit_that_is_valid_is_taken_with_the_secrets_that_were_hidden() {
        assert_eq!(check(|_| ()).unwrap(), record());
        let freed = check(|json| {
            json["lock"] = Value::Null;
            json["lock_revision"] = json!(5);
        });
        assert_eq!(freed.unwrap().lock, None);
        let renamed = check(|json| {
            json["lock"]["owner"] = json!("bob");
            json["lock_revision"] = json!(5);
        });
        assert_eq!(renamed.unwrap().lock.unwrap().token_hash, "abc");
    }

    #[test]
    fn an_edit_that_would_break_something_is_refused_with_the_reason() {
        let problem = |change: fn(&mut Value)| check(change).unwrap_err();
        assert!(problem(|json| json["lock"] = Value::Null).contains("at least 5"));
        assert!(problem(|json| json["lock_revision"] = json!(3)).contains("lock.revision is above"));
        assert!(problem(|json| json["mark"]["changes"] = json!(0)).contains("mark"));
        assert!(problem(|json| json["log_after"] = json!(8)).contains("log_after was 9"));
        assert!(problem(|json| json["state"] = json!("active")).contains("owner exactly while it is active"));
        assert!(problem(|json| json["id"] = json!("s2")).contains("default.s2"));
        assert!(problem(|json| json["lokc"] = json!(1)).contains("lokc"));
        let before = record();
        let checked = checked("{", &Hidden::of(&before), &before, &before.key());
        assert!(checked.unwrap_err().contains("EOF"));
    }

    #[test]
    fn what_changed_is_named_and_secrets_are_not_shown() {
        let mut next = record();
        next.lock = None;
        next.lock_revision = 5;
        let told = changes(&record(), &next);
        assert_eq!(told, ["lock: held by ann -> nothing", "lock_revision: 4 -> 5"]);
        let mut next = record();
        if let Some(lock) = &mut next.lock {
            (lock.owner, lock.token_hash) = ("bob".to_owned(), "def".to_owned());
        }
        assert_eq!(changes(&record(), &next), ["lock.owner: \"ann\" -> \"bob\"", "lock.token_hash: changed"]);
        assert!(changes(&record(), &record()).is_empty());
    }
}
