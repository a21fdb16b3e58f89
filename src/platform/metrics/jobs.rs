//! Metrics of jobs and runs. The controller that leads records them, from its caches and from what it has seen change.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::{counter::Counter, gauge::Gauge, histogram::Histogram};

use super::{Labelled, Registration};

/// Of jobs and runs.
#[derive(Clone, Debug)]
pub struct JobMetrics {
    /// Jobs by phase and mode.
    pub jobs: Labelled<Gauge, 2>,
    /// Jobs that a user or administrator has to help, by reason.
    pub stalled: Labelled<Gauge, 1>,
    /// How long the job that has been Pending longest has been.
    pub oldest_pending: Labelled<Gauge<f64, AtomicU64>, 1>,
    /// Runs whose runner no gateway hears, by mode.
    pub unresponsive: Labelled<Gauge, 1>,
    /// Attempts that started, by mode.
    pub attempts: Labelled<Counter, 1>,
    /// Those of them that weren't a job's first, by mode.
    pub retries: Labelled<Counter, 1>,
    /// Jobs that ended, by mode, phase and error type.
    pub ended: Labelled<Counter, 3>,
    /// Runs that ended, by mode, type, error type and who reported it.
    pub runs_ended: Labelled<Counter, 4>,
    /// From a job's creation until that of its first run, by mode.
    pub queue: Labelled<Histogram, 1>,
    /// From a job's creation until its agent's first start, by mode.
    pub start: Labelled<Histogram, 1>,
    /// From the agent's first start to the job's end, by mode and phase.
    pub duration: Labelled<Histogram, 2>,
    /// How long an agent was active in a run, by mode.
    pub active: Labelled<Histogram, 1>,
    /// Tokens that agents said they had used in runs that ended, by mode and kind: input or output.
    pub tokens: Labelled<Counter, 2>,
    /// What they said that it cost, in millionths, by mode.
    pub cost: Labelled<Counter, 1>,
    /// From a command's generation until its runner has acknowledged it, by mode and state.
    pub control: Labelled<Histogram, 2>,
}

/// Waits until an agent starts: API servers write creation times in whole seconds.
fn waits() -> Histogram {
    Histogram::new([0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0])
}

/// From a second to three days.
fn durations() -> Histogram {
    Histogram::new([1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 43_200.0, 86_400.0, 259_200.0])
}

fn latencies() -> Histogram {
    Histogram::new([0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0])
}

impl Default for JobMetrics {
    fn default() -> Self {
        Self {
            jobs: Labelled::new(["phase", "mode"], Gauge::default),
            stalled: Labelled::new(["reason"], Gauge::default),
            oldest_pending: Labelled::new(["mode"], Gauge::default),
            unresponsive: Labelled::new(["mode"], Gauge::default),
            attempts: Labelled::new(["mode"], Counter::default),
            retries: Labelled::new(["mode"], Counter::default),
            ended: Labelled::new(["mode", "phase", "error"], Counter::default),
            runs_ended: Labelled::new(["mode", "type", "error", "source"], Counter::default),
            queue: Labelled::new(["mode"], waits),
            start: Labelled::new(["mode"], waits),
            duration: Labelled::new(["mode", "phase"], durations),
            active: Labelled::new(["mode"], durations),
            tokens: Labelled::new(["mode", "kind"], Counter::default),
            cost: Labelled::new(["mode"], Counter::default),
            control: Labelled::new(["mode", "state"], latencies),
        }
    }
}

impl JobMetrics {
    pub(super) fn register(&self, all: &mut Registration) {
        all.labelled("jobs", "Jobs that exist", &self.jobs);
        all.labelled("jobs_stalled", "Jobs that can't go on until somebody helps", &self.stalled);
        all.labelled(
            "job_oldest_pending_seconds",
            "Since when the longest waiting job is Pending that should run",
            &self.oldest_pending,
        );
        all.labelled("runs_unresponsive", "Open runs whose runner no gateway hears", &self.unresponsive);
        all.labelled("attempts_started", "Attempts that started", &self.attempts);
        all.labelled("retries", "Attempts that started and were not their job's first", &self.retries);
        all.labelled("jobs_ended", "Jobs that ended; error is empty unless they failed", &self.ended);
        all.labelled("runs_ended", "Runs that ended; disruptions are those with error Disrupted", &self.runs_ended);
        all.seconds("job_queue", "From a job's creation until its first run was created", &self.queue);
        all.seconds("job_start", "From a job's creation until its agent first started", &self.start);
        all.seconds("job_duration", "From an agent's first start until its job ended", &self.duration);
        all.seconds("run_active", "How long an agent was active in a run, without pauses", &self.active);
        all.labelled("agent_tokens", "Tokens of runs that ended, as their agents said", &self.tokens);
        all.labelled("agent_cost_micros", "Cost of runs that ended, as their agents said, in millionths", &self.cost);
        all.seconds("control", "From a command's generation until the runner acknowledged it", &self.control);
    }
}
