//! `holdfast worker drain`: drains a worker and shows the progress.

use std::time::Duration;

use holdfast_client::protocol::WorkerName;
use holdfast_client::protocol::reply::{Drained, WorkerState};
use indicatif::{ProgressBar, ProgressStyle};

use crate::ask::Asker;
use crate::exit::Failure;
use crate::output;

/// How often the worker's state is read.
const POLL: Duration = Duration::from_millis(250);

/// Drains `worker`. Unless `no_wait` is set, returns when it is empty, gone, or undrained.
pub(crate) async fn drain(asker: &Asker, worker: &WorkerName, reason: String, no_wait: bool) -> Result<(), Failure> {
    let call = asker.signed(asker.client.drain(worker, reason));
    let reply = call.send_raw().await?;
    let mut drained = call.read(&reply)?;
    if no_wait || drained.sessions_left == 0 {
        return asker.show(&call, &reply);
    }
    watch(asker, &mut drained).await?;
    let reply = serde_json::to_vec(&drained).map_err(anyhow::Error::from)?;
    asker.show(&call, &reply)
}

/// Shows the progress of `drained` until its end. The bar is drawn on standard error, and only on a terminal.
async fn watch(asker: &Asker, drained: &mut Drained) -> Result<(), Failure> {
    let bar = ProgressBar::new(drained.sessions_left);
    bar.set_style(style(&drained.worker)?);
    let mut most = drained.sessions_left;
    // The list may have the state from before until the worker's lease is written.
    let mut is_known = false;
    while drained.sessions_left > 0 {
        tokio::time::sleep(POLL).await;
        // Not by a second drain request: an operator may have undrained the worker.
        let workers = asker.client.workers().send().await?.workers;
        let Some(view) = workers.into_iter().find(|view| view.worker == drained.worker) else {
            // The worker is gone, so it has no sessions.
            drained.sessions_left = 0;
            break;
        };
        (drained.state, drained.sessions_left) = (view.state, view.sessions);
        most = most.max(view.sessions);
        bar.set_length(most);
        bar.set_position(most - view.sessions);
        is_known |= view.state == WorkerState::Draining;
        if is_known && view.state == WorkerState::Ready {
            bar.abandon();
            output::note("somebody has taken the worker back into service");
            return Ok(());
        }
    }
    bar.finish_and_clear();
    Ok(())
}

fn style(worker: &WorkerName) -> Result<ProgressStyle, Failure> {
    let template = format!("{worker} [{{bar:40}}] {{pos}} of {{len}} sessions moved, {{elapsed}}");
    ProgressStyle::with_template(&template)
        .map(|style| style.progress_chars("=> "))
        .map_err(|e| Failure::Other(e.into()))
}
