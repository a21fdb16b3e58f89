//! Settings: flags and environment, the same for every role that has them. The README has the table.

use std::{net::SocketAddr, time::Duration};

use clap::{Args, ValueEnum};

use super::telemetry::LogFormat;
use crate::api::{
    AgentJob, AgentJobSpec, ExecutionMode, Resolved, ResolvedRetryPolicy, ResolvedTimeouts, RetryPolicy, Seconds,
    Timeouts,
};

/// The settings of every role.
#[derive(Args, Clone, Debug)]
pub struct Common {
    /// What to log, such as `info` or `koco=debug,info`
    #[arg(long, env = "KOCO_LOG", default_value = "info", global = true)]
    pub log: String,
    /// Format of log lines
    #[arg(long, env = "KOCO_LOG_FORMAT", value_enum, default_value = "text", global = true)]
    pub log_format: LogFormat,
    /// Address of /healthz, /readyz and /metrics
    #[arg(long, env = "KOCO_HEALTH_ADDR", default_value = "127.0.0.1:8080")]
    pub health_addr: SocketAddr,
    /// Namespace that the operator itself runs in
    #[arg(long, env = "KOCO_NAMESPACE", default_value = "koco-system")]
    pub namespace: String,
    /// Unique name of this process; the pod's name in a cluster
    #[arg(long, env = "KOCO_IDENTITY", default_value_t = identity())]
    pub identity: String,
    /// Namespaces to watch, separated by commas; empty: all
    #[arg(long, env = "KOCO_WATCH_NAMESPACES", value_delimiter = ',')]
    pub watch_namespaces: Vec<String>,
    /// Temporal's task queue
    #[arg(long, env = "KOCO_TASK_QUEUE", default_value = "koco")]
    pub task_queue: String,
    /// The cluster's id in workflow ids; unset: from the UID of kube-system
    #[arg(long, env = "KOCO_CLUSTER")]
    pub cluster: Option<String>,
}

impl Common {
    /// The namespaces to watch; one `None` stands for all.
    pub fn namespaces(&self) -> Vec<Option<String>> {
        let mut named: Vec<_> = self.watch_namespaces.iter().filter(|n| !n.is_empty()).cloned().map(Some).collect();
        named.sort();
        named.dedup();
        if named.is_empty() { vec![None] } else { named }
    }
}

fn identity() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}-{}", host.trim(), std::process::id())
}

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
    #[arg(long, env = "KOCO_DEFAULT_INITIAL_INTERVAL", default_value = "1s", value_parser = duration)]
    pub default_initial_interval: Duration,
    /// retryPolicy.backoffCoefficient
    #[arg(long, env = "KOCO_DEFAULT_BACKOFF_COEFFICIENT", default_value_t = 2.0)]
    pub default_backoff_coefficient: f64,
    /// retryPolicy.maximumInterval
    #[arg(long, env = "KOCO_DEFAULT_MAXIMUM_INTERVAL", default_value = "100s", value_parser = duration)]
    pub default_maximum_interval: Duration,
    /// timeouts.heartbeat
    #[arg(long, env = "KOCO_DEFAULT_HEARTBEAT_TIMEOUT", default_value = "120s", value_parser = duration)]
    pub default_heartbeat_timeout: Duration,
    /// timeouts.execution; unset: none
    #[arg(long, env = "KOCO_DEFAULT_EXECUTION_TIMEOUT", value_parser = duration)]
    pub default_execution_timeout: Option<Duration>,
    /// timeouts.pending
    #[arg(long, env = "KOCO_DEFAULT_PENDING_TIMEOUT", default_value = "10m", value_parser = duration)]
    pub default_pending_timeout: Duration,
}

/// Go's format, as in the resource.
fn duration(text: &str) -> Result<Duration, String> {
    text.parse::<Seconds>().map(Seconds::get).map_err(|e| e.to_string())
}

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
        let mode = match self.default_execution_mode {
            DefaultMode::Direct => ExecutionMode::Direct,
            DefaultMode::Temporal => ExecutionMode::Temporal,
        };
        Resolved {
            execution_mode: spec.execution_mode.unwrap_or(mode),
            retry_policy: ResolvedRetryPolicy {
                maximum_attempts: retry.maximum_attempts.unwrap_or(self.default_maximum_attempts),
                initial_interval: retry.initial_interval.unwrap_or(self.default_initial_interval.into()),
                backoff_coefficient: retry.backoff_coefficient.unwrap_or(self.default_backoff_coefficient),
                maximum_interval: retry.maximum_interval.unwrap_or(self.default_maximum_interval.into()),
                non_retryable_error_types: retry.non_retryable_error_types.unwrap_or_default(),
            },
            timeouts: ResolvedTimeouts {
                heartbeat: timeouts.heartbeat.unwrap_or(self.default_heartbeat_timeout.into()),
                execution: timeouts.execution.or(self.default_execution_timeout.map(Into::into)),
                pending: timeouts.pending.unwrap_or(self.default_pending_timeout.into()),
            },
        }
    }
}
