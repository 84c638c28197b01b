//! `holdfast admin`: takeover, unlock, move, reclaim, rotate-secret.

use clap::{Args, Subcommand};
use holdfast_client::protocol::WorkerName;
use holdfast_client::protocol::request::{Move, Reclaim, RotateSecret, Takeover, Unlock};

use crate::ask::{Asker, Requests};
use crate::exit::Failure;
use crate::session::Of;

/// The group's requests.
#[derive(Subcommand, Debug)]
pub(crate) enum Request {
    /// Take the lock, whoever holds it; the reply has the new token
    Takeover {
        #[command(flatten)]
        session: Of,
        /// The new holder's name
        #[arg(long, value_name = "NAME")]
        owner: String,
        #[command(flatten)]
        reason: Reason,
        /// The lock expires when it is not renewed for this long [default: it is held until released]
        #[arg(long, value_name = "MS")]
        ttl_ms: Option<u64>,
        /// Only if the lock still has this lock revision
        #[arg(long, value_name = "N")]
        expected_lock_revision: Option<u64>,
    },
    /// Free the lock, whoever holds it
    Unlock {
        #[command(flatten)]
        session: Of,
        #[command(flatten)]
        reason: Reason,
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
        reason: Reason,
    },
    /// Passivate idle sessions, or close those whose config says so
    Reclaim {
        /// Idle for at least this long
        #[arg(long, value_name = "MS")]
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

impl Requests for Request {
    async fn ask(self, asker: &Asker) -> Result<(), Failure> {
        match self {
            Self::Takeover { session, owner, reason: Reason { reason }, ttl_ms, expected_lock_revision } => {
                let takeover = Takeover { owner, reason, ttl_ms, expected_lock_revision, ..Takeover::default() };
                asker.ask(asker.session(&session).take_over(takeover)).await
            }
            Self::Unlock { session, reason: Reason { reason }, expected_lock_revision } => {
                let unlock = Unlock { reason, expected_lock_revision, ..Unlock::default() };
                asker.ask(asker.session(&session).unlock(unlock)).await
            }
            Self::Move { session, worker, reason: Reason { reason } } => {
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
