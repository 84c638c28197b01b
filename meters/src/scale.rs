//! The buckets of histograms.

use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::histogram::Histogram;

/// What a histogram measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Seconds: from half a millisecond to half a minute.
    Seconds,
    /// Things in a group: from 1 to 256.
    Count,
    /// Bytes: from 256 to 4 MiB.
    Bytes,
}

impl Scale {
    fn bounds(self) -> &'static [f64] {
        match self {
            Self::Seconds => {
                &[0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0]
            }
            Self::Count => &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0],
            Self::Bytes => &[256.0, 1024.0, 4096.0, 16_384.0, 65_536.0, 262_144.0, 1_048_576.0, 4_194_304.0],
        }
    }
}

impl MetricConstructor<Histogram> for Scale {
    fn new_metric(&self) -> Histogram {
        Histogram::new(self.bounds().iter().copied())
    }
}

/// A family of histograms with the buckets of `scale`.
pub fn histograms<Labels: Clone + Eq + std::hash::Hash>(scale: Scale) -> Family<Labels, Histogram, Scale> {
    Family::new_with_constructor(scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_grow() {
        for scale in [Scale::Seconds, Scale::Count, Scale::Bytes] {
            assert!(scale.bounds().windows(2).all(|pair| pair[0] < pair[1]), "{scale:?}");
        }
    }
}
