//! Grants that nobody heard: they are taken back, and the lock goes on to the next one in line.
//!
//! A grant is published with a reply subject of this coordinator. Where nobody listens to the grant, nats-server
//! answers there with 503 (no responders), one round trip later. Each of these subjects is known to the receiver of its
//! grant alone, so that nobody can have another's grant taken back.
//!
//! Deliberately absent: requesters behind a service import. The server answers for them, so nobody can tell; see
//! [`is_imported`].

use std::sync::Arc;
use std::time::Duration;

use async_nats::{StatusCode, Subject};
use futures_util::StreamExt;
use holdfast_protocol::{Error, SessionKey};
use holdfast_records::{Change, Known, NotDone, Wrote, change};
use holdfast_rules::{Decision, expire};
use holdfast_store::chance;
use holdfast_store::mutant::{self, Mutant};
use holdfast_store::wire::Subscription;
use moka::policy::EvictionPolicy;

use crate::call::Call;
use crate::error::{self, StartError};
use crate::hub::Hub;
use crate::writer::Writer;

/// How long the server's word may take to come. It comes in one round trip; this only bounds the memory.
const REMEMBERED: Duration = Duration::from_secs(30);
/// How many grants are remembered.
const MOST: u64 = 65_536;
/// How often it is tried to take one back while storage is away.
const TRIES: u32 = 60;
/// The pause between two tries.
const PAUSE: Duration = Duration::from_millis(500);

/// One grant of a lock.
#[derive(Clone, Debug)]
pub(crate) struct Granted {
    /// Of which session.
    pub(crate) key: SessionKey,
    /// Which one: a fence is no other grant's, whatever becomes of the session.
    pub(crate) fence: u64,
}

/// The grants that were answered a moment ago.
pub(crate) struct Grants {
    /// What their reply subjects begin with.
    prefix: String,
    recent: moka::sync::Cache<String, Granted>,
}

impl Grants {
    pub(crate) fn new(inbox: &str) -> Self {
        let recent = moka::sync::Cache::builder()
            .eviction_policy(EvictionPolicy::lru())
            .max_capacity(MOST)
            .time_to_live(REMEMBERED)
            .build();
        Self { prefix: format!("{inbox}."), recent }
    }

    /// The reply subject for the answer that has this grant.
    pub(crate) fn expect(&self, granted: Granted) -> Subject {
        let name = chance::secret_id().simple().to_string();
        let subject = format!("{}{name}", self.prefix).into();
        self.recent.insert(name, granted);
        subject
    }

    fn unheard(&self, subject: &str) -> Option<Granted> {
        self.recent.remove(subject.strip_prefix(&self.prefix)?)
    }
}

/// Whether a request with this reply subject came over a service import, where the server listens in its asker's place.
pub(crate) fn is_imported(reply: &str) -> bool {
    reply.starts_with("_R_.")
}

/// Subscribes to the words about grants.
///
/// # Errors
/// [`StartError`] when the connection takes no subscriptions.
pub(crate) async fn subscribe(hub: &Hub) -> Result<Subscription, StartError> {
    let subject = format!("{}*", hub.grants.prefix);
    hub.wire.subscribe(subject.clone().into(), None).await.map_err(|source| StartError::Subscribe { subject, source })
}

/// Takes back what nobody heard, for as long as there may be any.
pub(crate) async fn watch(hub: Arc<Hub>, mut words: Subscription) {
    while let Some(word) = words.next().await {
        if word.status != Some(StatusCode::NO_RESPONDERS) || mutant::is(Mutant::GrantToWhoIsGone) {
            continue;
        }
        if let Some(granted) = hub.grants.unheard(&word.subject) {
            let task = take_back(hub.clone(), granted);
            hub.tasks.spawn(hub.abort.clone().run_until_cancelled_owned(task));
        }
    }
}

async fn take_back(hub: Arc<Hub>, granted: Granted) {
    let Granted { key, fence } = &granted;
    for _ in 0..TRIES {
        match try_take_back(&hub, key, *fence).await {
            Ok(Wrote::Nothing) => return,
            Ok(_) => {
                tracing::info!(%key, fence, "whoever asked for the lock was gone; it is free again");
                return;
            }
            Err(not_done) => {
                let error = error::of_not_done(not_done, key);
                tracing::debug!(%key, %error, "a grant that nobody heard could not be taken back yet");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    tracing::warn!(%key, fence, "a grant that nobody heard stays");
}

pub(crate) async fn try_take_back(hub: &Hub, key: &SessionKey, fence: u64) -> Result<Wrote, NotDone<Error>> {
    let call = Call::own(hub.config.request_timeout).urgent();
    let done = change(&mut Writer::new(hub, key, &call), &TakingBack { fence }).await?;
    Ok(done.wrote)
}

/// Frees the lock that was granted under this fence.
struct TakingBack {
    fence: u64,
}

impl Change<Writer<'_>> for TakingBack {
    type Reply = ();

    async fn decide(&self, _: &Writer<'_>, known: &Known) -> Result<Decision<()>, Error> {
        Ok(match expire::take_back(&known.record, self.fence) {
            Some(next) => Decision::Commit { next: Box::new(next), reply: () },
            None => Decision::Unchanged(()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn a_word_about_a_grant_counts_once_and_only_under_its_own_subject() {
        let grants = Grants::new("_INBOX.x");
        let granted = |fence| Granted { key: fixture::key("s1"), fence };
        let (one, two) = (grants.expect(granted(1)), grants.expect(granted(2)));
        assert!(grants.unheard("_INBOX.x.guessed").is_none() && grants.unheard("_INBOX.y.").is_none());
        assert_eq!(grants.unheard(&two).unwrap().fence, 2);
        assert!(grants.unheard(&two).is_none());
        assert_eq!(grants.unheard(&one).unwrap().fence, 1);
    }
}
