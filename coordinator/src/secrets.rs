//! The secret that tokens are derived from, as this coordinator knows it.
//!
//! A rotation is stored first, then all coordinators are told, and each reads the secret again. One that was frozen or
//! cut off may not hear of it. So a record names the generation of its lock's secret, and a coordinator that meets a
//! later one than its own reads the secret before it grants anything there (`verb::lock`). After a rotation that
//! revokes, every record names the new generation, and the compare-and-set on the record refuses grants that were
//! decided on an earlier one.
//!
//! Invariant: a known secret is never replaced by an earlier generation.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures_util::StreamExt;
use holdfast_protocol::token::Secret;
use holdfast_store::StoreError;
use holdfast_store::wire::{Outgoing, Subscription};
use tokio::time::{Instant, timeout_at};

use crate::context::Context;
use crate::error::StartError;

/// How often the secret is read again, in case nobody was heard to have changed it.
const POLL: Duration = Duration::from_secs(30);
/// The pause before a read that failed is made again.
const RETRY: Duration = Duration::from_millis(250);
/// How long other coordinators may take to confirm that they use a new secret.
const CONFIRM: Duration = Duration::from_millis(500);

/// The known secret.
pub(crate) struct Secrets(RwLock<Arc<Secret>>);

impl Secrets {
    pub(crate) fn new(secret: Secret) -> Self {
        Self(RwLock::new(Arc::new(secret)))
    }

    /// The latest known one.
    pub(crate) fn now(&self) -> Arc<Secret> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Uses `secret` from now on, unless a later one is known.
    pub(crate) fn learn(&self, secret: Secret) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if secret.generation() > known.generation() {
            tracing::info!(generation = secret.generation(), "new tokens are derived from a new secret");
            *known = Arc::new(secret);
        }
    }
}

/// Reads the secret from the storage.
///
/// # Errors
/// When it cannot be read, or is not one of this version.
pub(crate) async fn refresh(context: &Context) -> Result<Arc<Secret>, StoreError> {
    if let (_, Some(stored)) = context.store.secret().await? {
        let unknown = || StoreError::Refused("the stored secret is not one of this version".to_owned());
        context.secrets.learn(Secret::from_stored(&stored).ok_or_else(unknown)?);
    }
    Ok(context.secrets.now())
}

/// Subscribes to news of rotations.
///
/// # Errors
/// [`StartError`] when the connection takes no subscriptions.
pub(crate) async fn subscribe(context: &Context) -> Result<Subscription, StartError> {
    let subject = context.config.root.secret_changed();
    let news = context.wire.subscribe(subject.clone().into(), None).await;
    news.map_err(|source| StartError::Subscribe { subject, source })
}

/// Reads the secret at the start, when another coordinator says that it changed, and from time to time.
pub(crate) async fn follow(context: Arc<Context>, mut news: Subscription) {
    let mut reply = None;
    loop {
        while let Err(error) = refresh(&context).await {
            tracing::debug!(%error, "the secret of tokens was not read yet");
            tokio::time::sleep(RETRY).await;
        }
        if let Some(reply) = reply.take() {
            let confirmed = context.wire.publish(Outgoing::to(reply, "{}")).await;
            confirmed.unwrap_or_else(|error| tracing::debug!(%error, "a new secret was not confirmed"));
        }
        tokio::select! {
            biased;
            message = news.next() => match message {
                Some(message) => reply = message.reply.filter(|reply| context.config.root.may_answer(reply)),
                None => return,
            },
            () = tokio::time::sleep(POLL) => {}
        }
    }
}

/// Tells all coordinators, this one too, that the secret changed. Returns how many confirmed that they use the new one.
pub(crate) async fn tell(context: &Context) -> u64 {
    let inbox = context.wire.new_inbox();
    let Ok(mut answers) = context.wire.subscribe(inbox.clone().into(), None).await else { return 1 };
    let news = Outgoing::to(context.config.root.secret_changed(), "{}").with_reply(inbox);
    if let Err(error) = context.wire.publish(news).await {
        tracing::warn!(%error, "other coordinators were not told of the new secret");
    }
    let deadline = Instant::now() + CONFIRM;
    let mut confirmed = 0;
    while let Ok(Some(answer)) = timeout_at(deadline, answers.next()).await {
        confirmed += u64::from(answer.status.is_none());
    }
    confirmed.max(1)
}
