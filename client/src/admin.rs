//! `admin.*` and `worker.*`: the requests of operators. Every change has a reason, for the audit trail.

use holdfast_protocol::WorkerName;
use holdfast_protocol::reply::{Drained, Preview, Reclaimed, SecretRotated, Session, TakenOver, Unlocked, WorkerList};
use holdfast_protocol::request::{Drain, Empty, Move, Reclaim, RotateSecret, Takeover, Unlock};
use holdfast_protocol::subject::Verb;

use crate::call::Call;
use crate::client::{Client, SessionClient};

impl SessionClient {
    /// Takes the lock, whoever holds it. Once this is answered, no change with the old token is accepted.
    ///
    /// ```no_run
    /// # use holdfast_client::{Error, SessionClient, protocol::request::Takeover};
    /// # async fn example(session: SessionClient) -> Result<(), Error> {
    /// let takeover = Takeover { owner: "ops".into(), reason: "editor crashed".into(), ..Takeover::default() };
    /// let taken = session.take_over(takeover).await?;
    /// let lock = session.held(taken.grant);
    /// lock.release().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn take_over(&self, takeover: Takeover) -> Call<TakenOver> {
        self.call(Verb::AdminTakeover, &takeover)
    }

    /// Frees the lock, whoever holds it.
    pub fn unlock(&self, unlock: Unlock) -> Call<Unlocked> {
        self.call(Verb::AdminUnlock, &unlock)
    }

    /// Shows what a takeover, an unlock or a move would hit: the holder, unsaved changes, waiters. Changes nothing.
    pub fn preview(&self) -> Call<Preview> {
        self.call(Verb::AdminPreview, &Empty::default())
    }

    /// Moves the session to another worker.
    pub fn move_away(&self, request: Move) -> Call<Session> {
        self.call(Verb::AdminMove, &request)
    }
}

impl Client {
    /// Passivates every session of the namespace that was idle this long, or closes it if its config says so.
    pub fn reclaim(&self, reclaim: Reclaim) -> Call<Reclaimed> {
        self.call(Verb::AdminReclaim, &reclaim)
    }

    /// Changes the secret that tokens are derived from.
    pub fn rotate_secret(&self, rotate: RotateSecret) -> Call<SecretRotated> {
        self.call(Verb::AdminRotateSecret, &rotate)
    }

    /// All live workers.
    pub fn workers(&self) -> Call<WorkerList> {
        self.call(Verb::WorkerList, &Empty::default())
    }

    /// Drains a worker: its sessions move, and it gets no new ones.
    pub fn drain(&self, worker: &WorkerName, reason: impl Into<String>) -> Call<Drained> {
        self.call_worker(Verb::WorkerDrain, worker, &Drain { reason: reason.into(), ..Drain::default() })
    }

    /// Lets a worker take sessions again.
    pub fn undrain(&self, worker: &WorkerName, reason: impl Into<String>) -> Call<Drained> {
        self.call_worker(Verb::WorkerUndrain, worker, &Drain { reason: reason.into(), ..Drain::default() })
    }
}
