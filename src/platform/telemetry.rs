//! Logs: structured, to stderr. Secrets are never logged, at any level.

use tracing::{Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::{FilterExt, Targets},
    layer::{Filter, SubscriberExt},
    util::SubscriberInitExt,
};

/// The format of log lines.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Human-readable.
    Text,
    /// One JSON object a line.
    Json,
}

/// The highest levels of libraries. Temporal's worker logs task tokens in its warnings, and results in the fields of
/// its spans; kube's client logs whole responses that it can't read; the others log headers and bodies of requests,
/// with tokens and API keys, below these levels.
const CAPS: [(&str, LevelFilter); 8] = [
    ("temporalio_sdk_core::worker", LevelFilter::ERROR),
    ("kube_client::client", LevelFilter::ERROR),
    ("temporalio_client", LevelFilter::INFO),
    ("tonic", LevelFilter::INFO),
    ("h2", LevelFilter::INFO),
    ("hyper", LevelFilter::INFO),
    ("hyper_util", LevelFilter::INFO),
    ("tower", LevelFilter::INFO),
];

/// The requested filter, limited by [`CAPS`].
fn capped<S: Subscriber>(filter: &str) -> impl Filter<S> + use<S> {
    EnvFilter::new(filter).and(Targets::new().with_default(LevelFilter::TRACE).with_targets(CAPS))
}

/// Starts logging. `filter` as in `RUST_LOG`: `info`, or `koco=debug,info`.
pub fn init(filter: &str, format: LogFormat) {
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let layer = match format {
        LogFormat::Text => layer.boxed(),
        LogFormat::Json => layer.json().flatten_event(true).with_span_list(false).boxed(),
    };
    if let Err(error) = tracing_subscriber::registry().with(layer.with_filter(capped(filter))).try_init() {
        tracing::debug!(%error, "logging was started before");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn no_level_brings_a_token_or_a_result_into_the_logs() {
        for filter in ["info", "trace", "temporalio_sdk_core=trace,info", "temporalio_sdk_core::worker=trace"] {
            let lines = Lines::default();
            let writer = lines.clone();
            let layer = tracing_subscriber::fmt::layer().json().with_writer(move || writer.clone());
            let subscriber = tracing_subscriber::registry().with(layer.with_filter(capped(filter)));
            tracing::subscriber::with_default(subscriber, || {
                // As the SDK does it.
                let span = tracing::info_span!(target: "temporalio_sdk_core::worker", "complete", status = "canary");
                let _inside = span.enter();
                tracing::warn!(target: "temporalio_sdk_core::worker::activities", task_token = "canary", "not found");
                tracing::debug!(target: "temporalio_sdk_core::worker::workflow::managed_run", task_token = "canary");
                tracing::trace!(target: "h2::codec", frame = "canary");
                tracing::warn!(target: "kube_client::client", "canary, expected value");
                tracing::error!(target: "temporalio_sdk_core::worker", "heard");
            });
            let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
            assert!(text.contains("heard") && !text.contains("canary"), "{filter}: {text}");
        }
    }
}
