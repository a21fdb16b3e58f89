//! The controller's own settings.

use std::time::Duration;

use clap::Args;
use k8s_openapi::api::networking::v1::NetworkPolicySpec;
use serde_json::Value;

use crate::api::{Seconds, json_object};

/// The controller's own settings.
#[derive(Args, Clone, Debug)]
pub struct ControllerSettings {
    /// How many jobs are reconciled at once
    #[arg(long, env = "KOCO_CONCURRENCY", default_value_t = 32)]
    pub concurrency: u16,
    /// Work only while holding the leader's lease
    #[arg(long, env = "KOCO_LEADER_ELECT", num_args = 0..=1, default_value_t = false, default_missing_value = "true")]
    pub leader_elect: bool,
    /// How long what doesn't fit must last before it counts as a leak, such as a pod without its run
    #[arg(long, env = "KOCO_LEAK_GRACE", default_value = "60s", value_parser = Seconds::parse)]
    pub leak_grace: Duration,
    /// How long a job whose time to live is over is kept until the server has archived it. 0: not at all
    #[arg(long, env = "KOCO_ARCHIVE_PATIENCE", default_value = "0s", value_parser = Seconds::parse)]
    pub archive_patience: Duration,
    /// Spec of a NetworkPolicy for agents' pods, as JSON, kept in each namespace with AgentJobs; unset: none
    #[arg(long, env = "KOCO_AGENT_NETWORK_POLICY", value_parser = json_object::<NetworkPolicySpec>)]
    pub agent_network_policy: Option<Value>,
}
