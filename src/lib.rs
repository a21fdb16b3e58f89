//! koco runs AI agents as jobs on Kubernetes, with durable execution by Temporal.
//!
//! The layout is the architecture. Each layer may use those to its right, never the other way round:
//!
//! `cli > {controller, worker, gateway, server, runner} > audit > {pods, temporal, database} > runs > {platform, lifecycle, inputs_schema} > protocol > api`
//!
//! The five roles never use each other: they meet in AgentRuns, in Temporal and in [`protocol`].
//! `tests/contract` checks these rules against the source.
//!
//! Without the feature `operator` there is no role and no runner, but what the kubectl plugin stands on.

pub mod api;
pub mod audit;
pub mod cli;
#[cfg(feature = "operator")]
pub mod controller;
#[cfg(feature = "operator")]
pub mod database;
#[cfg(feature = "operator")]
pub mod gateway;
#[cfg(feature = "operator")]
pub mod inputs_schema;
pub mod lifecycle;
pub mod platform;
pub mod pods;
pub mod protocol;
#[cfg(feature = "operator")]
pub mod runner;
pub mod runs;
#[cfg(feature = "operator")]
pub mod server;
pub mod temporal;
#[cfg(feature = "operator")]
pub mod worker;

#[cfg(test)]
#[path = "../tests/fuzz/common.rs"]
mod fuzz;
