//! `admin.*` and `worker.*`: what operators do. Every change has a reason, for the audit trail.

use std::time::Duration;

use holdfast_protocol::WorkerName;
use holdfast_protocol::reply::{Drained, Reclaimed, Session, TakenOver, Unlocked, WorkerList};
use holdfast_protocol::subject::Verb;
use serde::Serialize;

use crate::client::{Client, SessionClient};
use crate::lock::millis;
use crate::request::{Ask, Call};

/// `admin.takeover`: takes the lock from whoever holds it.
#[derive(Clone, Debug, Serialize)]
pub struct Takeover {
    /// The new holder's name.
    pub owner: String,
    /// Why.
    pub reason: String,
    /// How long it lives without renewal, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    /// The lock revision that the operator saw.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_lock_revision: Option<u64>,
}

impl Takeover {
    /// In the name of `owner`, for `reason`, whoever holds the lock.
    pub fn by(owner: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { owner: owner.into(), reason: reason.into(), ttl_ms: None, expected_lock_revision: None }
    }

    /// It is lost when not renewed for this long.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl_ms = Some(millis(ttl));
        self
    }

    /// Only if the lock still is the one that the operator saw.
    #[must_use]
    pub fn expecting(mut self, lock_revision: u64) -> Self {
        self.expected_lock_revision = Some(lock_revision);
        self
    }
}

impl Ask for Takeover {
    const VERB: Verb = Verb::AdminTakeover;
    type Reply = TakenOver;
}

/// `admin.unlock`: frees the lock, whoever holds it.
#[derive(Clone, Debug, Serialize)]
pub struct Unlock {
    /// Why.
    pub reason: String,
    /// The lock revision that the operator saw.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_lock_revision: Option<u64>,
}

impl Unlock {
    /// For `reason`, whoever holds the lock.
    pub fn because(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), expected_lock_revision: None }
    }

    /// Only if the lock still is the one that the operator saw.
    #[must_use]
    pub fn expecting(mut self, lock_revision: u64) -> Self {
        self.expected_lock_revision = Some(lock_revision);
        self
    }
}

impl Ask for Unlock {
    const VERB: Verb = Verb::AdminUnlock;
    type Reply = Unlocked;
}

/// `admin.move`: moves a session to another worker.
#[derive(Clone, Debug, Serialize)]
pub struct Move {
    /// Where to; any other worker when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<WorkerName>,
    /// Why.
    pub reason: String,
}

impl Move {
    /// To any other worker, for `reason`.
    pub fn because(reason: impl Into<String>) -> Self {
        Self { worker: None, reason: reason.into() }
    }

    /// To this worker.
    #[must_use]
    pub fn to(mut self, worker: WorkerName) -> Self {
        self.worker = Some(worker);
        self
    }
}

impl Ask for Move {
    const VERB: Verb = Verb::AdminMove;
    type Reply = Session;
}

/// `admin.reclaim`: reclaims idle sessions.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Reclaim {
    /// Idle for at least this long, milliseconds.
    pub max_idle_ms: u64,
}

impl Ask for Reclaim {
    const VERB: Verb = Verb::AdminReclaim;
    type Reply = Reclaimed;
}

/// `worker.list`: all live workers.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct ListWorkers {}

impl Ask for ListWorkers {
    const VERB: Verb = Verb::WorkerList;
    type Reply = WorkerList;
}

/// `worker.drain`: empties a worker.
#[derive(Clone, Debug, Serialize)]
pub struct Drain {
    /// Why.
    pub reason: String,
}

impl Ask for Drain {
    const VERB: Verb = Verb::WorkerDrain;
    type Reply = Drained;
}

/// `worker.undrain`: lets a worker take sessions again.
#[derive(Clone, Debug, Serialize)]
pub struct Undrain {
    /// Why.
    pub reason: String,
}

impl Ask for Undrain {
    const VERB: Verb = Verb::WorkerUndrain;
    type Reply = Drained;
}

impl SessionClient {
    /// Takes the lock from whoever holds it. Once this is answered, no change with the old token is accepted.
    ///
    /// ```no_run
    /// # use holdfast_client::{Error, SessionClient, admin::Takeover};
    /// # async fn example(session: SessionClient) -> Result<(), Error> {
    /// let taken = session.take_over(Takeover::by("ops", "editor crashed")).await?;
    /// let lock = session.held(taken.grant);
    /// lock.release().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn take_over(&self, takeover: Takeover) -> Call<Takeover> {
        self.call(takeover)
    }

    /// Frees the lock, whoever holds it.
    pub fn unlock(&self, unlock: Unlock) -> Call<Unlock> {
        self.call(unlock)
    }

    /// Moves the session to another worker.
    pub fn move_away(&self, request: Move) -> Call<Move> {
        self.call(request)
    }
}

impl Client {
    /// Passivates (or closes, as each is set up) every session of the namespace that was idle this long.
    pub fn reclaim(&self, max_idle: Duration) -> Call<Reclaim> {
        self.call(Reclaim { max_idle_ms: millis(max_idle) })
    }

    /// All live workers.
    pub fn workers(&self) -> Call<ListWorkers> {
        self.call(ListWorkers {})
    }

    /// Empties a worker: its sessions move, and it gets no new ones.
    pub fn drain(&self, worker: &WorkerName, reason: impl Into<String>) -> Call<Drain> {
        self.call_worker(worker, Drain { reason: reason.into() })
    }

    /// Lets a worker take sessions again.
    pub fn undrain(&self, worker: &WorkerName, reason: impl Into<String>) -> Call<Undrain> {
        self.call_worker(worker, Undrain { reason: reason.into() })
    }
}
