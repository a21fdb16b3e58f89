//! The fixture of a test: a namespace, the operator's roles as processes, and a simulated node.
//!
//! - [`Node`] plays it by itself: binds pods, writes their statuses, runs a [`player`] for each agent.
//! - [`Kubelet`] and [`Runner`] are single steps of the same, for tests that decide when each happens.
//! - [`ApiProxy`] stands between a role and the API server, and holds a request until the test lets it through.
//! - [`Service`] stands between runners and a gateway, and can lead to another; or between a role and Temporal.
//!
//! What knows how a job's runs are recorded is in [`run`] alone, and in `job` of the cluster tests' harness, which this
//! one shares as far as it needs no node. Nothing waits by the clock: everything waits for conditions, with a
//! deadline.

pub mod api_proxy;
pub mod by_hand;
pub mod cluster;
mod disturbed;
pub mod hold;
pub mod kubelet;
pub mod node;
pub mod player;
pub mod run;
pub mod runner;
pub mod service;

// Shared with the cluster tests. Each of the two uses its part of them.
#[path = "../../cluster/harness/agent_log.rs"]
#[allow(dead_code)]
pub mod agent_log;
#[path = "../../cluster/harness/archive.rs"]
#[allow(dead_code)]
pub mod archive;
#[path = "../../cluster/harness/audit.rs"]
#[allow(dead_code)]
pub mod audit;
#[path = "../../cluster/harness/chart.rs"]
#[allow(dead_code)]
pub mod chart;
#[path = "../../cluster/harness/dump.rs"]
mod dump;
#[path = "../../cluster/harness/gateway_client.rs"]
pub mod gateway_client;
#[path = "../../cluster/harness/job.rs"]
#[allow(dead_code)]
pub mod job;
#[path = "../../cluster/harness/life.rs"]
pub mod life;
#[path = "../../cluster/harness/postgres.rs"]
mod postgres;
#[path = "../../cluster/harness/process.rs"]
#[allow(dead_code)]
pub mod process;
#[path = "../../cluster/harness/roles.rs"]
#[allow(dead_code)]
pub mod roles;
#[path = "../../cluster/harness/temporal.rs"]
#[allow(dead_code)]
pub mod temporal;
#[path = "../../cluster/harness/test.rs"]
#[allow(dead_code)]
pub mod test;
#[path = "../../cluster/harness/tools.rs"]
mod tools;
#[path = "../../cluster/harness/wait.rs"]
pub mod wait;

pub use agent_log::Tick;
pub use api_proxy::ApiProxy;
pub use job::{Job, agent};
pub use koco::api::{AgentJob, DesiredState, ExecutionMode, Phase};
pub use kubelet::Kubelet;
pub use node::Node;
pub use roles::{Role, Roles, Server};
pub use runner::Runner;
pub use service::Service;
pub use temporal::TemporalServer;
pub use test::Test;
pub use wait::{DEADLINE, within};

/// Both modes, for what works the same in both.
pub const MODES: [ExecutionMode; 2] = ExecutionMode::ALL;
