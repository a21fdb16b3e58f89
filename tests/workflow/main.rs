//! The `AgentWorkflow` on a real Temporal server, with a simulated cluster: retries, adoption, pause, resume, cancel, evict,
//! continue-as-new. Needs TEMPORAL_ADDRESS: `deploy/dev/enter cargo test --test workflow`.
//!
//! With KOCO_RECORD_HISTORIES=1 each test leaves its history in tests/histories, for tests/replay.rs (`make
//! record-histories`, after a change that running workflows needn't survive, or for a case that is new).

mod control;
mod long;
mod retries;
mod world;
