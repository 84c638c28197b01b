//! The contract's limits, as configuration. Sizes count encoded bytes, lengths count characters.

/// Upper and lower bounds of what a client may ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Encoded size of one request, bytes.
    pub request_bytes: usize,
    /// Size of a document's body in UTF-8, bytes.
    pub body_bytes: usize,
    /// Size of a document's fields as JSON, bytes.
    pub fields_bytes: usize,
    /// Nesting of a document's fields.
    pub fields_levels: usize,
    /// Length of `owner`, `actor` and `reason`, characters.
    pub text_chars: usize,
    /// Length of `path`, characters.
    pub path_chars: usize,
    /// Bounds of a lock's `ttl_ms`.
    pub ttl_ms: (u64, u64),
    /// Bounds of `idle_timeout_ms`.
    pub idle_timeout_ms: (u64, u64),
    /// The default `idle_timeout_ms`.
    pub default_idle_timeout_ms: u64,
    /// Longest `wait_ms`.
    pub wait_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_bytes: 1024 * 1024,
            body_bytes: 512 * 1024,
            fields_bytes: 64 * 1024,
            fields_levels: 32,
            text_chars: 256,
            path_chars: 1024,
            ttl_ms: (1_000, 86_400_000),
            idle_timeout_ms: (1_000, 2_592_000_000),
            default_idle_timeout_ms: 1_800_000,
            wait_ms: 60_000,
        }
    }
}
