//! `holdfast admin`: takeover, unlock, move, reclaim, rotate-secret.

use clap::{Args, Subcommand};
use holdfast_client::protocol::WorkerName;
use holdfast_client::protocol::request::{Move, Reclaim, RotateSecret, Takeover, Unlock};

use crate::ask::{Asker, Requests};
use crate::duration::milliseconds;
use crate::exit::Failure;
use crate::preview::{self, Planned};
use crate::session::Of;

/// The group's requests.
#[derive(Subcommand, Debug)]
pub(crate) enum Request {
    /// Take the lock, whoever holds it; the reply has the new token
    Takeover {
        #[command(flatten)]
        session: Of,
        /// The new holder's name
        #[arg(long, value_name = "NAME", required_unless_present = "dry_run")]
        owner: Option<String>,
        #[command(flatten)]
        change: Change,
        /// The lock expires when it is not renewed for this long [default: it is held until released]
        #[arg(long = "ttl", alias = "ttl-ms", value_name = "TIME", value_parser = milliseconds)]
        ttl_ms: Option<u64>,
        /// Only if the lock still has this lock revision
        #[arg(long, value_name = "N")]
        expected_lock_revision: Option<u64>,
        /// Print only the token, as for TOKEN=$(holdfast admin takeover …)
        #[arg(long)]
        token_only: bool,
    },
    /// Free the lock, whoever holds it
    Unlock {
        #[command(flatten)]
        session: Of,
        #[command(flatten)]
        change: Change,
        /// Only if the lock still has this lock revision
        #[arg(long, value_name = "N")]
        expected_lock_revision: Option<u64>,
    },
    /// Move a session to another worker
    Move {
        #[command(flatten)]
        session: Of,
        /// The new worker [default: any other]
        #[arg(long, value_name = "NAME", value_parser = WorkerName::parse)]
        worker: Option<WorkerName>,
        #[command(flatten)]
        change: Change,
    },
    /// Passivate idle sessions, or close those whose config says so
    Reclaim {
        /// Idle for at least this long
        #[arg(long = "max-idle", alias = "max-idle-ms", value_name = "TIME", value_parser = milliseconds)]
        max_idle_ms: u64,
    },
    /// Change the secret that tokens are derived from; old tokens stay good until their lock ends
    RotateSecret {
        /// Free all locks that were granted before: their holders must acquire again
        #[arg(long)]
        revoke: bool,
        #[command(flatten)]
        reason: Reason,
    },
}

/// Why.
#[derive(Args, Debug)]
pub(crate) struct Reason {
    /// Why, for the audit trail
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: String,
}

/// Why, or that nothing is to be changed.
#[derive(Args, Debug)]
pub(crate) struct Change {
    /// Why, for the audit trail
    #[arg(long, value_name = "TEXT", required_unless_present = "dry_run")]
    reason: Option<String>,
    /// Change nothing, and show who would lose what
    #[arg(long)]
    dry_run: bool,
}

impl Request {
    /// What would be done, if nothing is to be changed.
    fn planned(&self) -> Option<(&Of, Planned, Option<u64>)> {
        match self {
            Self::Takeover { session, owner, expected_lock_revision, change: Change { dry_run: true, .. }, .. } => {
                Some((
                    session,
                    Planned::Takeover { owner: owner.clone().unwrap_or_else(|| "the new holder".to_owned()) },
                    *expected_lock_revision,
                ))
            }
            Self::Unlock { session, expected_lock_revision, change: Change { dry_run: true, .. }, .. } => {
                Some((session, Planned::Unlock, *expected_lock_revision))
            }
            Self::Move { session, worker, change: Change { dry_run: true, .. }, .. } => {
                Some((session, Planned::Move { worker: worker.as_ref().map(ToString::to_string) }, None))
            }
            _ => None,
        }
    }
}

impl Requests for Request {
    async fn ask(self, asker: &Asker) -> Result<(), Failure> {
        if let Some((session, planned, expected_lock_revision)) = self.planned() {
            return preview::show(asker, session, &planned, expected_lock_revision).await;
        }
        match self {
            Self::Takeover {
                session,
                owner,
                change: Change { reason, .. },
                ttl_ms,
                expected_lock_revision,
                token_only,
            } => {
                // The parser wants both where something is to be changed.
                let (owner, reason) = (owner.unwrap_or_default(), reason.unwrap_or_default());
                let takeover = Takeover { owner, reason, ttl_ms, expected_lock_revision, ..Takeover::default() };
                let call = asker.session(&session).take_over(takeover);
                if token_only {
                    asker.ask_token(call, |taken| taken.grant.lock_token).await
                } else {
                    asker.ask(call).await
                }
            }
            Self::Unlock { session, change: Change { reason, .. }, expected_lock_revision } => {
                let reason = reason.unwrap_or_default();
                let unlock = Unlock { reason, expected_lock_revision, ..Unlock::default() };
                asker.ask(asker.session(&session).unlock(unlock)).await
            }
            Self::Move { session, worker, change: Change { reason, .. } } => {
                let reason = reason.unwrap_or_default();
                let request = Move { worker, reason, ..Move::default() };
                asker.ask(asker.session(&session).move_away(request)).await
            }
            Self::Reclaim { max_idle_ms } => {
                asker.ask(asker.client.reclaim(Reclaim { max_idle_ms, ..Reclaim::default() })).await
            }
            Self::RotateSecret { revoke, reason: Reason { reason } } => {
                let rotate = RotateSecret { reason, revoke: revoke.then_some(true), ..RotateSecret::default() };
                asker.ask(asker.client.rotate_secret(rotate)).await
            }
        }
    }
}
