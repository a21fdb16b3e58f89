//! Tests of the roles against a real API server and a real Temporal, without a node: pods and runners are simulated.
//! What is real: koco's processes, every write and watch, admission, garbage collection, tokens, TLS, workflows. What
//! is not: that anything runs.
//!
//! Run with `make api-test`, or `make api-test ARGS=admission::`; see [`harness`].

mod admission;
mod api_server;
mod archive;
mod at_rest;
mod audit;
mod bad_cases;
mod blast_radius;
mod clocks;
mod encryption;
mod events;
mod flood;
mod forged;
mod frozen_temporal;
mod gitops;
mod harness;
mod held;
mod injected;
mod kodosumi;
mod large_result;
mod large_template;
mod leader;
mod life;
mod lost_gateway;
mod lost_node;
mod memory;
mod metrics;
mod network;
mod new_leader;
mod no_worker;
mod operations;
mod owner;
mod panel;
mod paused_early;
mod plugin;
mod plugin_archive;
mod progress;
mod repair;
mod reset;
mod rights;
mod settings;
mod templates;
mod tenants;
mod terminal;
mod tracing;
mod unseen_pod;
mod wrong_temporal;
mod zombie;
