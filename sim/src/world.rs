//! What the actors of one run share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use holdfast_protocol::{Namespace, SessionId, SessionKey};
use holdfast_store::memory::Memory;
use holdfast_store::net::Net;

use crate::history::History;
use crate::plan::Plan;

/// What the actors of one run share.
pub struct World {
    /// The net.
    pub net: Net,
    /// The storage.
    pub memory: Memory,
    /// What is seen.
    pub history: History,
    /// What the seed decided at the start.
    pub plan: Plan,
    is_over: AtomicBool,
}

impl World {
    /// Before anything happens.
    pub fn new(net: Net, memory: Memory, plan: Plan) -> Arc<Self> {
        Arc::new(Self { net, memory, history: History::default(), plan, is_over: AtomicBool::new(false) })
    }

    /// The time since the start.
    pub fn now(&self) -> Duration {
        self.net.elapsed()
    }

    /// The clients have asked all that they had to ask.
    pub fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    /// Whether they have.
    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }
}

/// The key of the session `id`.
///
/// # Panics
/// When it is no id.
pub fn key(id: &str) -> SessionKey {
    let namespace = Namespace::parse("default").expect("the contract's own namespace");
    SessionKey::new(namespace, SessionId::parse(id).expect("ids of simulations are ids"))
}
