//! `doc.edit`: a new body, splices of it, or a merge patch of the fields become one exact change.

use holdfast_frontmatter::BYTE_ORDER_MARK;
use holdfast_protocol::document::{Splice, body_too_large, check_fields, merge_patch};
use holdfast_protocol::request::{self, Edit};
use holdfast_protocol::subject::Verb;
use holdfast_protocol::{Error, Limits};

use super::change::{DocumentChange, Stamp};
use super::delta::{Delta, Mark};
use super::history::Weight;
use super::splice::{difference, splice_all};
use super::{Document, ask};
use crate::machine::{Access, Ask, Decision};

pub(super) fn parse(payload: &[u8], limits: &Limits) -> Result<Ask, Error> {
    let edit: Edit = request::parse(payload, limits)?;
    ask(Verb::DocEdit, Access::Write { token: edit.token.clone() }, edit)
}

impl Document {
    pub(super) fn edit(&self, edit: &Edit, ask: &Ask) -> Result<Decision, Error> {
        self.expect_revision(edit.expected_revision)?;
        let mut delta = self.delta_of(edit)?;
        if self.file.is_some() {
            delta = self.with_mark_in_front(delta)?;
        }
        let (changed, stamp) = (delta.changed(), Some(Stamp::of(ask)));
        let change = match changed.is_empty() {
            true => DocumentChange::Same { stamp },
            false => DocumentChange::Edit { delta, stamp, weight: Weight::Encoded },
        };
        Ok(self.changed(&change, "edited", changed, ask))
    }

    /// What `edit` changes.
    ///
    /// # Errors
    /// `bad_value` for a splice out of bounds; `too_large` when the result would be over a limit.
    pub(super) fn delta_of(&self, edit: &Edit) -> Result<Delta, Error> {
        let (body, limits) = (&self.state.body, &self.limits);
        let mut delta = Delta::default();
        if let Some(patch) = &edit.fields {
            let mut result = self.state.fields.clone();
            merge_patch(&mut result, patch);
            check_fields(&result, limits)?;
            delta = Delta::between_fields(&self.state.fields, &result);
        }
        if let Some(new) = &edit.body {
            delta.splices.extend(difference(body, new));
        } else if let Some(splices) = &edit.splices {
            let mut result = body.clone();
            splice_all(&mut result, splices, |bytes| match bytes > limits.body_bytes {
                true => Err(body_too_large(limits)),
                false => Ok(()),
            })?;
            if result != *body {
                delta.splices.clone_from(splices);
            }
        }
        Ok(delta)
    }

    /// `delta`, for a document with a file. If there is a front matter after it, a byte order mark at the beginning of
    /// the body moves to the front matter, because whoever reads the file finds it there.
    ///
    /// # Errors
    /// `bad_value` for a splice out of bounds.
    fn with_mark_in_front(&self, mut delta: Delta) -> Result<Delta, Error> {
        let has_mark = |text: &str| text.contains(BYTE_ORDER_MARK);
        let body = &self.state.body;
        // Nearly all documents have no mark.
        if delta.changed().is_empty() || !has_mark(body) && !delta.splices.iter().any(|made| has_mark(&made.insert)) {
            return Ok(delta);
        }
        let (mut after, mut fields) = (body.clone(), self.state.fields.clone());
        delta.apply(&mut after, &mut fields, &mut String::new())?;
        let rest = after.trim_start_matches(BYTE_ORDER_MARK);
        if rest.len() == after.len() || (fields.is_empty() && self.state.front.is_empty()) {
            return Ok(delta);
        }
        if rest == body {
            delta.splices.clear();
        } else {
            let delete = after.chars().take_while(|char| *char == BYTE_ORDER_MARK).count() as u64;
            delta.splices.push(Splice { at: 0, delete, insert: String::new() });
        }
        // A mark alone is no change: no reader of the document could see it done or undone.
        if !delta.changed().is_empty() && !self.state.front.starts_with(BYTE_ORDER_MARK) {
            delta.mark = Some(Mark::ToFront);
        }
        Ok(delta)
    }
}
