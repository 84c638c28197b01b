//! Spans of time for people, and options that name a time in the past.

use std::time::Duration;

use jiff::Timestamp;

/// A span in its largest whole unit: `12 min`.
pub(crate) fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// A time of day that an option names: a span before now, like `2h`, or a time, like `2026-11-22T12:00:00Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Since {
    /// This long ago.
    Ago(Duration),
    /// This time.
    At(Timestamp),
}

impl Since {
    /// Parses an option.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if let Ok(at) = text.parse() {
            return Ok(Self::At(at));
        }
        let days = text.strip_suffix('d').and_then(|days| days.parse().ok());
        let ago = days.map(|days: u32| Duration::from_secs(u64::from(days) * 86_400));
        ago.map_or_else(|| crate::connect::duration(text), Ok)
            .map(Self::Ago)
            .map_err(|_| "a time in the past is like 30m, 2h or 7d, or like 2026-11-22T12:00:00Z".to_owned())
    }

    /// The time, by this machine's clock.
    pub(crate) fn before(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(at) => at,
            Self::Ago(ago) => now.checked_sub(ago).unwrap_or(Timestamp::MIN),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_in_its_largest_whole_unit() {
        let spans = [(0, "0 s"), (119, "119 s"), (600, "10 min"), (7_300, "2 h"), (200_000, "2 days")];
        for (seconds, text) in spans {
            assert_eq!(span(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn a_time_in_the_past_is_a_span_or_a_time() {
        let now: Timestamp = "2026-11-22T12:00:00Z".parse().unwrap();
        let at = |text: &str| Since::parse(text).unwrap().before(now).to_string();
        assert_eq!(at("90m"), "2026-11-22T10:30:00Z");
        assert_eq!(at("30"), "2026-11-22T11:59:30Z");
        assert_eq!(at("7d"), "2026-11-15T12:00:00Z");
        assert_eq!(at("2026-11-01T00:00:00Z"), "2026-11-01T00:00:00Z");
        assert!(Since::parse("yesterday").unwrap_err().contains("2h"));
        assert!(Since::parse("0s").is_err());
    }
}
