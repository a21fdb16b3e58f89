//! The operator's defaults for AgentJobs: flags and environment of the controller, which resolves each job's settings
//! once, when it accepts the job. Used by the command line and by this folder.

use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::api::{
    AgentJob, AgentJobSpec, ExecutionMode, Resolved, ResolvedRetryPolicy, ResolvedTimeouts, RetryPolicy, Seconds,
    Timeouts,
};

/// The execution mode of jobs that don't set one.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultMode {
    /// Direct
    Direct,
    /// Temporal
    Temporal,
}

/// Defaults for jobs.
#[derive(Args, Clone, Debug)]
pub struct Defaults {
    /// Execution mode of jobs that don't set one
    #[arg(long, env = "KODO_EXECUTION_MODE", value_enum, ignore_case = true, default_value = "direct")]
    pub default_execution_mode: DefaultMode,
    /// retryPolicy.maximumAttempts
    #[arg(long, env = "KOCO_DEFAULT_MAXIMUM_ATTEMPTS", default_value_t = 3)]
    pub default_maximum_attempts: i32,
    /// retryPolicy.initialInterval
    #[arg(long, env = "KOCO_DEFAULT_INITIAL_INTERVAL", default_value = "1s", value_parser = Seconds::parse)]
    pub default_initial_interval: Duration,
    /// retryPolicy.backoffCoefficient
    #[arg(long, env = "KOCO_DEFAULT_BACKOFF_COEFFICIENT", default_value_t = 2.0)]
    pub default_backoff_coefficient: f64,
    /// retryPolicy.maximumInterval
    #[arg(long, env = "KOCO_DEFAULT_MAXIMUM_INTERVAL", default_value = "100s", value_parser = Seconds::parse)]
    pub default_maximum_interval: Duration,
    /// timeouts.heartbeat
    #[arg(long, env = "KOCO_DEFAULT_HEARTBEAT_TIMEOUT", default_value = "120s", value_parser = Seconds::parse)]
    pub default_heartbeat_timeout: Duration,
    /// timeouts.execution; unset: none
    #[arg(long, env = "KOCO_DEFAULT_EXECUTION_TIMEOUT", value_parser = Seconds::parse)]
    pub default_execution_timeout: Option<Duration>,
    /// timeouts.pending
    #[arg(long, env = "KOCO_DEFAULT_PENDING_TIMEOUT", default_value = "10m", value_parser = Seconds::parse)]
    pub default_pending_timeout: Duration,
    /// The least timeouts.heartbeat: a lower one is raised to it. A runner sends three heartbeats in that time
    #[arg(long, env = "KOCO_MINIMUM_HEARTBEAT_TIMEOUT", default_value = "1s", value_parser = Seconds::parse)]
    pub minimum_heartbeat_timeout: Duration,
    /// The most bytes of JSON in inputs, and in extra: a job with more fails before anything is started. 0: no limit
    #[arg(long, env = "KOCO_MAXIMUM_INPUTS_BYTES", default_value_t = 262_144)]
    pub maximum_inputs_bytes: usize,
}

/// Go's format, as in the resource.
impl Defaults {
    /// The settings of a job: as recorded in its status, or resolved now.
    pub fn of(&self, job: &AgentJob) -> Resolved {
        let recorded = job.status.as_ref().and_then(|s| s.resolved.clone());
        recorded.unwrap_or_else(|| self.resolve(&job.spec))
    }

    /// Resolves the fields that a job omits.
    fn resolve(&self, spec: &AgentJobSpec) -> Resolved {
        let retry: RetryPolicy = spec.retry_policy.clone().unwrap_or_default();
        let timeouts: Timeouts = spec.timeouts.clone().unwrap_or_default();
        let initial_interval = retry.initial_interval.unwrap_or(self.default_initial_interval.into());
        // A first wait that a job asks for is no shorter because of a default.
        let longest = self.default_maximum_interval.max(initial_interval.get()).into();
        let mode = match self.default_execution_mode {
            DefaultMode::Direct => ExecutionMode::Direct,
            DefaultMode::Temporal => ExecutionMode::Temporal,
        };
        Resolved {
            execution_mode: spec.execution_mode.unwrap_or(mode),
            retry_policy: ResolvedRetryPolicy {
                maximum_attempts: retry.maximum_attempts.unwrap_or(self.default_maximum_attempts),
                initial_interval,
                backoff_coefficient: retry.backoff_coefficient.unwrap_or(self.default_backoff_coefficient),
                maximum_interval: retry.maximum_interval.unwrap_or(longest),
                non_retryable_error_types: retry.non_retryable_error_types.unwrap_or_default(),
            },
            timeouts: ResolvedTimeouts {
                heartbeat: timeouts
                    .heartbeat
                    .map_or(self.default_heartbeat_timeout, Seconds::get)
                    .max(self.minimum_heartbeat_timeout)
                    .into(),
                execution: timeouts.execution.or(self.default_execution_timeout.map(Into::into)),
                pending: timeouts.pending.unwrap_or(self.default_pending_timeout.into()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        defaults: Defaults,
    }

    #[test]
    fn the_longest_wait_is_no_shorter_than_the_first_unless_a_job_says_so() {
        let defaults = Program::parse_from(["koco"]).defaults;
        let waits = |policy: serde_json::Value| {
            let spec = serde_json::from_value(json!({ "entryPoint": "x", "retryPolicy": policy })).unwrap();
            let policy = defaults.resolve(&spec).retry_policy;
            [policy.initial_interval, policy.maximum_interval].map(|wait| wait.get().as_secs())
        };
        assert_eq!(waits(json!({})), [1, 100]);
        assert_eq!(waits(json!({ "initialInterval": "5s" })), [5, 100]);
        assert_eq!(waits(json!({ "initialInterval": "1h" })), [3600, 3600]);
        assert_eq!(waits(json!({ "initialInterval": "1h", "maximumInterval": "5s" })), [3600, 5]);
    }
}
