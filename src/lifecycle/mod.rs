//! The life cycle of a job, the same for both modes: what the end of a run means, when the next one may start, what is
//! recorded of an end. Pure functions of their arguments: no I/O, no clock, no order of a hash map, because a workflow is
//! replayed with them. The worker's workflow drives them, and in Direct mode the controller does.

mod direct;
mod progress;
mod termination;

pub use direct::{AfterRun, Upcoming, after_run, upcoming};
pub use progress::{Ended, Next, Policy, back_off_left, begin, grant, next_attempt, run_ended, start_failed};
pub use termination::{claimed, duration_text, end_of, given_up, koco, observed};
