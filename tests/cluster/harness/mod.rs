//! The fixture of a test: a namespace, an operator and, where a test disturbs it, a Temporal server each of its own,
//! in the dev cluster that is up. Nothing here waits by the clock: everything waits for conditions, with a deadline.
//!
//! `tests/soak` uses these files, too, and `tests/api` all but `cluster` and `node`: it has no node, and finds the
//! servers itself.

pub mod agent_log;
#[allow(dead_code)] // tests/api uses more
pub mod archive;
#[allow(dead_code)] // tests/api uses more
pub mod audit;
pub mod cable;
pub mod chart;
pub mod cluster;
mod dump;
pub mod gateway_client;
pub mod job;
pub mod life;
#[allow(dead_code)] // tests/soak uses more
pub mod node;
mod postgres;
#[allow(dead_code)] // tests/soak uses more
pub mod process;
pub mod roles;
pub mod temporal;
pub mod test;
mod tools;
#[allow(dead_code)] // tests/soak fills none
pub mod volume;
pub mod wait;

pub use agent_log::{Tick, ticks};
pub use cable::Cable;
pub use job::{Job, agent};
pub use koco::api::{AgentJob, DesiredState, ExecutionMode, Phase};
pub use roles::{Roles, Server};
pub use temporal::TemporalServer;
pub use test::Test;
pub use wait::{DEADLINE, within};

/// Both modes, for tests of both.
pub const MODES: [ExecutionMode; 2] = ExecutionMode::ALL;
