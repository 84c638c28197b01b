//! Reads stored JSON: the version first, then the rest.
//!
//! Invariant: JSON of a newer version is refused as such, whatever else has changed in it.

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Reason, bounded};
use crate::id::SessionKey;

#[derive(Deserialize)]
struct Version {
    v: u32,
}

/// Reads `json`, which must have `version`; `Err` describes what is wrong.
pub(crate) fn read<T: DeserializeOwned>(json: &[u8], version: u32) -> Result<T, String> {
    let Version { v } = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    if v != version {
        return Err(format!("it has version {v}, and this build reads version {version}"));
    }
    serde_json::from_slice(json).map_err(|error| error.to_string())
}

/// The refusal of the invalid `what` (record or frame) of `key`.
pub(crate) fn invalid(what: &str, key: &SessionKey, why: &str) -> Error {
    let why = bounded(why);
    Error::new(Reason::RecordInvalid, format!("{what} of session {} is not valid: {why}", key.id))
        .detail("session_id", key.id.as_str())
        .detail("problem", why)
}

/// Whether to leave a member with this number out.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands it a reference")]
pub(crate) fn is_zero(number: &u64) -> bool {
    *number == 0
}
