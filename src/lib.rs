//! koco runs AI agents as jobs on Kubernetes, with durable execution by Temporal.
//!
//! The layout is the architecture. Each layer may use those to its right, never the other way round:
//!
//! `cli > {controller, worker, gateway, server, runner} > audit > {pods, temporal, database} > runs > {platform, lifecycle} > protocol > api`
//!
//! The five roles never use each other: they meet in AgentRuns, in Temporal and in [`protocol`].
//! `tests/contract` checks these rules against the source.

pub mod api;
pub mod audit;
pub mod cli;
pub mod controller;
pub mod database;
pub mod gateway;
pub mod lifecycle;
pub mod platform;
pub mod pods;
pub mod protocol;
pub mod runner;
pub mod runs;
pub mod server;
pub mod temporal;
pub mod worker;

#[cfg(test)]
#[path = "../tests/fuzz/common.rs"]
mod fuzz;
