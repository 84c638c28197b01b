//! Keeps a lock: renews it, and notices its loss.
//!
//! Invariant: [`Keeper::until_lost`] returns so early that the command can be ended before the ttl is over at the
//! coordinator. The ttl counts from the moment before the last successful renewal was sent, on this machine's monotonic
//! clock; the coordinator's count began later.
//!
//! ```text
//! renewal sent      next renewal           SIGTERM at the latest     SIGKILL      the coordinator's ttl is over
//! |---- ttl / 3 ----|----- tries again ----|------- grace -----------|-- ttl / 20 --|
//! ```

use std::fmt;
use std::time::Duration;

use holdfast_client::protocol::Code;
use holdfast_client::protocol::reply::Grant;
use holdfast_client::protocol::signal::{LOCK_CONFLICT, Signal};
use holdfast_client::{Error, Event, Follower, SessionClient};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::output::plain;

/// The pause between two renewals of which the first failed for now.
const PAUSE: Duration = Duration::from_millis(100);

/// A held lock.
pub(crate) struct Keeper {
    pub(crate) session: SessionClient,
    pub(crate) grant: Grant,
    pub(super) follower: Follower,
    pub(super) ttl: Duration,
    /// How long the command may take to end: a third of the ttl at most.
    pub(crate) grace: Duration,
    /// When the last successful acquire or renewal was sent.
    pub(super) sent: Instant,
}

/// Why the lock is not held any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// It belongs to somebody else, or to nobody.
    Gone(String),
    /// No renewal succeeded in time.
    Unrenewed,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone(why) => f.write_str(&plain(why)),
            Self::Unrenewed => f.write_str("it could not be renewed in time"),
        }
    }
}

impl Keeper {
    /// Renews the lock until it is lost. May be cancelled and called again.
    pub(crate) async fn until_lost(&mut self) -> Lost {
        let Self { session, grant, follower, ttl, grace, sent } = self;
        let lock = Lock { session, grant, ttl: *ttl, grace: *grace };
        tokio::select! {
            lost = lock.renew_until_lost(sent) => lost,
            lost = lock.follow_until_lost(follower) => lost,
        }
    }
}

struct Lock<'a> {
    session: &'a SessionClient,
    grant: &'a Grant,
    ttl: Duration,
    grace: Duration,
}

impl Lock<'_> {
    /// When the command must get SIGTERM if no renewal succeeds.
    fn last_call(&self, sent: Instant) -> Instant {
        sent + self.ttl - self.ttl / 20 - self.grace
    }

    async fn renew_until_lost(&self, sent: &mut Instant) -> Lost {
        loop {
            sleep_until(*sent + self.ttl / 3).await;
            match timeout_at(self.last_call(*sent), self.renew()).await {
                Ok(Ok(renewed)) => *sent = renewed,
                Ok(Err(lost)) => return lost,
                Err(_) => return Lost::Unrenewed,
            }
        }
    }

    /// Renews it once, and returns when the successful request was sent.
    async fn renew(&self) -> Result<Instant, Lost> {
        loop {
            let sent = Instant::now();
            match self.session.renew(&self.grant.lock_token).within(self.ttl / 6).await {
                Ok(_) => return Ok(sent),
                Err(error) => match loss(&error) {
                    Some(lost) => return Err(lost),
                    None => tracing::debug!(%error, "the lock is not renewed yet"),
                },
            }
            sleep(PAUSE).await;
        }
    }

    async fn follow_until_lost(&self, follower: &mut Follower) -> Lost {
        loop {
            let is_doubtful = match follower.next().await {
                Some(Event::Signal(signal)) => match meaning(&signal, self.grant) {
                    Meaning::Lost(lost) => return lost,
                    Meaning::Doubt => true,
                    Meaning::Nothing => false,
                },
                Some(Event::Gap(_)) => true,
                // The renewals tell it as well, only later.
                Some(Event::Denied(error)) => {
                    tracing::warn!("a loss of the lock is noticed at the next renewal only: {error}");
                    std::future::pending().await
                }
                None => std::future::pending().await,
            };
            if !is_doubtful {
                continue;
            }
            if let Err(error) = self.session.validate(&self.grant.lock_token).within(self.ttl / 6).await
                && let Some(lost) = loss(&error)
            {
                return lost;
            }
        }
    }
}

