//! A document and its file compared, and the refusals when the two differ.
//!
//! Invariant: the session never merges what another program wrote to the file, and never treats it as its own. A
//! refusal describes both sides.

use std::sync::Arc;

use holdfast_files::{Baseline, Found, Placed, Seen};
use holdfast_protocol::Error;
use holdfast_protocol::error::Reason;
use holdfast_protocol::frame::{CONVERGED, DIVERGED, OpEvent};
use holdfast_store::chance;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::change::{DocumentChange, Stamp};
use super::file::File;
use super::save::saved;
use super::state::State;
use super::{Document, event, raw};
use crate::machine::{Change, Memory, Noticed};

impl Document {
    pub(super) fn file(&self) -> Result<&Arc<File>, Error> {
        self.file.as_ref().ok_or_else(|| {
            Error::new(Reason::NoFile, format!("session {} has no file", self.id))
                .advise(&[])
                .detail("session_id", self.id.as_str())
        })
    }

    /// Compares the file with what the session knows. Reports that they differ, that they agree again, or that a save
    /// reached the file before its worker ended.
    pub(super) async fn look_at_disk(&self) -> Option<Noticed> {
        let (file, state) = (self.file.as_ref()?, &self.state);
        let is_tidy = match state.begun.iter().any(|begun| begun.save.is_some()) {
            true => file.tidy(state.known(), &self.limits).await.inspect_err(|error| {
                tracing::warn!(session = %self.id, %error, "temporary files of a save could not be removed");
            }),
            false => Ok(()),
        };
        let found = match file.look(&self.limits).await {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(session = %self.id, %error, "the session's file could not be looked at");
                return None;
            }
        };
        if let Found::File(seen) = &found
            && let Some(begun) = state.begun.iter().rfind(|begun| Some(&begun.digest) == seen.digest.as_ref())
            && let Some(save) = &begun.save
            && is_tidy.is_ok()
        {
            tracing::info!(session = %self.id, path = file.path(), "a save reached the file before its worker ended");
            let baseline = Baseline { digest: begun.digest.clone(), bytes: save.bytes, mtime: seen.mtime.clone() };
            return Some(Noticed {
                request_id: Some(save.request_id.clone()),
                // The replaced file is gone, so nobody can count its links any more.
                change: saved(file, save, Placed { baseline, links_cut: 0 }),
            });
        }
        let (change, kind, error) = match (state.known().has(&found), state.diverged.is_some()) {
            (false, false) => {
                let error = Standpoint::of(self).diverged(file, &found);
                let why = &error.message;
                tracing::info!(session = %self.id, path = file.path(), why, "the file differs from the known one");
                (DocumentChange::Diverged { at: chance::now().to_string().into() }, DIVERGED, Some(told(&error)))
            }
            (true, true) => (DocumentChange::Converged {}, CONVERGED, None),
            _ => return None,
        };
        let event = Some(OpEvent { error, ..event(kind, state.revision, state.revision, Some(file)) });
        let (change, reply) = (raw(&change), RawValue::NULL.to_owned());
        Some(Noticed { request_id: None, change: Change { change, event, reply, memory: Memory::Answer } })
    }

    /// The refusal to drop unsaved changes.
    pub(super) fn unsaved(&self) -> Error {
        let stamp = self.state.unsaved.as_ref();
        let since = stamp.map(|stamp| format!(", since {}", stamp.at)).unwrap_or_default();
        let message = format!("session {} has changes that its file does not have{since}", self.id);
        // While the file differs, only a save with `overwrite` can succeed.
        let save = if self.state.diverged.is_some() { "save_overwrite" } else { "save" };
        Error::new(Reason::UnsavedChanges, message)
            .advise(&[save, "discard"])
            .detail("session_id", self.id.as_str())
            .detail("revision", self.state.revision)
            .detail("saved_revision", self.state.saved_revision)
            .detail("unsaved_since", stamp.map(|stamp| stamp.at.clone()))
            .detail("unsaved_by", stamp.and_then(|stamp| stamp.by.clone()))
            .detail("diverged", self.state.diverged.is_some())
    }
}

/// An error as a signal carries it.
fn told(error: &Error) -> Value {
    json!({ "code": error.code, "reason": error.reason, "message": error.message, "details": error.details })
}

/// What a session knows of its file at one moment.
pub(super) struct Standpoint {
    revision: u64,
    baseline: Option<Box<Baseline>>,
    synced: Option<Box<Stamp>>,
    unsaved: Option<Box<Stamp>>,
}

impl Standpoint {
    pub(super) fn of(document: &Document) -> Self {
        let State { revision, baseline, synced, unsaved, .. } = &document.state;
        let (baseline, synced, unsaved) = (baseline.clone(), synced.clone(), unsaved.clone());
        Self { revision: *revision, baseline, synced, unsaved }
    }

    /// The `disk_diverged` refusal: `found` is not what the session read or wrote.
    pub(super) fn diverged(&self, file: &File, found: &Found) -> Error {
        let (expected, synced, unsaved) = (self.baseline.as_ref(), self.synced.as_ref(), self.unsaved.as_ref());
        let (what, seen) = match found {
            Found::Nothing => ("was removed from disk by somebody else", None),
            Found::Link => ("is a symbolic link now", None),
            Found::Irregular => ("is not a regular file now", None),
            Found::Unreadable => ("cannot be read by this worker now", None),
            Found::File(seen) if expected.is_none() => ("was made on disk by somebody else", Some(seen)),
            Found::File(seen) => ("was changed on disk by somebody else", Some(seen)),
        };
        let message = format!("{} {what}, since this session read or wrote it", file.path());
        let text = |text: Option<&String>| text.cloned().map_or(Value::Null, Value::String);
        let actions: &[&str] = match found {
            Found::File(Seen { digest: Some(_), .. }) => &["load_discard", "save_overwrite", "read"],
            // A save can replace these, though no load can read them. It cannot replace a folder or a device.
            Found::File(_) | Found::Nothing | Found::Link | Found::Unreadable => &["save_overwrite", "read"],
            Found::Irregular => &["read"],
        };
        file.describe(Error::new(Reason::DiskDiverged, message))
            .advise(actions)
            .detail("revision", self.revision)
            .detail("expected_digest", text(expected.map(|expected| &expected.digest)))
            .detail("expected_mtime", text(expected.and_then(|expected| expected.mtime.as_ref())))
            .detail("synced_at", text(synced.map(|stamp| &stamp.at)))
            .detail("synced_by", text(synced.and_then(|stamp| stamp.by.as_ref())))
            .detail("found_digest", text(seen.and_then(|seen| seen.digest.as_ref())))
            .detail("found_bytes", seen.map(|seen| seen.bytes))
            .detail("found_mtime", text(seen.and_then(|seen| seen.mtime.as_ref())))
            .detail("found_uid", seen.map(|seen| seen.uid))
            .detail("unsaved_since", text(unsaved.map(|stamp| &stamp.at)))
            .detail("unsaved_by", text(unsaved.and_then(|stamp| stamp.by.as_ref())))
    }
}
