//! What is wrong with a body, and with which member of it.
//!
//! Invariant: a fault repeats only a bounded part of what the caller sent.

use std::fmt;

use serde::de;

use crate::error::{Error, Reason, bounded};
use crate::limits::Limits;

/// Why a body is refused.
#[derive(Debug)]
pub(super) struct Fault {
    reason: Reason,
    /// The member that it is about.
    field: Option<String>,
    /// The member that contains it, if it is not in the body itself.
    within: Option<String>,
    message: String,
}

impl Fault {
    pub(super) fn new(reason: Reason, message: impl fmt::Display) -> Self {
        Self { reason, field: None, within: None, message: bounded(&message.to_string()) }
    }

    pub(super) fn named(reason: Reason, field: &str, message: impl fmt::Display) -> Self {
        Self { field: Some(bounded(field)), ..Self::new(reason, message) }
    }

    pub(super) fn unknown(field: &str, known: &[&str]) -> Self {
        let shown = bounded(field);
        let known = known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        Self::named(Reason::UnknownField, field, format_args!("unknown field `{shown}`, expected one of {known}"))
    }

    /// An error of serde_json, without its line and column, which are relative to a part of the body.
    pub(super) fn of(error: &serde_json::Error) -> Self {
        let message = error.to_string();
        let what = message.rfind(" at line ").map_or(&*message, |end| &message[..end]);
        let reason = if error.is_data() { Reason::BadValue } else { Reason::BadJson };
        Self::new(reason, what)
    }

    /// The same for a member of any type: whatever is wrong in it is wrong JSON.
    pub(super) fn of_json(self) -> Self {
        Self { reason: Reason::BadJson, ..self }
    }

    /// The fault is in the member `name`.
    pub(super) fn within(mut self, name: &str) -> Self {
        let is_named = matches!(self.reason, Reason::UnknownField | Reason::MissingField);
        match self.field.take() {
            None => self.field = Some(name.to_owned()),
            // An unknown or missing field is reported by its own name.
            Some(field) if is_named => {
                self.within = Some(self.within.map_or(name.to_owned(), |within| format!("{name}.{within}")));
                self.field = Some(field);
            }
            Some(field) => self.field = Some(format!("{name}.{field}")),
        }
        self
    }

    /// The fault is in an item of an array.
    pub(super) fn in_item(mut self, index: usize) -> Self {
        if !matches!(self.reason, Reason::UnknownField | Reason::MissingField) {
            let field = self.field.take().map(|field| format!("{field}: ")).unwrap_or_default();
            self.message = format!("item {index}: {field}{}", self.message);
        }
        self
    }

    /// The contract's words for it.
    pub(super) fn error(self, limits: &Limits) -> Error {
        if self.reason == Reason::FieldsTooLarge {
            return Error::new(self.reason, self.message).detail("limit", limits.fields_bytes);
        }
        let message = match (self.reason, &self.field) {
            (Reason::BadValue, Some(field)) => format!("{field}: {}", self.message),
            (Reason::BadJson, Some(field)) => format!("the request is not JSON: {field}: {}", self.message),
            (Reason::BadJson, None) => format!("the request is not JSON: {}", self.message),
            _ => self.message,
        };
        let error = Error::invalid(self.reason, message);
        let error = self.field.into_iter().fold(error, |error, field| error.detail("field", field));
        self.within.into_iter().fold(error, |error, within| error.detail("within", within))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(Reason::BadValue, message)
    }

    fn missing_field(field: &'static str) -> Self {
        Self::named(Reason::MissingField, field, format_args!("missing field `{field}`"))
    }
}
