//! An agent's progress, as its runner reports it, on its way into the run's status: at most once a minute for each run, and
//! so often a second for the whole installation. Pure: from the status, the report and the time. A report that is not
//! written comes again with the next heartbeat.

use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use parking_lot::Mutex;

use crate::{
    api::{AgentProgress, AgentRunStatus, MAX_PROGRESS_MESSAGE_BYTES},
    lifecycle,
    platform::http::limits::TokenBucket,
    protocol::runner::{Progress, cut_text},
};

/// How long a run's progress isn't written again.
const EVERY: Duration = Duration::from_secs(60);
/// How many reports all gateways together write: at once, and a second.
const WRITES: (u32, f64) = (10, 10.0);

/// What is recorded of a report: within limits, and without taking back what was used.
fn recorded(status: &AgentRunStatus, said: &Progress, now: &Time) -> AgentProgress {
    let known = AgentProgress::usage_of(status.progress.as_ref());
    AgentProgress {
        percent: said.percent.map(|percent| percent.clamp(0, 100)),
        message: said.message.as_ref().map(|message| cut_text(message, MAX_PROGRESS_MESSAGE_BYTES)),
        usage: known.at_least(said.usage),
        time: now.clone(),
    }
}

/// Whether a report says something new, and the last one was written long enough ago.
pub fn is_due(status: &AgentRunStatus, said: &Progress, now: &Time) -> bool {
    status.progress.as_ref().is_none_or(|known| {
        let new = recorded(status, said, &known.time);
        new != *known && lifecycle::elapsed(&known.time, now) >= EVERY
    })
}

/// Records a report.
pub fn record(status: &mut AgentRunStatus, said: &Progress, now: &Time) {
    status.progress = Some(recorded(status, said, now));
}

/// The limit of all gateways together: each keeps its share.
pub struct Writes(Mutex<TokenBucket>);

impl Default for Writes {
    fn default() -> Self {
        Self(Mutex::new(TokenBucket::new(WRITES.0, WRITES.1, Instant::now())))
    }
}

impl Writes {
    /// Whether this one of so many gateways may write a report now. With more than ten, each may write one a second.
    pub fn take(&self, gateways: u32, now: Instant) -> bool {
        self.0.lock().take_many(f64::from(gateways.max(1)), now).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;

    use super::*;
    use crate::api::Usage;

    fn at(second: i64) -> Time {
        Time(Timestamp::from_second(second).unwrap())
    }

    fn said(percent: i32, input_tokens: i64) -> Progress {
        let usage = Usage { input_tokens, ..Usage::default() };
        Progress { percent: Some(percent), message: None, usage }
    }

    #[test]
    fn a_report_is_written_once_a_minute_if_it_is_news() {
        let mut status = AgentRunStatus::default();
        assert!(is_due(&status, &said(1, 0), &at(0)));
        record(&mut status, &said(1, 5), &at(0));
        assert!(!is_due(&status, &said(2, 5), &at(59)));
        assert!(is_due(&status, &said(2, 5), &at(60)));
        assert!(!is_due(&status, &said(1, 5), &at(1000)), "the same");
        assert!(!is_due(&status, &said(1, 4), &at(1000)), "less was used than is known");
        assert!(!is_due(&status, &said(2, 5), &at(-1000)), "by a clock that is behind");
    }

    #[test]
    fn what_is_recorded_keeps_to_limits_whatever_a_runner_says() {
        let mut status = AgentRunStatus::default();
        let long = Progress { message: Some("é".repeat(1000)), ..said(5000, -7) };
        record(&mut status, &long, &at(1));
        let known = status.progress.clone().unwrap();
        assert_eq!((known.percent, known.usage, known.message.unwrap().len()), (Some(100), Usage::default(), 256));
        record(&mut status, &said(-1, 9), &at(2));
        record(&mut status, &said(3, 2), &at(3));
        let known = status.progress.unwrap();
        assert_eq!((known.percent, known.usage.input_tokens, known.time), (Some(3), 9, at(3)));
    }

    #[test]
    fn all_gateways_together_write_ten_reports_a_second() {
        let written = |gateways: u32, seconds: u64| {
            let start = Instant::now();
            let all: Vec<_> = (0..gateways).map(|_| Writes::default()).collect();
            let times = (0..seconds * 100).map(|n| start + Duration::from_millis(n * 10));
            times.map(|now| all.iter().filter(|writes| writes.take(gateways, now)).count()).sum::<usize>()
        };
        for gateways in [1, 2, 5, 10] {
            let (burst, all) = (written(gateways, 0), written(gateways, 20));
            assert!(burst == 0 && (190..=220).contains(&all), "{gateways}: {all}");
        }
    }
}
