//! Finds free ports on loopback.
//!
//! They are below the range that operating systems use for outgoing connections. Otherwise, while a server is down in a
//! test, a client that tries to reach it could get the same port for its own end, and block it when the server
//! restarts.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

const FIRST: u32 = 20_000;
const COUNT: u32 = 10_000;

/// A port that no process listens on now. Another process may take it a moment later, so the caller must be ready to
/// try another one.
pub fn free_port() -> Option<u16> {
    static ASKED: AtomicU32 = AtomicU32::new(0);
    // Concurrent processes begin at different ports.
    let begin = std::process::id().wrapping_mul(97);
    (0..COUNT).find_map(|_| {
        let asked = ASKED.fetch_add(1, Ordering::Relaxed);
        let port = u16::try_from(FIRST + begin.wrapping_add(asked) % COUNT).ok()?;
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()?;
        Some(port)
    })
}
