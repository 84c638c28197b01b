//! Times of the contract on the command line: `30s`, `1h30m`, `500ms`.
//!
//! A plain number is milliseconds, as the members of the contract are (`ttl_ms`, `wait_ms`). Options that are no
//! members of a request use `connect::duration`, where a plain number is seconds.

/// Parses a time of a request, in milliseconds.
///
/// # Errors
/// A text for the user when it is neither a number nor a duration, or is negative.
pub(crate) fn milliseconds(text: &str) -> Result<u64, String> {
    let plain = text.parse::<u64>().ok();
    let spoken = || u64::try_from(text.parse::<jiff::SignedDuration>().ok()?.as_millis()).ok();
    plain.or_else(spoken).ok_or_else(|| "a time is like 30s, 500ms or 1h30m; a plain number is milliseconds".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_units_and_a_plain_number_is_milliseconds() {
        let cases = [("5000", 5_000), ("0", 0), ("500ms", 500), ("30s", 30_000), ("5m", 300_000), ("1h30m", 5_400_000)];
        for (text, ms) in cases {
            assert_eq!(milliseconds(text), Ok(ms), "{text}");
        }
        for text in ["", "soon", "-5s", "-1", "5x", "1.5"] {
            assert!(milliseconds(text).is_err(), "{text}");
        }
    }
}
