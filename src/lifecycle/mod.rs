//! The life cycle of a job, the same for both modes: what the end of a run means, when the next one may start, what is
//! recorded of an end. Pure functions of their arguments: no I/O, no clock, no iteration over hash maps, because
//! workflows are replayed with them. Used by the worker's workflow, and in Direct mode by the controller.

mod direct;
mod progress;
mod termination;

pub use direct::{AfterRun, Upcoming, after_run, upcoming};
pub use progress::{Ended, Next, Policy, back_off_left, begin, grant, next_attempt, run_ended, start_failed};
pub use termination::{
    active, claimed, duration_text, elapsed, end_of, given_up, koco, lingers, observed, result_of, spent, time_left,
    usage, vanished,
};
