//! Short stories of one rule each: a fleet is brought to the moment where only that rule keeps the promise.
//!
//! Invariant: a scenario holds on every seed. The random runs find what nobody thought of; these make what is rare in a
//! random run happen each time, and show by a mutant (`tests/teeth`) that it is seen.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::client::Reply;
use crate::{Client, Fleet, simulate};

mod announce;
mod grant;
mod late;
mod lease;
mod leave;
mod life;
mod read;
mod wait;
mod write;

/// No scenario takes this long; one that does stands still.
const LONGEST: Duration = Duration::from_secs(600);

/// One of them.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// What holds.
    pub name: &'static str,
    run: fn(u64) -> Result<()>,
}

macro_rules! scenarios {
    ($($module:ident::$name:ident,)+) => {
        /// All of them.
        pub const ALL: &[Scenario] = &[$(Scenario {
            name: stringify!($name),
            run: |seed| simulate(seed, within($module::$name(seed))),
        },)+];
    };
}

scenarios! {
    write::a_superseded_token_writes_nothing,
    write::a_frame_without_an_answer_is_stored_once,
    write::an_open_without_an_answer_is_no_conflict,
    write::an_acknowledged_edit_is_stored,
    write::a_late_frame_shadows_nothing,
    write::deleted_frames_that_come_back_change_nothing,
    late::a_late_acquire_gets_its_first_grant,
    late::a_late_open_and_a_late_close_leave_the_next_life_alone,
    late::a_late_move_and_a_late_drain_do_nothing,
    life::an_edit_of_one_life_is_not_made_in_the_next,
    leave::leaving_closes_nothing,
    leave::a_reclaim_leaves_alone_what_became_busy,
    grant::a_grant_to_a_waiter_that_left_is_taken_back,
    grant::a_grant_that_a_copy_was_answered_stays,
    wait::waiters_are_served_in_their_order,
    wait::a_wait_outlives_failures_that_pass,
    wait::a_wait_outlives_its_coordinator,
    wait::a_release_hands_the_lock_over_in_its_own_write,
    wait::a_release_grants_nothing_to_a_late_copy,
    lease::a_lease_is_as_long_as_asked,
    lease::a_lease_without_an_agent_ends,
    lease::a_renewal_that_came_in_time_counts,
    read::a_local_read_is_not_older_than_a_lease,
    read::a_coordinator_answers_nothing_older_than_it_has_seen,
    announce::a_killed_relay_leaves_nothing_unannounced,
    announce::a_lost_consumer_leaves_nothing_unannounced,
    announce::a_lost_connection_loses_no_signal,
    announce::no_record_changes_faster_than_it_is_announced,
}

impl Scenario {
    /// Runs it.
    ///
    /// # Errors
    /// What did not hold.
    pub fn run(&self, seed: u64) -> Result<()> {
        (self.run)(seed)
    }
}

async fn within(scenario: impl Future<Output = Result<()>>) -> Result<()> {
    timeout(LONGEST, scenario).await.unwrap_or_else(|_| anyhow::bail!("it stands still"))
}

/// Asks with a verb and, where there is one, a session behind it.
async fn ask(client: &Client, verb: &str, body: Value) -> Reply {
    // Under a paused clock, what was seen before and what is seen now would be of one moment.
    pause(1).await;
    client.ask(&format!("hf.default.{verb}"), &body).await
}

/// As [`ask`], where it must be done; asked again while it is refused for something that passes.
async fn done(client: &Client, verb: &str, body: Value) -> Result<Value> {
    let mut last = Reply::Silence;
    for _ in 0..40 {
        last = ask(client, verb, body.clone()).await;
        match last {
            Reply::Done(value) => return Ok(value),
            Reply::Refused(ref error) if error["retryable"] == false => break,
            Reply::Refused(_) | Reply::Nobody | Reply::Silence => pause(100).await,
        }
    }
    anyhow::bail!("{verb} {body} came to {last:?}")
}

/// As [`ask`], at one coordinator: all others are cut off meanwhile, and know it.
async fn ask_at(fleet: &Fleet, name: &str, client: &Client, verb: &str, body: Value) -> Result<Reply> {
    use holdfast_store::net::Link;
    let others: Vec<String> =
        fleet.names().into_iter().filter(|other| other.starts_with('c') && other != name).collect();
    for other in &others {
        fleet.set_link(other, Link::Broken)?;
    }
    let reply = ask(client, verb, body).await;
    for other in &others {
        fleet.set_link(other, Link::Up)?;
    }
    Ok(reply)
}

/// Which worker has a session.
async fn owner(client: &Client, id: &str) -> Result<String> {
    let session = done(client, &format!("session.get.{id}"), json!({})).await?;
    Ok(session["owner"]["worker"].as_str().unwrap_or_default().to_owned())
}

async fn pause(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

/// That two things are equal.
fn same<T: PartialEq + std::fmt::Debug>(what: &str, left: T, right: T) -> Result<()> {
    ensure!(left == right, "{what}: {left:?} is not {right:?}");
    Ok(())
}
