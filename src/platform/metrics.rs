//! Prometheus metrics. One registry for each process.

use std::sync::Arc;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// The label `reason`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Reason {
    /// A stable reason, in CamelCase.
    pub reason: String,
}

/// The label `kind`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Kind {
    /// A stable name, in CamelCase.
    pub kind: String,
}

/// The metrics of all roles.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    /// Reconciles that ended, also with an error.
    pub reconciles: Counter,
    /// Reconciles that failed, by reason.
    pub reconcile_errors: Family<Reason, Counter>,
    /// How long a reconcile took, in seconds.
    pub reconcile_seconds: Histogram,
    /// Status writes of the controller.
    pub status_writes: Counter,
    /// Signals that the controller sent, by signal.
    pub signals: Family<Reason, Counter>,
    /// Heartbeats that the gateway accepted.
    pub heartbeats: Counter,
    /// Requests that the gateway refused, by reason.
    pub refused: Family<Reason, Counter>,
    /// Pods that were created.
    pub pods_created: Counter,
    /// What doesn't fit and lasts, by kind.
    pub leaks: Family<Kind, Gauge>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("koco");
        let buckets = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0];
        let (reconciles, reconcile_errors) = (Counter::default(), Family::default());
        let reconcile_seconds = Histogram::new(buckets);
        let (status_writes, signals, heartbeats) = (Counter::default(), Family::default(), Counter::default());
        let (refused, pods_created, leaks) = (Family::default(), Counter::default(), Family::default());
        registry.register("reconciles", "Reconciles that ended", reconciles.clone());
        registry.register("reconcile_errors", "Reconciles that failed", reconcile_errors.clone());
        registry.register("reconcile_seconds", "How long a reconcile took", reconcile_seconds.clone());
        registry.register("status_writes", "Status writes of the controller", status_writes.clone());
        registry.register("signals", "Signals sent to workflows", signals.clone());
        registry.register("heartbeats", "Heartbeats of runners", heartbeats.clone());
        registry.register("gateway_refused", "Requests that the gateway refused", refused.clone());
        registry.register("pods_created", "Runner pods created", pods_created.clone());
        registry.register("leaks", "What does not fit and lasts, as kubectl koco audit names it", leaks.clone());
        Self {
            registry: Arc::new(registry),
            reconciles,
            reconcile_errors,
            reconcile_seconds,
            status_writes,
            signals,
            heartbeats,
            refused,
            pods_created,
            leaks,
        }
    }
}

impl Metrics {
    /// Counts one under a reason.
    pub fn count(family: &Family<Reason, Counter>, reason: &str) {
        family.get_or_create(&Reason { reason: reason.into() }).inc();
    }

    /// Encodes them in Prometheus' text format.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
