//! What the tests stand on: a namespace, an operator and, where a test disturbs it, a Temporal server each of their own,
//! in the dev cluster that is up. Nothing here waits by the clock: everything waits for what is to be seen, with a deadline.
//!
//! `tests/api` uses these files, too, all but `cluster` and `node`: it has no node, and knows itself where things are.

#[allow(dead_code)] // tests/api asks more
pub mod audit;
pub mod chart;
pub mod cluster;
mod dump;
pub mod evidence;
pub mod job;
pub mod node;
pub mod process;
pub mod roles;
pub mod speaker;
pub mod temporal;
pub mod test;
mod tools;
pub mod wait;

pub use evidence::{Tick, ticks};
pub use job::{Job, agent};
pub use koco::api::{AgentJob, DesiredState, ExecutionMode, Phase};
pub use roles::{Roles, Server};
pub use temporal::TemporalServer;
pub use test::Test;
pub use wait::{DEADLINE, within};

/// Both modes, for what works the same in both.
pub const MODES: [ExecutionMode; 2] = [ExecutionMode::Direct, ExecutionMode::Temporal];

/// As it is written in the resource.
pub fn word(mode: ExecutionMode) -> &'static str {
    match mode {
        ExecutionMode::Direct => "Direct",
        ExecutionMode::Temporal => "Temporal",
    }
}
