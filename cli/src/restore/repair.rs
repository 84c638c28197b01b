//! The repair: moves the sequence, then writes every record again.

use futures_util::{StreamExt, TryStreamExt, stream};
use holdfast_client::protocol::SessionRecord;
use holdfast_store::{Rollup, Storage, Stored, Walk};
use serde_json::json;

use super::Note;
use super::judge::Evidence;
use crate::archive::{Archive, failure};
use crate::confirm::Consent;
use crate::exit::Failure;
use crate::output::{self, Format, note};
use crate::record::Why;
use crate::record::unlock::by_hand;

/// How many notes are under way at once while the sequence is moved, and how many make one stretch.
const SIDE_BY_SIDE: usize = 256;
const STRETCH: u64 = 20_000;
/// How many records are written at once.
const RECORDS: usize = 32;
/// About how many messages of the stream one page covers.
const PAGE: usize = 500;

/// What was done.
#[derive(Default)]
struct Done {
    records: u64,
    freed: u64,
    /// Records that do not parse, as `namespace.id`. Nobody gets a grant on them before they are repaired, which gives
    /// them a new revision.
    invalid: Vec<String>,
}

/// Asks, and repairs.
pub(super) async fn run(
    archive: &Archive,
    evidence: &Evidence,
    margin: u64,
    why: &Why,
    format: Format,
) -> Result<(), Failure> {
    let goal = evidence.goal(margin)?;
    note(&format!(
        "sequence  from {} to {goal}: {} messages are stored for that, and all but one removed again\nrecords   each is written \
         again, with a revision beyond {goal}\nlocks     all are freed: every token from before is refused",
        evidence.last,
        goal.saturating_sub(evidence.last)
    ));
    if !Consent::of(why.yes).obtain("Repair?").await? {
        return Err(Failure::Other(anyhow::anyhow!("nothing was changed")));
    }
    // The note first: from here on a repair that is cut off can be seen.
    put(archive, &Note::of(goal, false), Rollup::Replace).await?;
    advance(archive, goal).await?;
    let done = rewrite(archive, why).await?;
    put(archive, &Note::of(goal, true), Rollup::Replace).await?;
    show(goal, &done, format).map_err(Failure::Output)
}

async fn put(archive: &Archive, note: &Note, rollup: Rollup) -> Result<u64, Failure> {
    archive.store.note_by_hand(note.to_json().into(), rollup).await.map_err(failure)
}

/// Moves the stream's sequence to `goal` or beyond. nats-server has no request for that, so it stores that many
/// messages on one key, of which it keeps 64.
async fn advance(archive: &Archive, goal: u64) -> Result<(), Failure> {
    let filler = Note::of(goal, false);
    loop {
        let last = archive.store.last().await.map_err(failure)?;
        let missing = goal.saturating_sub(last);
        if missing == 0 {
            return Ok(());
        }
        if missing > STRETCH {
            note(&format!("at sequence {last} of {goal}"));
        }
        stream::iter(0..missing.min(STRETCH))
            .map(|_| put(archive, &filler, Rollup::Keep))
            .buffer_unordered(SIDE_BY_SIDE)
            .try_for_each(|_| async { Ok(()) })
            .await?;
    }
}

/// Writes every record again, without its lock.
async fn rewrite(archive: &Archive, why: &Why) -> Result<Done, Failure> {
    let until = archive.store.last().await.map_err(failure)?;
    let (mut after, mut done) = (0, Done::default());
    while after < until {
        let walk = Walk { namespace: None, after, until, most: PAGE };
        let page = archive.store.page(&walk).await.map_err(failure)?;
        after = page.looked_until;
        let mut outcomes =
            stream::iter(page.records)
                .map(|found| async move {
                    one(archive, &found.stored, why).await.map(|outcome| (found.stored.key, outcome))
                })
                .buffer_unordered(RECORDS);
        while let Some((key, outcome)) = outcomes.try_next().await? {
            match outcome {
                Outcome::Deleted => {}
                Outcome::Written { was_locked } => {
                    done.records += 1;
                    done.freed += u64::from(was_locked);
                }
                Outcome::Invalid => done.invalid.push(key.to_string()),
            }
        }
    }
    Ok(done)
}

/// What became of one record.
enum Outcome {
    /// There is only a marker of its deletion. A session that is opened there gets a new revision.
    Deleted,
    Written {
        was_locked: bool,
    },
    Invalid,
}

async fn one(archive: &Archive, stored: &Stored, why: &Why) -> Result<Outcome, Failure> {
    let Some(json) = &stored.value else { return Ok(Outcome::Deleted) };
    let Ok(record) = SessionRecord::from_json(json, &stored.key) else { return Ok(Outcome::Invalid) };
    let next = again(&record, why).to_json().into();
    archive.store.edit_by_hand(&stored.key, stored.revision, next).await.map_err(failure)?;
    Ok(Outcome::Written { was_locked: record.lock.is_some() })
}

/// The record without its lock, and with a reason for its new revision. Without a lock no secret matters: the stored
/// one may be of a backup too, or new.
fn again(record: &SessionRecord, why: &Why) -> SessionRecord {
    let previous_owner = record.lock.as_ref().map(|lock| lock.owner.clone());
    let lock_revision = record.lock_revision + u64::from(record.lock.is_some());
    let event = by_hand(why, previous_owner);
    SessionRecord { lock: None, lock_revision, secret: 0, event: Some(event), ..record.clone() }
}

fn show(goal: u64, done: &Done, format: Format) -> std::io::Result<()> {
    let Done { records, freed, invalid } = done;
    match format {
        Format::Json => output::line(
            json!({"beyond": goal, "records": records, "locks_freed": freed, "invalid": invalid})
                .to_string()
                .as_bytes(),
        ),
        Format::People => {
            let mut text = format!("repaired: every new fence is greater than {goal}\n");
            text.push_str(&format!("records written again: {records}, locks freed: {freed}\n"));
            for key in invalid {
                text.push_str(&format!("does not parse, and was left: {key}; see holdfast record edit\n"));
            }
            text.push_str("start the coordinators and workers now\n");
            output::text(&text)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin;

    #[test]
    fn a_record_that_is_written_again_loses_its_lock_and_nothing_else() {
        let before: SessionRecord = serde_json::from_value(json!({"v": 1, "namespace": "default", "id": "s1",
            "kind": "document", "state": "passive", "owner": null, "lock": {"owner": "ann", "revision": 4, "fence": 7,
            "token_hash": "abc", "acquired_at": "2026-11-22T12:00:00Z"}, "lock_revision": 4, "secret": 3,
            "config": {"idle_timeout_ms": 1000}, "created_at": "2026-11-22T12:00:00Z"}))
        .unwrap();
        let why = Why { reason: admin::Reason { reason: "backup".into() }, actor: None, yes: true };
        let after = again(&before, &why);
        assert_eq!((after.lock.clone(), after.lock_revision, after.secret), (None, 5, 0));
        let event = after.event.clone().unwrap();
        assert_eq!((event.previous_owner.as_deref(), event.reason.as_deref()), (Some("ann"), Some("backup")));
        assert_eq!(
            SessionRecord { lock: before.lock.clone(), lock_revision: 4, secret: 3, event: None, ..after.clone() },
            before
        );
        assert_eq!(again(&after, &why).lock_revision, 5, "a free lock has no new revision");
    }
}
