//! What processes use for jobs, less what they use without.

use std::time::{Duration, Instant};

use crate::{
    figures::{difference, less_idle},
    usage::{PerProcess, Processes},
};

/// Counts from the moment it is there.
pub struct Meter<'p> {
    processes: &'p Processes,
    idle: PerProcess,
    idle_millis: f64,
    start: PerProcess,
    since: Instant,
}

impl<'p> Meter<'p> {
    /// Measures so long what is used without jobs.
    pub async fn start(processes: &'p Processes, idle: Duration) -> Self {
        let (began, before) = (Instant::now(), processes.cpu());
        tokio::time::sleep(idle).await;
        let (since, start) = (Instant::now(), processes.cpu());
        let idle_millis = (since - began).as_secs_f64() * 1000.0;
        Self { processes, idle: difference(&before, &start), idle_millis, start, since }
    }

    /// Milliseconds that each has used, idle subtracted.
    pub fn used(&self) -> PerProcess {
        let used = difference(&self.start, &self.processes.cpu());
        less_idle(&used, self.since.elapsed().as_secs_f64() * 1000.0, &self.idle, self.idle_millis)
    }

    /// Milliseconds a second that each uses without jobs.
    pub fn idle(self) -> PerProcess {
        self.idle.into_iter().map(|(name, cpu)| (name, cpu / self.idle_millis * 1000.0)).collect()
    }
}
