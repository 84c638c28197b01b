//! The trace that a request belongs to: the header `traceparent`. Source: W3C Trace Context, section 3.2.
//!
//! Invariant: a malformed header is ignored. It never makes a request fail.
//!
//! Deliberately absent: `tracestate`, which is for vendors' tools and may be dropped; and spans (crate `tracing`).

use std::fmt;

/// The header's name. Names of headers are compared without regard to case.
pub const TRACEPARENT: &str = "traceparent";

/// The trace of a request, and the span in it that is the parent of what comes next.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceParent {
    trace: [u8; 16],
    span: [u8; 8],
    flags: u8,
}

impl TraceParent {
    /// From the parts. `None` if an id is all zeros, which the standard forbids.
    pub fn new(trace: [u8; 16], span: [u8; 8], flags: u8) -> Option<Self> {
        (trace != [0; 16] && span != [0; 8]).then_some(Self { trace, span, flags })
    }

    /// Reads the header's value, like `00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01`. `None` if it is
    /// malformed. A version above 0 may have more parts behind the flags.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().split('-');
        let [version] = hex::<1>(parts.next()?)?;
        let (trace, span) = (hex(parts.next()?)?, hex(parts.next()?)?);
        let [flags] = hex::<1>(parts.next()?)?;
        let is_known = match version {
            0 => parts.next().is_none(),
            version => version != 0xff,
        };
        if is_known { Self::new(trace, span, flags) } else { None }
    }

    /// The id of the whole trace.
    pub fn trace_id(&self) -> [u8; 16] {
        self.trace
    }

    /// The id of the span that is the parent.
    pub fn span_id(&self) -> [u8; 8] {
        self.span
    }

    /// The flags; bit 0 says that the trace is recorded.
    pub fn flags(&self) -> u8 {
        self.flags
    }
}

/// `N` bytes in lower case hex.
fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [trace, span] = [&self.trace[..], &self.span[..]];
        f.write_str("00-")?;
        trace.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("-")?;
        span.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        write!(f, "-{:02x}", self.flags)
    }
}

impl fmt::Debug for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_header_is_read_and_written_again() {
        let parent = TraceParent::parse(GOOD).unwrap();
        assert_eq!(parent.to_string(), GOOD);
        assert_eq!((parent.flags(), parent.span_id()[0], parent.trace_id()[15]), (1, 0xb7, 0x9c));
        let later = "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00-more";
        assert_eq!(TraceParent::parse(later).map(|parent| parent.flags()), Some(0));
    }

    #[test]
    fn a_malformed_header_is_no_header() {
        let zeros = "00-00000000000000000000000000000000-b7ad6b7169203331-01";
        let zero_span = "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01";
        let version = "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let longer = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more";
        let upper = "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01";
        let short = "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01";
        let wide = "00-0af7651916cd43dd8448eb211c8031ü-b7ad6b7169203331-01";
        for text in [zeros, zero_span, version, longer, upper, short, wide, "", "-", "00", "00-1-2-3"] {
            assert_eq!(TraceParent::parse(text), None, "{text}");
        }
    }
}
