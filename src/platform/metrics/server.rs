//! Metrics of the archive: what the server stores, answers and removes. The server records them.

use std::sync::atomic::AtomicU64;

use axum::http::StatusCode;
use prometheus_client::metrics::{counter::Counter, gauge::Gauge, histogram::Histogram};

use super::{Labelled, Registration, requests};

/// Of the server.
#[derive(Clone, Debug)]
pub struct ServerMetrics {
    /// Events that were stored, by what they are.
    pub events: Labelled<Counter, 1>,
    /// Bytes of events that were stored.
    pub event_bytes: Counter,
    /// Events that have not come, as far as their number is known.
    pub lost: Counter,
    /// Executions that have as many events as one may.
    pub full: Counter,
    /// Batches of events, by what became of them.
    pub appends: Labelled<Counter, 1>,
    /// From the time of the oldest line of a commit until it was stored.
    pub event_lag: Histogram,
    /// How long a commit of events took.
    pub commit_seconds: Histogram,
    /// How many events a commit stored.
    pub commit_events: Histogram,
    /// Streams that are open. Only where a server runs and has its database.
    pub streams: Labelled<Gauge, 0>,
    /// Requests, by the response's code.
    requests: Labelled<Counter, 1>,
    /// Requests that were refused, by reason.
    pub refused: Labelled<Counter, 1>,
    /// From the end of a job until it was in the archive as it ended.
    pub archive: Histogram,
    /// How long what is being written to the archive has waited. Only where a server runs.
    pub waiting: Labelled<Gauge<f64, AtomicU64>, 0>,
    /// What all takes, as retention counts it. Only where a server runs, from its first retention on.
    pub bytes: Labelled<Gauge, 0>,
    /// The most that it may take; none if there is no limit.
    pub max_bytes: Labelled<Gauge, 0>,
    /// How much more SQLite may take before it is full. Only with SQLite.
    pub free: Labelled<Gauge, 0>,
    /// Runs of retention, by outcome.
    pub retentions: Labelled<Counter, 1>,
    /// Executions that retention removed, or whose events it did, by which, and whether for their age or for their size.
    pub removed: Labelled<Counter, 2>,
}

impl Default for ServerMetrics {
    fn default() -> Self {
        let [events, appends, requests, refused, retentions] =
            ["kind", "outcome", "code", "reason", "outcome"].map(|label| Labelled::new([label], Counter::default));
        let [event_bytes, lost, full] = [(); 3].map(|()| Counter::default());
        let [streams, bytes, max_bytes, free] = [(); 4].map(|()| Labelled::new([], Gauge::default));
        Self {
            events,
            event_bytes,
            lost,
            full,
            appends,
            event_lag: Histogram::new([0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 600.0, 3600.0]),
            commit_seconds: Histogram::new([0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0]),
            commit_events: Histogram::new([1.0, 10.0, 100.0, 1000.0, 10_000.0, 100_000.0]),
            streams,
            requests,
            refused,
            archive: Histogram::new([1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0]),
            waiting: Labelled::new([], Gauge::default),
            bytes,
            max_bytes,
            free,
            retentions,
            removed: Labelled::new(["what", "why"], Counter::default),
        }
    }
}

impl ServerMetrics {
    pub(super) fn register(&self, all: &mut Registration) {
        let events = "Events stored: output is printed lines, agent what agents sent, koco what koco added";
        all.labelled("server_events", events, &self.events);
        all.plain("server_event_bytes", "Bytes of events stored", &self.event_bytes);
        let lost = "Events that have not come, as far as their number is known: of a lost runner it is not";
        all.plain("server_events_lost", lost, &self.lost);
        all.plain("server_executions_full", "Executions that reached the most events that one may have", &self.full);
        all.labelled("server_appends", "Batches of events: Stored, Gap, or why not", &self.appends);
        let lag = "From the oldest line of a commit, by the clock of its node, until it was stored";
        all.plain("server_event_lag_seconds", lag, &self.event_lag);
        all.plain("server_commit_seconds", "How long a commit of events took", &self.commit_seconds);
        all.plain("server_commit_events", "How many events a commit stored", &self.commit_events);
        all.labelled("server_streams", "Streams of events that are open at this server", &self.streams);
        all.labelled("server_requests", "Requests to the server", &self.requests);
        all.labelled("server_refused", "Requests that the server refused", &self.refused);
        all.plain("server_archive_seconds", "From a job's end until the archive had it as it ended", &self.archive);
        let waiting = "Since when the archive has tried to write what it writes now";
        all.labelled("server_archive_waiting_seconds", waiting, &self.waiting);
        all.labelled("server_database_bytes", "What executions and events take, as retention counts it", &self.bytes);
        let most = "The most that they may take before the oldest go; absent: no limit";
        all.labelled("server_database_max_bytes", most, &self.max_bytes);
        all.labelled("server_database_free_bytes", "How much more SQLite may take before it is full", &self.free);
        all.labelled("server_retentions", "Runs of retention: Done, or why not", &self.retentions);
        let removed = "Executions that retention removed, or the events of: why is Age or Size";
        all.labelled("server_retention_removed", removed, &self.removed);
    }

    /// Counts a request that is answered.
    pub fn answered(&self, status: StatusCode) {
        self.requests.of([requests::code(status)]).inc();
    }
}
