//! The API server's time. Roles write times into objects and compare them with those that the API server and other
//! roles wrote, and any of their machines' clocks may be hours off, or be stepped at any moment. So each role's client
//! reads the `Date` of the API server's responses, and [`now`] is that time and what has passed since by the monotonic
//! clock. Times that are written or compared come from it. Used by the roles; durations within one process are measured
//! with `Instant`.

use std::time::{Duration, Instant};

use http::{HeaderMap, Method, StatusCode, Uri, header::DATE};
use k8s_openapi::jiff::{SignedDuration, Timestamp, fmt::rfc2822};
use parking_lot::RwLock;

use super::answers::{Observed, Observer};

/// A response that took longer says too little about the time: the process may have been suspended.
const FRESH: Duration = Duration::from_secs(2);
/// Differences up to this are none: `Date` has whole seconds, and a response takes its time.
const TOLERANCE: i64 = 3;

static CLOCK: Clock = Clock::new();

/// Now, by the API server's clock; by this machine's own until the first response.
pub fn now() -> Timestamp {
    CLOCK.at(Instant::now()).unwrap_or_else(machine)
}

/// This machine's clock, which may be hours off: for what only this machine compares. A debug build adds the seconds in
/// the file that `KOCO_TEST_CLOCK` names, so that tests can step the clock of one role.
pub fn machine() -> Timestamp {
    let now = Timestamp::now();
    #[cfg(debug_assertions)]
    let now = now.checked_add(step()).unwrap_or(now);
    now
}

#[cfg(debug_assertions)]
fn step() -> SignedDuration {
    let file = std::env::var_os("KOCO_TEST_CLOCK");
    let text = file.and_then(|file| std::fs::read_to_string(file).ok()).unwrap_or_default();
    SignedDuration::from_secs(text.trim().parse().unwrap_or_default())
}

/// The API server's time at a moment, once it is known.
pub struct Clock {
    read: RwLock<Option<(Timestamp, Instant)>>,
}

impl Clock {
    const fn new() -> Self {
        Self { read: RwLock::new(None) }
    }

    fn at(&self, moment: Instant) -> Option<Timestamp> {
        let (time, read) = (*self.read.read())?;
        let passed = SignedDuration::try_from(moment.saturating_duration_since(read)).ok()?;
        time.checked_add(passed).ok()
    }

    /// Learns from a response's headers, which came at a moment, `took` after the request. `machine`: this machine's clock
    /// then.
    fn learn(&self, headers: &HeaderMap, took: Duration, machine: Timestamp, moment: Instant) {
        if took > FRESH {
            return;
        }
        let date = headers.get(DATE).and_then(|d| d.to_str().ok());
        let Some(date) = date.and_then(|d| rfc2822::DateTimeParser::new().parse_timestamp(d).ok()) else { return };
        let apart = |from: Timestamp| date.as_second() - from.as_second();
        let known = self.at(moment);
        if known.is_some_and(|known| apart(known).abs() <= TOLERANCE) {
            return;
        }
        let ahead = apart(machine);
        // The machine's clock has fractions of seconds.
        let time = if ahead.abs() <= TOLERANCE { machine } else { date };
        *self.read.write() = Some((time, moment));
        if known.is_some() || time == date {
            tracing::warn!(seconds = ahead, "the API server's clock is ahead of this machine's: its time is used");
        }
    }
}

/// The layer of a Kubernetes client that reads the clock for [`now`].
pub fn reader() -> Observed<&'static Clock> {
    Observed(&CLOCK)
}

impl Observer for &'static Clock {
    type Asked = Instant;

    fn asked(&self, _: &Method, _: &Uri) -> Instant {
        Instant::now()
    }

    fn answered(&self, asked: Instant, answer: Option<(StatusCode, &HeaderMap)>) {
        if let Some((_, headers)) = answer {
            self.learn(headers, asked.elapsed(), machine(), Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};
    use tower::{Layer, Service};

    use super::*;

    const DATE_SENT: &str = "Wed, 25 Nov 2026 21:27:00 GMT";

    fn hours(hours: i64) -> Timestamp {
        let sent: Timestamp = "2026-11-25T21:27:00Z".parse().unwrap();
        sent.checked_add(SignedDuration::from_hours(hours)).unwrap()
    }

    fn heard(clock: &Clock, date: &'static str, took: Duration, machine: Timestamp) -> Option<Timestamp> {
        let (mut headers, now) = (HeaderMap::new(), Instant::now());
        headers.insert(DATE, date.parse().unwrap());
        clock.learn(&headers, took, machine, now);
        clock.at(now)
    }

    #[test]
    fn a_clock_that_is_hours_off_tells_the_api_servers_time() {
        for off in [-48, -3, 0, 3, 48] {
            assert_eq!(heard(&Clock::new(), DATE_SENT, Duration::ZERO, hours(off)), Some(hours(0)), "{off} hours");
        }
    }

    /// A reconcile between the step and the next response would find each time limit exceeded.
    #[test]
    fn a_clock_that_is_stepped_moves_nothing() {
        let clock = Clock::new();
        heard(&clock, DATE_SENT, Duration::ZERO, hours(0));
        let later = Instant::now() + Duration::from_secs(60);
        let passed = clock.at(later).unwrap().duration_since(hours(0));
        assert!((SignedDuration::from_secs(55)..SignedDuration::from_secs(62)).contains(&passed), "{passed:?}");
        let step = heard(&clock, DATE_SENT, Duration::ZERO, hours(3)).unwrap();
        assert!(step.duration_since(hours(0)) < SignedDuration::from_secs(5), "{step}");
    }

    /// The monotonic clock stands still while a machine is suspended.
    #[test]
    fn what_was_missed_is_learned_with_the_next_response() {
        let clock = Clock::new();
        heard(&clock, DATE_SENT, Duration::ZERO, hours(0));
        assert_eq!(heard(&clock, "Wed, 25 Nov 2026 23:27:00 GMT", Duration::ZERO, hours(2)), Some(hours(2)));
    }

    #[test]
    fn a_response_from_before_a_suspension_tells_nothing() {
        let clock = Clock::new();
        assert_eq!(heard(&clock, DATE_SENT, Duration::from_secs(3600), hours(1)), None);
        assert_eq!(heard(&clock, "yesterday", Duration::ZERO, hours(1)), None);
    }

    #[test]
    fn a_response_that_took_a_moment_moves_nothing() {
        let late = hours(0).checked_add(SignedDuration::from_secs(2)).unwrap();
        assert_eq!(heard(&Clock::new(), DATE_SENT, Duration::from_secs(2), late), Some(late));
    }

    #[tokio::test]
    async fn a_client_reads_the_clock() {
        let answer = |_: Request<()>| async { Response::builder().header(DATE, DATE_SENT).body(()) };
        static OTHER: Clock = Clock::new();
        let mut client = Observed(&OTHER).layer(tower::service_fn(answer));
        client.call(Request::new(())).await.unwrap();
        let apart = OTHER.at(Instant::now()).unwrap().duration_since(hours(0)).abs();
        assert!(apart < SignedDuration::from_mins(1), "{apart:?}");
    }
}
