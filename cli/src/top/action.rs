//! What an operator can do in `top`: which request it is, and what it will do to whom.

use holdfast_client::Client;
use holdfast_client::protocol::reply::{Session, WorkerState, WorkerView};
use holdfast_client::protocol::request::{Move, Takeover, Unlock};
use holdfast_client::protocol::{SessionId, WorkerName};

use super::state::worker_of;
use crate::output::plain;
use crate::words::word;

/// How long a lock lives that is taken over here, unless it is renewed.
const TTL_MS: u64 = 600_000;

/// An action, about what was on the screen when its key was pressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    TakeOver { id: SessionId, holder: Option<String>, lock_revision: u64, owner: String },
    Unlock { id: SessionId, holder: String, lock_revision: u64 },
    Move { id: SessionId, from: Option<WorkerName> },
    Drain { worker: WorkerName, sessions: u64 },
    Undrain { worker: WorkerName },
}

impl Action {
    pub(super) fn take_over(session: &Session, owner: &str) -> Self {
        let holder = session.lock.as_ref().map(|lock| lock.owner.clone());
        Self::TakeOver { id: session.id.clone(), holder, lock_revision: session.lock_revision, owner: owner.to_owned() }
    }

    /// `None`: the lock is free.
    pub(super) fn unlock(session: &Session) -> Option<Self> {
        let holder = session.lock.as_ref()?.owner.clone();
        Some(Self::Unlock { id: session.id.clone(), holder, lock_revision: session.lock_revision })
    }

    pub(super) fn move_away(session: &Session) -> Self {
        Self::Move { id: session.id.clone(), from: worker_of(session).cloned() }
    }

    /// Drains a worker that takes sessions, and undrains one that does not.
    pub(super) fn drain_or_undrain(worker: &WorkerView) -> Self {
        match worker.state {
            WorkerState::Ready => Self::Drain { worker: worker.worker.clone(), sessions: worker.sessions },
            WorkerState::Draining => Self::Undrain { worker: worker.worker.clone() },
        }
    }

    /// What will happen, for a person who is to decide about it.
    pub(super) fn consequence(&self) -> String {
        let text = match self {
            Self::TakeOver { id, holder: Some(holder), owner, .. } => format!(
                "Take over the lock of {id}: {holder} loses it at once and can write nothing more with its token. {owner} \
                 gets it for {} minutes. If the lock changes hands meanwhile, nothing happens.",
                TTL_MS / 60_000
            ),
            Self::TakeOver { id, holder: None, owner, .. } => {
                format!("Take the lock of {id}, which is free. {owner} gets it for {} minutes.", TTL_MS / 60_000)
            }
            Self::Unlock { id, holder, .. } => format!(
                "Free the lock of {id}: {holder} loses it at once and can write nothing more with its token. Whoever waits \
                 gets it. If the lock changes hands meanwhile, nothing happens."
            ),
            Self::Move { id, from: Some(from) } => {
                format!("Move {id} from worker {from} to another one. Requests wait meanwhile; none fails.")
            }
            Self::Move { id, from: None } => format!("Bring {id}, which no worker has, to a worker."),
            Self::Drain { worker, sessions } => format!(
                "Drain worker {worker}: its {sessions} sessions move to other workers, and it gets no new ones until it is \
                 undrained."
            ),
            Self::Undrain { worker } => format!("Let worker {worker} take sessions again."),
        };
        plain(&text)
    }

    /// Does it. The text is for a person; it may have a token.
    pub(super) async fn perform(self, client: &Client, reason: String) -> String {
        let what = self.name();
        match self.request(client, reason).await {
            Ok(done) => done,
            Err(error) => format!("{what} failed: {error}"),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::TakeOver { .. } => "the takeover",
            Self::Unlock { .. } => "the unlock",
            Self::Move { .. } => "the move",
            Self::Drain { .. } => "the drain",
            Self::Undrain { .. } => "the undrain",
        }
    }

    async fn request(self, client: &Client, reason: String) -> Result<String, holdfast_client::Error> {
        match self {
            Self::TakeOver { id, owner, lock_revision, .. } => {
                let expected_lock_revision = Some(lock_revision);
                let takeover =
                    Takeover { owner, reason, ttl_ms: Some(TTL_MS), expected_lock_revision, ..Takeover::default() };
                let taken = client.session(id.clone()).take_over(takeover).await?;
                let token: &str = &taken.grant.lock_token;
                Ok(format!("{} has the lock of {id}. Its token, shown only here: {token}", taken.grant.owner))
            }
            Self::Unlock { id, holder, lock_revision } => {
                let unlock = Unlock { reason, expected_lock_revision: Some(lock_revision), ..Unlock::default() };
                client.session(id.clone()).unlock(unlock).await?;
                Ok(format!("the lock of {id} was taken from {holder}"))
            }
            Self::Move { id, .. } => {
                let moved = client.session(id.clone()).move_away(Move { reason, ..Move::default() }).await?;
                let to = worker_of(&moved).map_or("no worker".to_owned(), ToString::to_string);
                Ok(format!("{id} is at {to} now"))
            }
            Self::Drain { worker, .. } => {
                let drained = client.drain(&worker, reason).await?;
                Ok(format!("{worker} is {}, {} sessions left", word(drained.state), drained.sessions_left))
            }
            Self::Undrain { worker } => {
                let drained = client.undrain(&worker, reason).await?;
                Ok(format!("{worker} is {}", word(drained.state)))
            }
        }
    }
}
