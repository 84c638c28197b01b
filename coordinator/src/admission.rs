//! Bounds the requests in flight and their bytes, for all clients together and for each client.
//!
//! Invariant: admitted requests are bounded in number and in bytes, and one client connection cannot use up either
//! bound. So a client that floods is refused as busy, and the others are not. Large messages of one client are answered
//! at a bounded rate, refused ones included, so a client that waits for each answer sends no faster than that. An
//! admitted request is never delayed: excess requests are refused, and only the refusal is delayed.
//!
//! `Asker::client` identifies a client connection: by what nats-server tells of it, or by the common prefix of its
//! reply subjects, because libraries use one inbox prefix per connection. A client that pretends to be many there is
//! bounded by the totals only.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_protocol::{Error, Reason};
use tokio::time::Instant;

use crate::asker::Asker;
use crate::config::Config;
use crate::error;
use crate::meters::Meters;

/// Messages of fewer bytes are not rate-limited.
const LARGE: usize = 128 * 1024;
/// How many clients' rates are remembered.
const PACED: u64 = 4_096;

/// The burst that is allowed: as many bytes as the rate allows in this time.
const BURST: Duration = Duration::from_secs(1);
/// How long a refusal is delayed at most.
const PUT_OFF_MAX: Duration = Duration::from_secs(1);

/// Whether a large message is within its client's rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pacing {
    /// It may be admitted.
    Fine,
    /// It must be refused, after this delay.
    TooMuch { put_off: Duration },
}

/// The time at which the client's rate allows its next large message.
type Pace = Arc<Mutex<Instant>>;

/// A number of requests and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Load {
    requests: usize,
    bytes: usize,
}

impl Load {
    fn with(self, bytes: usize) -> Self {
        Self { requests: self.requests + 1, bytes: self.bytes + bytes }
    }

    fn without(self, bytes: usize) -> Self {
        Self { requests: self.requests - 1, bytes: self.bytes - bytes }
    }

    fn is_within(self, most: Self) -> bool {
        self.requests <= most.requests && self.bytes <= most.bytes
    }
}

#[derive(Debug, Default)]
struct Loads {
    all: Load,
    by_client: HashMap<Box<str>, Load>,
}

/// The requests in flight.
#[derive(Debug)]
pub(crate) struct Admission {
    most: Load,
    most_of_client: Load,
    loads: Mutex<Loads>,
    bytes_per_second: usize,
    paces: moka::sync::Cache<String, Pace>,
    meters: Meters,
}

/// One admitted request. Dropping it frees its share.
#[derive(Debug)]
pub(crate) struct Admitted {
    admission: Arc<Admission>,
    asker: Asker,
    bytes: usize,
}

impl Admission {
    pub(crate) fn new(config: &Config) -> Arc<Self> {
        let most = Load { requests: config.max_in_flight, bytes: config.max_bytes_in_flight };
        let share = |of: usize| (of / 100 * config.client_share_percent).max(1);
        // A share always has room for one request of the largest size.
        let bytes = share(most.bytes).max(config.limits.request_bytes);
        let most_of_client = Load { requests: share(most.requests), bytes };
        let paces = moka::sync::Cache::builder().max_capacity(PACED).time_to_idle(Duration::from_secs(60)).build();
        let bytes_per_second = config.client_bytes_per_second.max(1);
        let meters = config.meters.clone();
        Arc::new(Self { most, most_of_client, loads: Mutex::default(), bytes_per_second, paces, meters })
    }

    // Every change leaves the sums consistent, so a poisoned lock is safe to use.
    fn loads(&self) -> MutexGuard<'_, Loads> {
        self.loads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a message of `bytes` against its client's rate for large messages. [`BURST`] says how many may come at
    /// once.
    pub(crate) fn pace(&self, asker: &Asker, bytes: usize) -> Pacing {
        if bytes < LARGE {
            return Pacing::Fine;
        }
        let now = Instant::now();
        let pace = self.paces.get_with_by_ref(asker.client(), || Arc::new(Mutex::new(now)));
        let mut spoken_for = pace.lock().unwrap_or_else(PoisonError::into_inner);
        let takes = BURST.mul_f64(bytes as f64 / self.bytes_per_second as f64);
        let until = (*spoken_for).max(now) + takes;
        if until <= now + BURST {
            *spoken_for = until;
            return Pacing::Fine;
        }
        // Bounds the delay of the next refusal, however much arrives.
        *spoken_for = until.min(now + BURST + PUT_OFF_MAX);
        Pacing::TooMuch { put_off: spoken_for.saturating_duration_since(now + BURST) }
    }

