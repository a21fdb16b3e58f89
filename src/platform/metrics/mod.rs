//! Prometheus metrics: one registry for each process, which every role records in. `docs/metrics.md` lists them, and a
//! test compares it with what is registered here.
//!
//! Labels are words of this program: a label's value is a `&'static str`, so that nothing that users, agents or other
//! servers write can multiply the series.

mod exposition;
mod jobs;
mod labelled;
mod process;
mod requests;
mod server;

use std::{fmt::Debug, sync::Arc};

use parking_lot::Mutex;
use prometheus_client::{
    collector::Collector,
    encoding::{EncodeMetric, text},
    metrics::{MetricType, counter::Counter, gauge::Gauge, histogram::Histogram, info::Info},
    registry::{Metric, Registry, Unit},
};

pub use exposition::Format;
pub use jobs::JobMetrics;
pub use labelled::Labelled;
pub use requests::RequestMetrics;
pub use server::ServerMetrics;

const PREFIX: &str = "koco";

/// A metric, for the reference.
#[derive(Clone, Debug)]
pub struct Described {
    /// The name of its samples, without what a histogram's have behind it.
    pub name: String,
    /// Its type.
    pub kind: &'static str,
    /// Its labels.
    pub labels: Vec<&'static str>,
    /// What it says.
    pub help: String,
}

