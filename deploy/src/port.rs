//! Free ports on loopback for servers that may have any.
//!
//! They are taken from below the range that operating systems give to outgoing connections. Else,
//! while a server is down in a test, a client that tries to reach it could be given the very same
//! port as its own, and would hold it when the server comes back.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

const FIRST: u32 = 20_000;
const COUNT: u32 = 10_000;

/// A port that nobody listens on now. Somebody may do so a moment later: who starts a server on it
/// must be ready to try another.
pub fn free_port() -> Option<u16> {
    static ASKED: AtomicU32 = AtomicU32::new(0);
    // Processes that run side by side begin at different places.
    let begin = std::process::id().wrapping_mul(97);
    (0..COUNT).find_map(|_| {
        let asked = ASKED.fetch_add(1, Ordering::Relaxed);
        let port = u16::try_from(FIRST + begin.wrapping_add(asked) % COUNT).ok()?;
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()?;
        Some(port)
    })
}