    /// Admits a request of `bytes`.
    ///
    /// # Errors
    /// `busy` / `mailbox_full` when a bound is reached.
    pub(crate) fn admit(self: &Arc<Self>, asker: &Asker, bytes: usize) -> Result<Admitted, Error> {
        let client = asker.client();
        let mut loads = self.loads();
        let (all, own) = (loads.all.with(bytes), loads.by_client.get(client).copied().unwrap_or_default().with(bytes));
        if !own.is_within(self.most_of_client) {
            return Err(error::busy(Reason::MailboxFull, "this client has too many requests under way"));
        }
        if !all.is_within(self.most) {
            return Err(error::busy(Reason::MailboxFull, "this coordinator has too many requests under way"));
        }
        loads.all = all;
        match loads.by_client.get_mut(client) {
            Some(load) => *load = own,
            None => {
                loads.by_client.insert(client.into(), own);
            }
        }
        drop(loads);
        self.meters.admitted(bytes);
        Ok(Admitted { admission: self.clone(), asker: asker.clone(), bytes })
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.admission.meters.released(self.bytes);
        let mut loads = self.admission.loads();
        loads.all = loads.all.without(self.bytes);
        let client = self.asker.client();
        let Some(own) = loads.by_client.get_mut(client) else { return };
        *own = own.without(self.bytes);
        if *own == Load::default() {
            loads.by_client.remove(client);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission() -> Arc<Admission> {
        let mut config =
            Config { max_in_flight: 100, max_bytes_in_flight: 10_000, client_share_percent: 25, ..Config::default() };
        config.limits.request_bytes = 1_000;
        Admission::new(&config)
    }

    fn asker(reply: &str) -> Asker {
        Asker::of(reply.into())
    }

    #[test]
    fn a_client_that_floods_is_refused_and_others_are_not() {
        let admission = admission();
        let mut flood: Vec<Admitted> = Vec::new();
        let refusal = loop {
            match admission.admit(&asker(&format!("_INBOX.flood.{}", flood.len())), 10) {
                Ok(admitted) => flood.push(admitted),
                Err(refusal) => break refusal,
            }
        };
        assert_eq!((refusal.reason, flood.len()), (Reason::MailboxFull, 25));
        let other = admission.admit(&asker("_INBOX.other.1"), 1_000).unwrap();
        drop(flood.pop());
        assert!(admission.admit(&asker("_INBOX.flood.x"), 10).is_ok(), "there is room again");
        drop((flood, other));
        assert!(admission.loads().by_client.is_empty() && admission.loads().all == Load::default());
    }

    #[tokio::test(start_paused = true)]
    async fn large_messages_of_one_client_are_taken_in_at_a_bounded_rate() {
        let admission = Admission::new(&Config { client_bytes_per_second: 10 * LARGE, ..Config::default() });
        let (flood, other) = (asker("_INBOX.flood.1"), asker("_INBOX.other.1"));
        let put_off = |ms| Pacing::TooMuch { put_off: Duration::from_millis(ms) };
        let paces: Vec<Pacing> = (0..1_000).map(|_| admission.pace(&flood, LARGE)).collect();
        assert_eq!((paces[9], paces[10], paces[12]), (Pacing::Fine, put_off(100), put_off(300)));
        assert_eq!(paces[999], put_off(1_000), "it is never put off for long");
        assert_eq!(admission.pace(&flood, LARGE - 1), Pacing::Fine, "small ones do not count");
        assert_eq!(admission.pace(&other, LARGE), Pacing::Fine, "nor do those of others");
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(admission.pace(&flood, LARGE), Pacing::Fine, "it has had its rest");
    }

    #[test]
    fn bytes_are_bounded_of_each_and_of_all() {
        let admission = admission();
        let large: Vec<Admitted> =
            (0..2).map(|n| admission.admit(&asker(&format!("_INBOX.a.{n}")), 1_000).unwrap()).collect();
        assert!(admission.admit(&asker("_INBOX.a.2"), 1_000).is_err(), "2,500 bytes are a share");
        let others: Vec<Admitted> =
            (0..8).map(|n| admission.admit(&asker(&format!("_INBOX.b{n}.1")), 1_000).unwrap()).collect();
        assert!(admission.admit(&asker("_INBOX.c.1"), 1).is_err(), "10,000 bytes are all");
        drop((large, others));
        assert!(admission.admit(&asker("_INBOX.c.1"), 1).is_ok());
    }
}