/// Whether a failed request proves that the lock is lost. Other failures may pass.
fn loss(error: &Error) -> Option<Lost> {
    let contract = error.contract();
    matches!(contract.code, Code::Conflict | Code::NotFound).then(|| Lost::Gone(contract.message.clone()))
}

#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    Lost(Lost),
    /// The record must be asked.
    Doubt,
    Nothing,
}

/// What a signal of the lock means for the holder of `grant`.
fn meaning(signal: &Signal, grant: &Grant) -> Meaning {
    let name = signal.kind.trim_start_matches("holdfast.").trim_end_matches(".v1");
    let said = |member: &str| signal.data.get(member).and_then(|value| value.as_str());
    let revision = signal.data.get("lock_revision").and_then(serde_json::Value::as_u64);
    match (name, revision) {
        (LOCK_CONFLICT, _) => Meaning::Nothing,
        // A grant, a release and a takeover each raise it.
        (_, Some(revision)) if revision > grant.lock_revision => {
            let event = name.trim_start_matches("lock.").replace('_', " ");
            let by = said("owner").map(|owner| format!(" by {owner}")).unwrap_or_default();
            let why = said("reason").map(|reason| format!(" ({reason})")).unwrap_or_default();
            Meaning::Lost(Lost::Gone(format!("{event}{by}{why}")))
        }
        ("lock.acquired", Some(revision)) if revision == grant.lock_revision => Meaning::Nothing,
        // An edit by hand, or the lock of an earlier life of the session.
        _ => Meaning::Doubt,
    }
}

#[cfg(test)]
mod tests {
    use holdfast_client::protocol::Reason;
    use serde_json::{Value, json};

    use super::*;

    fn signal(event: &str, data: Value) -> Signal {
        serde_json::from_value(json!({
            "specversion": "1.0", "id": "KV_sessions:7", "source": "/holdfast/default/s1",
            "type": format!("holdfast.lock.{event}.v1"), "subject": "s1", "time": "2026-11-22T12:00:00Z",
            "datacontenttype": "application/json", "sequence": "00000000000000000007", "data": data,
        }))
        .unwrap()
    }

    fn grant() -> Grant {
        let grant = json!({"session_id": "s1", "owner": "me", "lock_token": "t", "lock_revision": 5, "fence": 9,
            "ttl_ms": 30_000});
        serde_json::from_value(grant).unwrap()
    }

    #[test]
    fn only_a_later_lock_revision_means_that_the_lock_is_lost() {
        let of = |event: &str, revision: u64| meaning(&signal(event, json!({"lock_revision": revision})), &grant());
        assert!(matches!(of("taken_over", 6), Meaning::Lost(_)));
        assert!(matches!(of("released", 6), Meaning::Lost(_)));
        assert!(matches!(of("expired", 6), Meaning::Lost(_)));
        assert_eq!(of("acquired", 5), Meaning::Nothing);
        assert_eq!(of("conflict", 6), Meaning::Nothing);
        assert_eq!(of("released", 4), Meaning::Doubt, "a late signal from before our grant");
        assert_eq!(of("changed", 5), Meaning::Doubt, "an edit by hand");
        assert_eq!(of("acquired", 1), Meaning::Doubt, "another life of the session");
    }

    #[test]
    fn a_takeover_is_told_with_who_and_why() {
        let data = json!({"lock_revision": 6, "owner": "ops\u{1b}[2J", "reason": "stuck"});
        let Meaning::Lost(lost) = meaning(&signal("taken_over", data), &grant()) else { panic!("not lost") };
        assert_eq!(lost.to_string(), "taken over by ops\\u{1b}[2J (stuck)");
    }

    #[test]
    fn what_may_pass_is_no_loss() {
        let of = |reason: Reason| loss(&Error::from(holdfast_client::protocol::Error::new(reason, "x")));
        for reason in [Reason::StaleToken, Reason::NotLocked, Reason::NoSession] {
            assert!(of(reason).is_some(), "{reason}");
        }
        for reason in [Reason::AckTimeout, Reason::StorageUnavailable, Reason::MailboxFull, Reason::NoLiveWorker] {
            assert!(of(reason).is_none(), "{reason}");
        }
    }
}
