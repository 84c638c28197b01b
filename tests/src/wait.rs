//! Waits for a condition, with a deadline and a message that names the condition.
//!
//! Tests sleep only here: a test never guesses how long something takes.

use std::fmt::Display;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

/// The pause between two checks.
const POLL: Duration = Duration::from_millis(10);

/// Calls `check` repeatedly until it returns `Some`, and returns the value.
///
/// `what` completes the sentence "waited for …", as in "the session to be passive".
///
/// # Panics
/// When `deadline` passes, even during a check.
pub async fn until<T>(what: &str, deadline: Duration, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    until_ok(what, deadline, async || check().await.ok_or("not yet")).await
}

/// As [`until`], for a check that returns a reason: the last reason is in the panic's message.
///
/// # Panics
/// When `deadline` passes, even during a check.
pub async fn until_ok<T, E: Display>(
    what: &str,
    deadline: Duration,
    mut check: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let begin = Instant::now();
    let end = begin + deadline;
    let mut checks = 0;
    let mut status = "not checked once".to_owned();
    while let Ok(answer) = timeout_at(end, check()).await {
        checks += 1;
        match answer {
            Ok(found) => return found,
            Err(reason) => status = reason.to_string(),
        }
        if Instant::now() + POLL >= end {
            break;
        }
        sleep(POLL).await;
    }
    panic!("waited for {what} for {:.1?}; after {checks} checks: {status}", begin.elapsed());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_condition_that_comes_true_is_returned_at_once() {
        let mut left = 3;
        let found = until("three checks", Duration::from_secs(10), async || {
            left -= 1;
            (left == 0).then_some("here")
        });
        assert_eq!(found.await, "here");
    }

    #[tokio::test]
    #[should_panic(expected = "waited for the lock to be free for ")]
    async fn a_deadline_panics_with_what_was_waited_for() {
        until("the lock to be free", Duration::from_millis(50), async || None::<()>).await;
    }

    #[tokio::test]
    #[should_panic(expected = "checks: held by client-a")]
    async fn a_deadline_panics_with_the_last_reason() {
        let held = async || Err::<(), _>("held by client-a");
        until_ok("the lock to be free", Duration::from_millis(50), held).await;
    }

    #[tokio::test]
    #[should_panic(expected = "after 0 checks: not checked once")]
    async fn a_check_that_hangs_is_cut_off() {
        until("ever", Duration::from_millis(50), async || std::future::pending::<Option<()>>().await).await;
    }
}
