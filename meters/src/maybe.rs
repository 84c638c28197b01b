//! A gauge that has a value only at times.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;

/// A gauge without labels. Without a value it has no sample. Clones are the same gauge.
#[derive(Clone, Debug, Default)]
pub struct MaybeGauge(Arc<Mutex<Option<f64>>>);

impl MaybeGauge {
    /// Sets its value, or takes it away.
    pub fn set(&self, value: Option<f64>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = value;
    }

    fn get(&self) -> Option<f64> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EncodeMetric for MaybeGauge {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> std::fmt::Result {
        self.get().map_or(Ok(()), |value| encoder.encode_gauge(&value))
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Gauge
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    #[test]
    fn without_a_value_there_is_no_sample() {
        let (mut registry, gauge) = (Registry::default(), MaybeGauge::default());
        registry.register("lag", "Lag", gauge.clone());
        let text = || {
            let mut text = String::new();
            encode(&mut text, &registry).unwrap();
            text
        };
        assert!(!text().contains("\nlag"));
        gauge.set(Some(1.5));
        assert!(text().contains("\nlag 1.5\n"));
        gauge.set(None);
        assert!(!text().contains("\nlag"));
    }
}
