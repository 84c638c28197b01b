//! `holdfast lock run`: runs a command while it holds a lock.
//!
//! ```text
//! follow signals ─▶ acquire ─▶ start the command ─▶ renew at each third of the ttl ─▶ it ends ─▶ release
//!                                                   └─▶ the lock is lost ─▶ end the command ─▶ status 3
//! ```
//!
//! Invariant: the command and its process group have ended before the lock is released, and before its ttl can be over
//! (`keep`). The group decides, because background processes of a script belong to it. A process that leaves the group
//! (`setsid`) is on its own: only the fence stops what it writes.

use std::ffi::OsString;
use std::time::Duration;

use clap::Args;
use holdfast_client::SessionClient;
use holdfast_client::protocol::request::Open;

use super::keep::{Keeper, Lost};
use super::{Holding, Release, release};
use crate::ask::Asker;
use crate::connect::duration;
use crate::duration::milliseconds;
use crate::exit::Failure;
use crate::forwarded::Forwarded;
use crate::output;
use crate::session::Of;
use task::{Environment, Task};

mod task;
mod terminal;

/// How long a release may take after the lock was probably lost.
const LATE_RELEASE: Duration = Duration::from_secs(1);
/// Exit status when the lock was lost; the one of a conflict.
const LOST: u8 = 3;

/// What to run, under which lock.
#[derive(Args, Debug)]
#[command(after_help = HELP)]
pub(crate) struct Run {
    #[command(flatten)]
    session: Of,
    /// The holder's name; it proves nothing; by default USER@HOST/PROCESS
    #[arg(long, value_name = "NAME")]
    owner: Option<String>,
    /// The lock expires when it is not renewed for this long; it is renewed at a third of it
    #[arg(long = "ttl", alias = "ttl-ms", value_name = "TIME", default_value = "30s", value_parser = milliseconds)]
    ttl_ms: u64,
    /// Wait up to this long while another client holds it
    #[arg(long = "wait", alias = "wait-ms", value_name = "TIME", default_value = "0s", value_parser = milliseconds)]
    wait_ms: u64,
    /// Create the session if there is none
    #[arg(long)]
    open: bool,
    /// How long the command may take to end after SIGTERM when the lock is lost; a third of --ttl at most
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    kill_after: Duration,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

const HELP: &str = "\
The command gets HOLDFAST_FENCE, HOLDFAST_TOKEN, HOLDFAST_SESSION, HOLDFAST_NAMESPACE and HOLDFAST_LOCK_REVISION in its
environment. Give the fence to whatever it writes elsewhere, so that a late write is refused there.

The command runs in a process group of its own. When it ends, what it left in that group is ended too, and the lock is
released. When the lock is lost (a takeover, an unlock, an expiry, no renewal in time), or when this process is killed,
the group gets SIGTERM, and SIGKILL after --kill-after. SIGINT, SIGTERM, SIGHUP and SIGQUIT go to the group.

Exit status: the command's own; 128 + n if signal n ended it; 3 if the lock was not got or was lost; 126 if the command
cannot be run, 127 if there is no such command; otherwise as for every command.";

impl Run {
    /// Takes the lock, runs the command, and releases the lock.
    pub(crate) async fn run(self, asker: &Asker) -> Result<(), Failure> {
        let session = asker.session(&self.session);
        let mut forwarded = Forwarded::listen()?;
        let keeper = tokio::select! {
            keeper = self.take(asker, &session) => keeper?,
            // Whoever is gone gets no lock: the coordinator notices it, or the ttl ends it.
            signal = forwarded.next() => return Err(Failure::Status(signal.status())),
        };
        let environment = Environment::of(&keeper.grant, &asker.namespace);
        match Task::start(&self.command, environment, keeper.grace) {
            Ok(task) => run(asker, keeper, task, forwarded).await,
            Err(failure) => {
                release(asker, &session, &keeper.grant).await;
                Err(failure)
            }
        }
    }

    async fn take(&self, asker: &Asker, session: &SessionClient) -> Result<Keeper, Failure> {
        if self.open {
            let open = Open { id: Some(session.id().to_string()), ..Open::default() };
            asker.acting(asker.client.open(open)).send().await?;
        }
        let (owner, grace) = (self.owner.clone(), self.kill_after);
        Holding { owner, ttl_ms: self.ttl_ms, wait_ms: self.wait_ms, grace }.take(asker, session).await
    }
}

/// Waits for the end of the command or of the lock, and ends the other one.
async fn run(asker: &Asker, mut keeper: Keeper, mut task: Task, mut forwarded: Forwarded) -> Result<(), Failure> {
    let lost = {
        let losing = keeper.until_lost();
        tokio::pin!(losing);
        loop {
            tokio::select! {
                lost = &mut losing => break Some(lost),
                () = task.has_ended() => break None,
                signal = forwarded.next() => task.signal(signal),
            }
        }
    };
    let ending = task.end(keeper.grace);
    tokio::pin!(ending);
    let status = tokio::select! {
        status = &mut ending => status,
        // The lock is kept for what the command left in its group.
        _ = keeper.until_lost(), if lost.is_none() => ending.await,
    };
    let Some(lost) = lost else {
        return match release(asker, &keeper.session, &keeper.grant).await {
            Release::TooLate => Err(Failure::Status(LOST)),
            Release::Done if status == 0 => Ok(()),
            Release::Done => Err(Failure::Status(status)),
        };
    };
    output::note(&format!("holdfast: the lock of {} was lost: {lost}; the command was ended", keeper.session.id()));
    if lost == Lost::Unrenewed {
        // It may be ours still, and nobody needs it any more.
        keeper.session.release(&keeper.grant.lock_token).within(LATE_RELEASE).await.ok();
    }
    Err(Failure::Status(LOST))
}
