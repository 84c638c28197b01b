//! A document and its file: load, save, and what to say when the two do not go together.
//!
//! Invariant: what somebody else wrote is neither written over nor merged unless the request says so, and what the session
//! has is not dropped unless the request says so. Who asks is told what there is on both sides.

use std::sync::atomic::Ordering;

use holdfast_protocol::Error;
use holdfast_protocol::error::Reason;
use holdfast_protocol::reply::Saved;
use holdfast_protocol::request::{Load, Save, parse};
use serde_json::Value;

use super::file::{Baseline, File, Found, Over, Written};
use super::{Document, DocumentChange, Stamp, frontmatter, raw};
use crate::machine::{Ask, Change, Decision, Memory};

/// How many saves may have been begun and not come to an end before the first is forgotten.
pub(super) const BEGUN_MAX: usize = 16;

impl Document {
    fn file(&self) -> Result<&File, Error> {
        self.file.as_deref().ok_or_else(|| {
            Error::new(Reason::NoFile, format!("session {} has no file", self.id))
                .detail("session_id", self.id.as_str())
        })
    }

    pub(super) async fn decide_load(&self, load: &Load, ask: &Ask) -> Result<Decision, Error> {
        let file = self.file()?;
        if self.dirty() && load.discard != Some(true) {
            return Err(self.unsaved());
        }
        let found = file.read(&self.limits).await?.ok_or_else(|| file.missing())?;
        let previous_revision = self.state.revision;
        let revision = previous_revision + 1;
        let changed = [("body", found.body != self.state.body), ("fields", found.fields != self.state.fields)];
        let changed = changed.into_iter().filter(|(_, yes)| *yes).map(|(name, _)| name.to_owned()).collect();
        let mut after = self.reply();
        (after.body, after.fields) = (found.body.clone(), found.fields.clone());
        (after.revision, after.dirty, after.diverged) = (revision, false, false);
        let event = file.event("loaded", previous_revision, revision, changed, ask.actor.clone());
        let change = raw(&DocumentChange::Load {
            body: found.body,
            fields: found.fields,
            front: found.front,
            baseline: found.baseline,
            stamp: Some(Stamp::of(ask)),
        });
        Ok(Decision::Change(Change { change, event: Some(event), reply: raw(&after), memory: Memory::Occurrence }))
    }

    pub(super) async fn decide_save(&self, save: &Save, ask: &Ask) -> Result<Decision, Error> {
        let file = self.file()?;
        let front = self.front_to_save().map_err(|error| file.describe(error))?;
        let over = if save.overwrite == Some(true) { Over::Anything } else { Over::Known(self.state.known()) };
        let text = [front.as_str(), &self.state.body].concat();
        let baseline = match file.write(text, over).await? {
            Written::Done(baseline) => baseline,
            Written::Diverged(found) => {
                self.diverged.store(true, Ordering::Relaxed);
                return Err(self.disk_diverged(file, &found));
            }
        };
        let revision = self.state.revision;
        let reply =
            Saved { session_id: self.id.clone(), revision, bytes: baseline.bytes, digest: baseline.digest.clone() };
        let event = file.event("saved", revision, revision, Vec::new(), ask.actor.clone());
        let front = (front != self.state.front).then_some(front);
        let change = raw(&DocumentChange::Save { baseline, front, stamp: Some(Stamp::of(ask)) });
        Ok(Decision::Change(Change { change, event: Some(event), reply: raw(&reply), memory: Memory::Answer }))
    }

    /// The front matter of the file to be. A body that begins with one of its own is written as it stands, and read as
    /// fields when the file is read again; so it must be one that can be read.
    fn front_to_save(&self) -> Result<String, Error> {
        let state = &self.state;
        let front = frontmatter::rewrite(&state.front, &state.fields, &state.body, &self.limits)?;
        if front.is_empty() {
            frontmatter::read(frontmatter::split(&state.body).front, &self.limits)?;
        }
        Ok(front)
    }