impl Described {
    fn new(family: &str, kind: MetricType, labels: &[&'static str], help: &str) -> Self {
        let (kind, suffix) = match kind {
            MetricType::Counter => ("counter", "_total"),
            MetricType::Gauge => ("gauge", ""),
            MetricType::Histogram => ("histogram", ""),
            MetricType::Info => ("info", "_info"),
            MetricType::Unknown => ("unknown", ""),
        };
        Self { name: format!("{family}{suffix}"), kind, labels: labels.to_vec(), help: help.into() }
    }
}

type Hook = Box<dyn Fn() + Send + Sync>;

/// The metrics of all roles.
#[derive(Clone)]
pub struct Metrics {
    registries: Arc<[Registry; 2]>,
    described: Arc<Vec<Described>>,
    /// Set what is only read at a scrape. Locked while one is under way, so that another sees no half of it.
    hooks: Arc<Mutex<Vec<Hook>>>,
    /// Whether this process leads. Only where a controller runs.
    pub leader: Labelled<Gauge, 0>,
    /// Reconciles that ended, also with an error.
    pub reconciles: Counter,
    /// Reconciles that failed, by reason.
    pub reconcile_errors: Labelled<Counter, 1>,
    /// How long a reconcile took, in seconds.
    pub reconcile_seconds: Histogram,
    /// Status writes of the controller.
    pub status_writes: Counter,
    /// Signals that the controller sent, by signal.
    pub signals: Labelled<Counter, 1>,
    /// Heartbeats that the gateway accepted.
    pub heartbeats: Counter,
    /// Requests that the gateway refused, by reason.
    pub refused: Labelled<Counter, 1>,
    /// Runners that have a stream open at this gateway. Only where a gateway runs.
    pub streams: Labelled<Gauge, 0>,
    /// 1 where this gateway hands events on to a server. Only then.
    pub keeps_events: Labelled<Gauge, 0>,
    /// Pods that were created.
    pub pods_created: Counter,
    /// What doesn't fit and lasts, by kind.
    pub leaks: Labelled<Gauge, 1>,
    /// Of jobs and runs.
    pub jobs: JobMetrics,
    /// Of requests to the API server.
    pub requests: RequestMetrics,
    /// Of the archive.
    pub server: ServerMetrics,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl Metrics {
    /// With the metrics of libraries.
    pub fn new(collectors: Vec<Box<dyn Collector>>) -> Self {
        let mut all = Registration::new();
        let leader = Labelled::new([], Gauge::default);
        let reconcile_seconds = Histogram::new([0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0]);
        let (reconciles, status_writes, heartbeats) = (Counter::default(), Counter::default(), Counter::default());
        let [reconcile_errors, signals, refused] = [(); 3].map(|()| Labelled::new(["reason"], Counter::default));
        let [streams, keeps_events] = [(); 2].map(|()| Labelled::new([], Gauge::default));
        let pods_created = Counter::default();
        let leaks = Labelled::new(["kind"], Gauge::default);
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        all.add("build", "The build of this process", &["version"], build);
        all.labelled("leader", "1 while this controller leads, 0 while it stands by", &leader);
        all.plain("reconciles", "Reconciles that ended", &reconciles);
        all.labelled("reconcile_errors", "Reconciles that failed; the controller tries again", &reconcile_errors);
        all.plain("reconcile_seconds", "How long a reconcile took", &reconcile_seconds);
        all.plain("status_writes", "Status writes of the controller", &status_writes);
        all.labelled("signals", "Signals sent to workflows", &signals);
        all.plain("heartbeats", "Heartbeats of runners", &heartbeats);
        all.labelled("gateway_refused", "Requests that the gateway refused", &refused);
        all.labelled("gateway_streams", "Runners that have a stream open at this gateway", &streams);
        all.labelled("gateway_keeps_events", "1 where this gateway hands events on to a server", &keeps_events);
        all.plain("pods_created", "Runner pods created", &pods_created);
        all.labelled("leaks", "What does not fit and lasts, as kubectl koco audit names it", &leaks);
        let jobs = JobMetrics::default();
        jobs.register(&mut all);
        let requests = RequestMetrics::default();
        requests.register(&mut all);
        let server = ServerMetrics::default();
        server.register(&mut all);
        all.described.extend(process::described());
        all.others.register_collector(Box::new(process::Process));
        for collector in collectors {
            all.others.register_collector(collector);
        }
        Self {
            registries: Arc::new([all.ours, all.others]),
            described: Arc::new(all.described),
            hooks: Arc::default(),
            leader,
            reconciles,
            reconcile_errors,
            reconcile_seconds,
            status_writes,
            signals,
            heartbeats,
            refused,
            streams,
            keeps_events,
            pods_created,
            leaks,
            jobs,
            requests,
            server,
        }
    }

    /// Counts one under a reason.
    pub fn count(family: &Labelled<Counter, 1>, reason: &'static str) {
        family.of([reason]).inc();
    }

    /// Has each scrape begin with `set`.
    pub fn before_scrapes(&self, set: impl Fn() + Send + Sync + 'static) {
        self.hooks.lock().push(Box::new(set));
    }

    /// Encodes them.
    pub fn encode(&self, format: Format) -> Result<String, std::fmt::Error> {
        let hooks = self.hooks.lock();
        hooks.iter().for_each(|set| set());
        let mut written = String::new();
        for registry in &*self.registries {
            text::encode_registry(&mut written, registry)?;
        }
        text::encode_eof(&mut written)?;
        drop(hooks);
        Ok(format.of(written))
    }

    /// What is registered, but for what libraries bring.
    pub fn described(&self) -> &[Described] {
        &self.described
    }
}

/// What the registries are made of.
struct Registration {
    ours: Registry,
    /// Without our prefix.
    others: Registry,
    described: Vec<Described>,
}

impl Registration {
    fn new() -> Self {
        Self { ours: Registry::with_prefix(PREFIX), others: Registry::default(), described: Vec::new() }
    }

    fn add(&mut self, name: &'static str, help: &str, labels: &[&'static str], metric: impl Metric) {
        self.described.push(Described::new(&format!("{PREFIX}_{name}"), metric.metric_type(), labels, help));
        self.ours.register(name, help, metric);
    }

    fn plain(&mut self, name: &'static str, help: &str, metric: &(impl Metric + Clone)) {
        self.add(name, help, &[], metric.clone());
    }

    fn labelled<M, const N: usize>(&mut self, name: &'static str, help: &str, metric: &Labelled<M, N>)
    where
        M: Clone,
        labelled::Inner<M, N>: Metric,
    {
        self.add(name, help, metric.names(), metric.inner());
    }

    fn seconds<const N: usize>(&mut self, name: &'static str, help: &str, metric: &Labelled<Histogram, N>) {
        let kind = metric.inner().metric_type();
        self.described.push(Described::new(&format!("{PREFIX}_{name}_seconds"), kind, metric.names(), help));
        self.ours.register_with_unit(name, help, Unit::Seconds, metric.inner());
    }
}

#[cfg(test)]
mod tests;
