//! A load: many concurrent clients that repeat an operation for a span.
//!
//! Deliberately absent: what the operation is, and which sides are compared.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures_util::future::join_all;

/// The outcome of one load.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    /// Operations per second.
    pub(crate) rate: f64,
    /// How long each operation took, the shortest first; never empty.
    pub(crate) times: Vec<Duration>,
}

impl Measured {
    pub(crate) fn p50(&self) -> Duration {
        self.quantile(0.5)
    }

    /// The time that this share of the operations did not exceed.
    pub(crate) fn quantile(&self, share: f64) -> Duration {
        let last = self.times.len() - 1;
        self.times[((last as f64 * share).round() as usize).min(last)]
    }

    /// What `times` make, taken one after the other or together in `elapsed`.
    pub(crate) fn of(mut times: Vec<Duration>, elapsed: Duration) -> Result<Self> {
        ensure!(!times.is_empty(), "nothing was done in {elapsed:?}");
        times.sort_unstable();
        Ok(Self { rate: times.len() as f64 / elapsed.as_secs_f64(), times })
    }
}

/// Runs `operation` on `count` concurrent clients for `span`. An operation that has begun is finished and counted.
pub(crate) async fn load(
    count: usize,
    span: Duration,
    operation: impl AsyncFn(usize) -> Result<()>,
) -> Result<Measured> {
    timed_load(count, span, async |n| {
        let start = Instant::now();
        operation(n).await?;
        Ok(start.elapsed())
    })
    .await
}

/// As [`load`], for an operation that tells how long its measured part took.
pub(crate) async fn timed_load(
    count: usize,
    span: Duration,
    operation: impl AsyncFn(usize) -> Result<Duration>,
) -> Result<Measured> {
    let begin = Instant::now();
    let client = async |n: usize| -> Result<Vec<Duration>> {
        let mut took = Vec::new();
        while begin.elapsed() < span {
            took.push(operation(n).await?);
        }
        Ok(took)
    };
    let all: Vec<Vec<Duration>> = join_all((0..count).map(client)).await.into_iter().collect::<Result<_>>()?;
    let elapsed = begin.elapsed();
    Measured::of(all.into_iter().flatten().collect(), elapsed)
}

/// Minimum, median, maximum.
pub(crate) fn spread(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    (values[0], values[values.len() / 2], values[values.len() - 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_times_that_occurred() {
        let times = (1..=100).rev().map(Duration::from_millis).collect();
        let measured = Measured::of(times, Duration::from_secs(2)).unwrap();
        assert_eq!(measured.quantile(0.0), Duration::from_millis(1));
        assert_eq!(measured.p50(), Duration::from_millis(51));
        assert_eq!(measured.quantile(0.99), Duration::from_millis(99));
        assert_eq!(measured.quantile(1.0), Duration::from_millis(100));
        assert!((measured.rate - 50.0).abs() < f64::EPSILON);
        assert!(Measured::of(Vec::new(), Duration::from_secs(1)).is_err());
    }

    #[tokio::test]
    async fn a_failed_operation_fails_the_load() {
        let failing = load(4, Duration::from_secs(5), async |n| {
            ensure!(n != 3, "the operation of client 3 fails");
            tokio::time::sleep(Duration::from_millis(1)).await;
            Ok(())
        });
        let error = tokio::time::timeout(Duration::from_secs(20), failing).await.unwrap().unwrap_err();
        assert_eq!(error.to_string(), "the operation of client 3 fails");
    }
}