    /// What the log is to have before the save in `payload`.
    pub(super) fn intended_save(&self, payload: &[u8]) -> Option<DocumentChange> {
        self.file.as_ref()?.writable().ok()?;
        // One that does not parse is refused when it is decided.
        parse::<Save>(payload, &self.limits).ok()?;
        let text = [self.front_to_save().ok()?.as_str(), &self.state.body].concat();
        let digest = Baseline::of(text.as_bytes(), None).digest;
        let is_known = self.state.baseline.as_ref().is_some_and(|baseline| baseline.digest == digest);
        (!is_known).then_some(DocumentChange::Saving { digest })
    }

    /// Notices what happened to the file while nobody had the session, and removes what a crashed save left beside it.
    pub(super) async fn look_at_disk(&self) {
        let Some(file) = &self.file else { return };
        if !self.state.begun.is_empty()
            && let Err(error) = file.sweep().await
        {
            tracing::warn!(session = %self.id, %error, "what a save may have left could not be removed");
        }
        match file.look().await {
            Ok(found) => {
                let diverged = !self.state.known().has(&found);
                self.diverged.store(diverged, Ordering::Relaxed);
                if diverged {
                    tracing::info!(session = %self.id, path = file.path(), "the file is not what the session knows");
                }
            }
            Err(error) => tracing::warn!(session = %self.id, %error, "the session's file could not be looked at"),
        }
    }

    /// The refusal to drop what no file has.
    pub(super) fn unsaved(&self) -> Error {
        let stamp = self.state.unsaved.as_ref();
        let since = stamp.map(|stamp| format!(", since {}", stamp.at)).unwrap_or_default();
        let message = format!("session {} has changes that its file does not have{since}", self.id);
        Error::new(Reason::UnsavedChanges, message)
            .detail("session_id", self.id.as_str())
            .detail("revision", self.state.revision)
            .detail("saved_revision", self.state.saved_revision)
            .detail("unsaved_since", stamp.map(|stamp| stamp.at.clone()))
            .detail("unsaved_by", stamp.and_then(|stamp| stamp.by.clone()))
            .detail("diverged", self.diverged.load(Ordering::Relaxed))
    }

    fn disk_diverged(&self, file: &File, found: &Found) -> Error {
        let (expected, synced) = (self.state.baseline.as_ref(), self.state.synced.as_ref());
        let (what, seen) = match found {
            Found::Nothing => ("was removed from disk", None),
            Found::Link => ("is a symbolic link now", None),
            Found::File(seen) if expected.is_none() => ("was made on disk", Some(seen)),
            Found::File(seen) => ("was changed on disk", Some(seen)),
        };
        let message = format!("{} {what} by somebody else since this session read or wrote it", file.path());
        let text = |text: Option<&String>| text.cloned().map_or(Value::Null, Value::String);
        file.describe(Error::new(Reason::DiskDiverged, message))
            .detail("session_id", self.id.as_str())
            .detail("revision", self.state.revision)
            .detail("expected_digest", text(expected.map(|expected| &expected.digest)))
            .detail("expected_mtime", text(expected.and_then(|expected| expected.mtime.as_ref())))
            .detail("synced_at", text(synced.map(|stamp| &stamp.at)))
            .detail("synced_by", text(synced.and_then(|stamp| stamp.by.as_ref())))
            .detail("found_digest", text(seen.map(|seen| &seen.digest)))
            .detail("found_bytes", seen.map(|seen| seen.bytes))
            .detail("found_mtime", text(seen.and_then(|seen| seen.mtime.as_ref())))
            .detail("found_uid", seen.map(|seen| seen.uid))
            .detail("unsaved_since", text(self.state.unsaved.as_ref().map(|stamp| &stamp.at)))
            .detail("unsaved_by", text(self.state.unsaved.as_ref().and_then(|stamp| stamp.by.as_ref())))
    }
}
