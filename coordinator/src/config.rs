//! What can be set on a coordinator. Every value has a default that fits one machine as well as a fleet.
//!
//! Deliberately absent: connection settings (`store::connect`) and where settings come from (`cli`).

use std::time::Duration;

use holdfast_protocol::Limits;
use holdfast_protocol::subject::Root;
use holdfast_store::{LEASE_RENEW, LEASE_TTL};

use crate::meters::Meters;

/// How long the pinned relay may send no pull request before the server pins another coordinator.
pub(crate) const PIN_TIMEOUT: Duration = Duration::from_secs(3);
/// How long one pull request of the relay waits for messages. Each renews the relay's pin.
pub(crate) const PULL_EXPIRES: Duration = Duration::from_millis(750);
// A relay that misses one pull keeps its pin.
const _: () = assert!(PULL_EXPIRES.as_millis() * 3 < PIN_TIMEOUT.as_millis());
/// How long the relay's consumer waits for an acknowledgement before it delivers a message again.
pub(crate) const RELAY_ACK_WAIT: Duration = Duration::from_secs(10);
// A message is delivered again only after the relay that had it has lost the pin or has failed.
const _: () = assert!(PIN_TIMEOUT.as_millis() * 2 < RELAY_ACK_WAIT.as_millis());

/// How long an agent may take to report a lock's lease. After that a conflict is explained without it.
pub(crate) const LEASE_VIEW_TIMEOUT: Duration = Duration::from_millis(250);
/// How long others may take to tell what they know for a preview or for a list of idle sessions. What they do not tell
/// in time is not known.
pub(crate) const TELL_TIMEOUT: Duration = Duration::from_millis(400);
/// How long an agent may take to finish before its session moves without waiting. An agent that takes longer can write
/// nothing any more either, so only the log stays longer than needed.
pub(crate) const HANDOVER_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a change waits while the relay is behind, before it is refused as busy.
pub(crate) const ANNOUNCE_TIMEOUT: Duration = Duration::from_secs(2);

/// Settings of one coordinator.
#[derive(Clone, Debug)]
pub struct Config {
    /// The installation's subject root.
    pub root: Root,
    /// A name for people, shown in the micro service's metadata.
    pub name: String,
    /// The version that the micro service reports (semver).
    pub version: String,
    /// Whether the header `Nats-Request-Info` tells who asked. Only if all clients reach this coordinator over service
    /// imports with `share`, and everybody in its own account is trusted: within one account a client writes the header
    /// itself.
    pub trust_request_info: bool,
    /// What clients may ask for.
    pub limits: Limits,
    /// How long one request may take, without the time in a lock's queue. If an agent has not answered by then, the
    /// outcome of a change is unknown.
    pub request_timeout: Duration,
    /// How many requests may be in flight; more are refused as busy. Requests that wait for a lock do not count.
    pub max_in_flight: usize,
    /// How many bytes of request bodies may be in flight.
    pub max_bytes_in_flight: usize,
    /// The share of both that one client connection may use, in percent.
    pub client_share_percent: usize,
    /// The rate at which large messages (128 KiB and more) of one client connection are answered, in bytes per second.
    pub client_bytes_per_second: usize,
    /// How many requests may wait for locks at once.
    pub max_waiters: usize,
    /// How many of them may be one client connection's.
    pub max_waiters_of_client: usize,
    /// How many may wait for one lock. Less than a client's share, so that one queue cannot use up the whole share.
    pub max_waiters_of_session: usize,
    /// How often a waiter reads the record itself, in case a signal was lost.
    pub waiter_poll: Duration,
    /// How many session records are cached.
    pub cache_entries: u64,
    /// How often workers' leases are read.
    pub lease_poll: Duration,
    /// How long a lease may stay unrenewed before its worker counts as gone.
    pub lease_ttl: Duration,
    /// How long a lease that was seen before may be missing before its worker counts as gone. After an outage of
    /// JetStream all leases are missing until their workers have written them again.
    pub lease_grace: Duration,
    /// How often all records are swept for sessions of gone workers.
    pub sweep_interval: Duration,
    /// How long after a worker seems lost a sweep begins.
    pub sweep_delay: Duration,
    /// How many sessions one sweep takes back per second.
    pub sweep_per_second: u32,
    /// How long the record of a closed session is kept, for retries and for readers of its history.
    pub closed_retention: Duration,
    /// What is counted.
    pub meters: Meters,
    /// How often the coordinator looks at itself for its health; `None`: never.
    pub self_check: Option<Duration>,
    /// How long the relay may stand still, or the storage be silent, before the coordinator is not healthy.
    pub patience: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            root: Root::default(),
            name: "coordinator".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            trust_request_info: false,
            limits: Limits::default(),
            request_timeout: Duration::from_secs(5),
            max_in_flight: 4096,
            max_bytes_in_flight: 128 * 1024 * 1024,
            client_share_percent: 50,
            client_bytes_per_second: 32 * 1024 * 1024,
            max_waiters: 16_384,
            max_waiters_of_client: 4096,
            max_waiters_of_session: 1024,
            waiter_poll: Duration::from_secs(1),
            cache_entries: 65_536,
            lease_poll: Duration::from_secs(1),
            lease_ttl: LEASE_TTL,
            lease_grace: LEASE_RENEW * 2,
            sweep_interval: Duration::from_secs(180),
            sweep_delay: Duration::from_secs(3),
            sweep_per_second: 500,
            closed_retention: Duration::from_secs(24 * 3600),
            meters: Meters::default(),
            self_check: None,
            patience: Duration::from_secs(15),
        }
    }
}
