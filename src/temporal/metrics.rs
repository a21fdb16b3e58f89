//! The metrics of Temporal's SDK, under the names that its documentation has, for the process' own registry: the SDK's
//! exporter would listen at a port of its own. The worker's runtime and every client record in it.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use parking_lot::Mutex;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
};
use temporalio_common::telemetry::{TaskQueueLabelStrategy, metrics as sdk};

use crate::protocol::workflow::WORKFLOW_TYPE;

const PREFIX: &str = "temporal_";
/// The labels that are kept: those whose values are words of the SDK, of Temporal's API, or of this installation.
const LABELS: [&str; 9] = [
    "namespace",
    "task_queue",
    "operation",
    "workflow_type",
    "activity_type",
    "poller_type",
    "worker_type",
    "status_code",
    "failure_reason",
];
/// Clients of Temporal may put tasks of any other type into the queue.
const TYPES: [&str; 5] = [WORKFLOW_TYPE, "start_runner", "execute_agent", "control_runner", "cleanup"];

type Labels = Vec<(String, String)>;

/// The labels of a set of attributes, bounded.
fn labels(attributes: &sdk::MetricAttributes) -> Labels {
    let sdk::MetricAttributes::Prometheus { labels } = attributes else { return Labels::new() };
    let mut kept: Labels = Vec::new();
    for (name, value) in labels.as_prom_labels() {
        if LABELS.contains(&name) {
            let foreign = name.ends_with("_type") && (name.starts_with("workflow") || name.starts_with("activity"));
            let value = if foreign && !TYPES.contains(&value.as_str()) { "other".into() } else { value };
            kept.push((name.into(), value));
        }
    }
    kept.sort();
    kept
}

/// One metric, with all its label sets.
#[derive(Clone, Debug)]
enum Kind {
    Counter(Family<Labels, Counter>),
    Gauge(Family<Labels, Gauge<f64, AtomicU64>>),
    Histogram(Family<Labels, Histogram, Buckets>),
}

#[derive(Clone, Debug)]
struct Buckets(&'static [f64]);

impl prometheus_client::metrics::family::MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(self.0.iter().copied())
    }
}

#[derive(Debug)]
struct Described {
    help: String,
    kind: Kind,
}

/// All metrics of the SDK in this process.
#[derive(Clone, Debug, Default)]
pub struct SdkMetrics {
    all: Arc<Mutex<BTreeMap<String, Described>>>,
}

impl SdkMetrics {
    /// As the SDK's runtimes take it.
    pub fn meter(&self) -> Arc<dyn sdk::CoreMeter> {
        Arc::new(self.clone())
    }

    /// As its clients take it.
    pub(super) fn of_client(&self) -> sdk::TemporalMeter {
        let none = sdk::NewAttributes::default();
        sdk::TemporalMeter::new(self.meter(), none, TaskQueueLabelStrategy::UseNormal)
    }

    /// The metric of this name, which several clients and workers share.
    fn get(&self, params: &sdk::MetricParameters, unit: &str, new: impl FnOnce(&str) -> Kind) -> Kind {
        let base = params.name.strip_prefix(PREFIX).unwrap_or(&params.name).replace('-', "_");
        let base = base.strip_suffix("_total").unwrap_or(&base);
        let mut all = self.all.lock();
        let described = all.entry(format!("{PREFIX}{base}{unit}")).or_insert_with(|| Described {
            help: if params.description.is_empty() { base.replace('_', " ") } else { params.description.to_string() },
            kind: new(base),
        });
        described.kind.clone()
    }

    fn counting(&self, params: &sdk::MetricParameters) -> Arc<Instrument> {
        Arc::new(Instrument(self.get(params, "", |_| Kind::Counter(Family::default()))))
    }

    fn level(&self, params: &sdk::MetricParameters) -> Arc<Instrument> {
        Arc::new(Instrument(self.get(params, "", |_| Kind::Gauge(Family::default()))))
    }

    fn spread(&self, params: &sdk::MetricParameters, seconds: bool) -> Arc<Instrument> {
        let new = |base: &str| {
            let buckets = Buckets(sdk::default_buckets_for(base, seconds));
            Kind::Histogram(Family::new_with_constructor(buckets))
        };
        Arc::new(Instrument(self.get(params, if seconds { "_seconds" } else { "" }, new)))
    }
}

impl Collector for SdkMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        for (name, Described { help, kind }) in &*self.all.lock() {
            let metric: &dyn EncodeDyn = match kind {
                Kind::Counter(family) => family,
                Kind::Gauge(family) => family,
                Kind::Histogram(family) => family,
            };
            metric.encode_as(&mut encoder, name, help)?;
        }
        Ok(())
    }
}

trait EncodeDyn {
    fn encode_as(&self, encoder: &mut DescriptorEncoder, name: &str, help: &str) -> Result<(), std::fmt::Error>;
}

impl<M: EncodeMetric> EncodeDyn for M {
    fn encode_as(&self, encoder: &mut DescriptorEncoder, name: &str, help: &str) -> Result<(), std::fmt::Error> {
        self.encode(encoder.encode_descriptor(name, help, None, self.metric_type())?)
    }
}

impl sdk::CoreMeter for SdkMetrics {
    fn new_attributes(&self, attributes: sdk::NewAttributes) -> sdk::MetricAttributes {
        sdk::MetricAttributes::Prometheus { labels: Arc::new(attributes.into()) }
    }

