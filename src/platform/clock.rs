//! The API server's time. Roles write times into objects and compare them with those that the API server and other
//! roles wrote, and any of their machines' clocks may be hours off. So each role's client measures its own clock's
//! difference from the `Date` of the API server's responses, and times that are written or compared come from
//! [`now`]. Used by the roles; durations within one process are measured with `Instant`.

use std::{
    pin::Pin,
    sync::atomic::{AtomicI64, Ordering},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use axum::http::{HeaderMap, Request, Response, header::DATE};
use k8s_openapi::jiff::{SignedDuration, Timestamp, fmt::rfc2822};
use tower::{Layer, Service};

/// A response that took longer says too little about the time: the process may have been suspended.
const FRESH: Duration = Duration::from_secs(2);
/// Differences up to this are none: `Date` has whole seconds, and a response takes its time.
const TOLERANCE: i64 = 3;

static CLOCK: Clock = Clock { ahead: AtomicI64::new(0) };

/// Now, by the API server's clock; by this machine's own until the first response.
pub fn now() -> Timestamp {
    CLOCK.correct(machine())
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

/// How many seconds the API server's clock is ahead of this machine's.
pub struct Clock {
    ahead: AtomicI64,
}

impl Clock {
    fn correct(&self, local: Timestamp) -> Timestamp {
        let ahead = SignedDuration::from_secs(self.ahead.load(Ordering::Relaxed));
        local.checked_add(ahead).unwrap_or(local)
    }

    /// Learns from a response's headers, which came `took` after the request.
    fn learn(&self, headers: &HeaderMap, took: Duration, local: Timestamp) {
        if took > FRESH {
            return;
        }
        let date = headers.get(DATE).and_then(|d| d.to_str().ok());
        let Some(date) = date.and_then(|d| rfc2822::DateTimeParser::new().parse_timestamp(d).ok()) else { return };
        let (ahead, known) = (date.as_second() - local.as_second(), self.ahead.load(Ordering::Relaxed));
        let ahead = if ahead.abs() <= TOLERANCE { 0 } else { ahead };
        if (ahead - known).abs() > TOLERANCE {
            self.ahead.store(ahead, Ordering::Relaxed);
            tracing::warn!(seconds = ahead, "the API server's clock is ahead of this machine's: its time is used");
        } else if ahead == 0 {
            self.ahead.store(0, Ordering::Relaxed);
        }
    }
}

/// The layer of a Kubernetes client that reads the API server's clock.
#[derive(Clone, Copy)]
pub struct ReadClock(&'static Clock);

/// The layer that reads the clock for [`now`].
pub fn reader() -> ReadClock {
    ReadClock(&CLOCK)
}

impl<S> Layer<S> for ReadClock {
    type Service = Reader<S>;

    fn layer(&self, inner: S) -> Reader<S> {
        Reader { inner, clock: self.0 }
    }
}

/// The service of [`ReadClock`].
#[derive(Clone)]
pub struct Reader<S> {
    inner: S,
    clock: &'static Clock,
}

impl<S, A, B> Service<Request<A>> for Reader<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let (asked, clock, response) = (Instant::now(), self.clock, self.inner.call(request));
        Box::pin(async move {
            let response = response.await?;
            clock.learn(response.headers(), asked.elapsed(), machine());
            Ok(response)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATE_SENT: &str = "Wed, 25 Nov 2026 21:27:00 GMT";

    fn hours(hours: i64) -> Timestamp {
        let sent: Timestamp = "2026-11-25T21:27:00Z".parse().unwrap();
        sent.checked_add(SignedDuration::from_hours(hours)).unwrap()
    }

    fn heard(clock: &Clock, date: &'static str, took: Duration, local: Timestamp) -> Timestamp {
        let mut headers = HeaderMap::new();
        headers.insert(DATE, date.parse().unwrap());
        clock.learn(&headers, took, local);
        clock.correct(local)
    }

    #[test]
    fn a_clock_that_is_hours_off_tells_the_api_servers_time() {
        for off in [-48, -3, 3, 48] {
            let clock = Clock { ahead: AtomicI64::new(0) };
            assert_eq!(heard(&clock, DATE_SENT, Duration::ZERO, hours(off)), hours(0), "{off} hours");
            // The clock is set right.
            assert_eq!(heard(&clock, DATE_SENT, Duration::ZERO, hours(0)), hours(0));
        }
    }

    #[test]
    fn a_response_from_before_a_suspension_tells_nothing() {
        let clock = Clock { ahead: AtomicI64::new(0) };
        assert_eq!(heard(&clock, DATE_SENT, Duration::from_secs(3600), hours(1)), hours(1));
        assert_eq!(heard(&clock, "yesterday", Duration::ZERO, hours(1)), hours(1));
    }

    #[test]
    fn a_response_that_took_a_moment_moves_nothing() {
        let clock = Clock { ahead: AtomicI64::new(0) };
        let late = hours(0).checked_add(SignedDuration::from_secs(2)).unwrap();
        assert_eq!(heard(&clock, DATE_SENT, Duration::from_secs(2), late), late);
    }

    #[tokio::test]
    async fn a_client_reads_the_clock() {
        let answer = |_: Request<()>| async { Response::builder().header(DATE, DATE_SENT).body(()) };
        static OTHER: Clock = Clock { ahead: AtomicI64::new(0) };
        let mut client = ReadClock(&OTHER).layer(tower::service_fn(answer));
        client.call(Request::new(())).await.unwrap();
        let apart = OTHER.correct(Timestamp::now()).duration_since(hours(0)).abs();
        assert!(apart < SignedDuration::from_mins(1), "{apart:?}");
    }
}
