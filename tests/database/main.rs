//! The database's tests: each runs on SQLite and on a real PostgreSQL, which `tests/database/run` starts. Run with
//! `make database-test`.

mod backup;
mod crash;
mod events;
mod executions;
mod full;
mod harness;
mod opening;
mod retention;
mod runs;
mod search;
mod silence;