    fn extend_attributes(&self, old: sdk::MetricAttributes, new: sdk::NewAttributes) -> sdk::MetricAttributes {
        let mut labels = match old {
            sdk::MetricAttributes::Prometheus { labels } => Arc::unwrap_or_clone(labels),
            _ => sdk::OrderedPromLabelSet::new(),
        };
        new.attributes.into_iter().for_each(|pair| labels.add_kv(pair));
        sdk::MetricAttributes::Prometheus { labels: Arc::new(labels) }
    }

    fn counter(&self, params: sdk::MetricParameters) -> sdk::Counter {
        sdk::Counter::new(self.counting(&params))
    }

    fn histogram(&self, params: sdk::MetricParameters) -> sdk::Histogram {
        sdk::Histogram::new(self.spread(&params, false))
    }

    fn histogram_f64(&self, params: sdk::MetricParameters) -> sdk::HistogramF64 {
        sdk::HistogramF64::new(self.spread(&params, false))
    }

    fn histogram_duration(&self, params: sdk::MetricParameters) -> sdk::HistogramDuration {
        sdk::HistogramDuration::new(self.spread(&params, true))
    }

    fn gauge(&self, params: sdk::MetricParameters) -> sdk::Gauge {
        sdk::Gauge::new(self.level(&params))
    }

    fn gauge_f64(&self, params: sdk::MetricParameters) -> sdk::GaugeF64 {
        sdk::GaugeF64::new(self.level(&params))
    }

    fn up_down_counter(&self, params: sdk::MetricParameters) -> sdk::UpDownCounter {
        sdk::UpDownCounter::new(self.level(&params))
    }
}

/// A metric before its labels are known.
struct Instrument(Kind);

/// A metric with its labels; that of another kind under the same name records nothing.
enum Bound {
    Counter(Counter),
    Gauge(Gauge<f64, AtomicU64>),
    Histogram(Histogram),
}

impl Instrument {
    fn bind(&self, attributes: &sdk::MetricAttributes) -> Box<Bound> {
        let labels = labels(attributes);
        Box::new(match &self.0 {
            Kind::Counter(family) => Bound::Counter(family.get_or_create_owned(&labels)),
            Kind::Gauge(family) => Bound::Gauge(family.get_or_create_owned(&labels)),
            Kind::Histogram(family) => Bound::Histogram(family.get_or_create_owned(&labels)),
        })
    }
}

/// As the SDK's traits want it: `BASE METHOD(VALUE): what is done`.
macro_rules! instruments {
    ($($base:ident $method:ident($value:ident: $type:ty), $kind:ident($metric:ident) => $done:expr;)*) => {$(
        impl sdk::$base for Bound {
            fn $method(&self, $value: $type) {
                if let Self::$kind($metric) = self {
                    $done;
                }
            }
        }

        impl sdk::MetricAttributable<Box<dyn sdk::$base>> for Instrument {
            fn with_attributes(
                &self,
                attributes: &sdk::MetricAttributes,
            ) -> Result<Box<dyn sdk::$base>, Box<dyn std::error::Error>> {
                Ok(self.bind(attributes))
            }
        }
    )*};
}

instruments! {
    CounterBase adds(value: u64), Counter(counter) => counter.inc_by(value);
    GaugeBase records(value: u64), Gauge(gauge) => gauge.set(value as f64);
    GaugeF64Base records(value: f64), Gauge(gauge) => gauge.set(value);
    UpDownCounterBase adds(value: i64), Gauge(gauge) => gauge.inc_by(value as f64);
    HistogramBase records(value: u64), Histogram(histogram) => histogram.observe(value as f64);
    HistogramF64Base records(value: f64), Histogram(histogram) => histogram.observe(value);
    HistogramDurationBase records(value: Duration), Histogram(histogram) => histogram.observe(value.as_secs_f64());
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;
    use temporalio_common::telemetry::metrics::CoreMeter;

    use super::*;

    #[test]
    fn the_sdks_metrics_are_in_the_registry_with_bounded_labels() {
        let metrics = SdkMetrics::default();
        let mut registry = Registry::default();
        registry.register_collector(Box::new(metrics.clone()));
        let pairs = |list: &[(&'static str, &'static str)]| {
            sdk::NewAttributes::from(list.iter().map(|(k, v)| sdk::MetricKeyValue::new(*k, *v)))
        };
        let one = metrics.new_attributes(pairs(&[("operation", "Poll"), ("worker-id", "canary")]));
        let two = metrics.extend_attributes(one.clone(), pairs(&[("activity_type", "canary")]));
        // By a worker's runtime and by a client, which names them differently.
        metrics.counter("temporal_request".into()).add(1, &one);
        metrics.counter("request".into()).add(2, &one);
        metrics.gauge("slots".into()).record(3, &two);
        metrics.histogram_duration("request_latency".into()).record(Duration::from_millis(75), &one);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "# TYPE temporal_request counter",
            r#"temporal_request_total{operation="Poll"} 3"#,
            r#"temporal_slots{activity_type="other",operation="Poll"} 3.0"#,
            r#"temporal_request_latency_seconds_bucket{le="0.1",operation="Poll"} 1"#,
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
        assert!(!text.contains("canary"), "{text}");
    }
}
