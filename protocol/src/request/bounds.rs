//! Bounds of single members.

use crate::error::{Error, Reason};
use crate::limits::Limits;

/// A refusal of a member.
pub(super) fn invalid(reason: Reason, field: &str, message: impl Into<String>) -> Error {
    Error::invalid(reason, message).detail("field", field)
}

pub(super) fn within(name: &str, value: Option<u64>, (low, high): (u64, u64)) -> Result<(), Error> {
    match value {
        Some(value) if value < low || value > high => {
            Err(invalid(Reason::BadValue, name, format!("{name} must be {low} to {high}, not {value}")))
        }
        _ => Ok(()),
    }
}

pub(super) fn text(name: &str, value: Option<&str>, limits: &Limits) -> Result<(), Error> {
    let Some(value) = value else { return Ok(()) };
    let chars = value.chars().count();
    if chars == 0 || chars > limits.text_chars {
        let message = format!("{name} must have 1 to {} characters, not {chars}", limits.text_chars);
        return Err(invalid(Reason::BadValue, name, message));
    }
    Ok(())
}

pub(super) fn token_shape(name: &str, token: Option<&str>) -> Result<(), Error> {
    // Any other text is allowed: it is a token that is not the current one.
    match token {
        Some(token) if token.is_empty() || token.len() > 256 => {
            Err(invalid(Reason::BadValue, name, format!("{name} must have 1 to 256 characters")))
        }
        _ => Ok(()),
    }
}
