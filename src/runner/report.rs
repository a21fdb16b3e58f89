//! Reports the agent's end: first as the container's termination message, then to the gateway. Called by
//! [`super::supervisor`] last.

use std::time::{Duration, Instant};

use reqwest::StatusCode;
use tokio::{sync::mpsc, time::sleep};

use super::{
    gateway::{Gateway, GatewayError},
    identity::Identity,
    link::{Incoming, backoff},
    log::{causes, say},
};
use crate::protocol::{
    runner::{AgentEnd, ControlMessage, EndReport, cut_result, shorten},
    termination::SignError,
};

/// How long to retry: the agent was not started; the termination message has the whole end; it lacks the result.
const LIMIT_NOT_STARTED: Duration = Duration::from_secs(5);
const LIMIT: Duration = Duration::from_secs(60);
const LIMIT_RESULT_OMITTED: Duration = Duration::from_secs(15 * 60);

/// The signed termination message, and the end that it tells of: shortened until the message has at most `limit` bytes.
pub fn termination_message(
    ending: &AgentEnd,
    identity: &Identity,
    limit: usize,
) -> Result<(String, AgentEnd), SignError> {
    let mut short = ending.clone();
    loop {
        let message = identity.sign(&short)?;
        if message.len() <= limit {
            return Ok((message, short));
        }
        match (&mut short.result, &mut short.error) {
            (Some(result), _) if !short.result_omitted => {
                *result = cut_result(result, 0);
                short.result_omitted = true;
            }
            // Escaping may turn one byte into six.
            (_, Some(error)) if error.message.len() > 8 => {
                let length = error.message.len();
                shorten(&mut error.message, length * 3 / 4);
            }
            _ => return Ok((message, short)),
        }
    }
}

/// Sends the report until it is recorded, refused for good, or the limit is over. `omitted`: whether the termination
/// message lacks the result.
pub async fn deliver(
    gateway: &Gateway,
    report: &EndReport,
    omitted: bool,
    incoming: &mut mpsc::UnboundedReceiver<Incoming>,
) {
    let limit = match (omitted, report.end.started) {
        (true, _) => LIMIT_RESULT_OMITTED,
        (false, true) => LIMIT,
        (false, false) => LIMIT_NOT_STARTED,
    };
    let report = async || gateway.report_end(report).await;
    retry(report, limit, &Monotonic, incoming).await;
}

/// The time of [`retry`].
trait Clock {
    fn now(&self) -> Instant;
    async fn sleep(&self, wait: Duration);
}

struct Monotonic;

impl Clock for Monotonic {
    fn now(&self) -> Instant {
        Instant::now()
    }

    async fn sleep(&self, wait: Duration) {
        sleep(wait).await;
    }
}

async fn retry(
    mut report: impl AsyncFnMut() -> Result<(), GatewayError>,
    limit: Duration,
    clock: &impl Clock,
    incoming: &mut mpsc::UnboundedReceiver<Incoming>,
) {
    let until = clock.now() + limit;
    let (mut waits, mut failing) = (backoff(), false);
    loop {
        tokio::select! {
            answer = report() => match answer {
                Ok(()) => return say(format_args!("the end is reported")),
                Err(error) if error.is_final() || error.is(&[StatusCode::CONFLICT]) => {
                    return say(format_args!("the report is refused: {error}"));
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        say(format_args!("the end is not reported yet: {}", causes(&error)));
                    }
                }
            },
            () = gone(incoming) => return say(format_args!("the job has ended, the report is dropped")),
        }
        if clock.now() >= until {
            return say(format_args!("the end is not reported; it is in the termination message"));
        }
        tokio::select! {
            () = clock.sleep(waits.next().unwrap_or_default()) => {}
            () = gone(incoming) => return say(format_args!("the job has ended, the report is dropped")),
        }
    }
}

/// Waits until the gateway says that the job has ended. Other messages are ignored.
pub async fn gone(incoming: &mut mpsc::UnboundedReceiver<Incoming>) {
    loop {
        match incoming.recv().await {
            Some(Incoming::Gone(_) | Incoming::Message(ControlMessage::Stop { .. })) => return,
            Some(_) => {}
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use serde_json::json;

    use super::*;
    use crate::runner::ending::not_started;

    /// It only goes on while somebody sleeps.
    struct Slept(Instant, Cell<Duration>);

    impl Clock for Slept {
        fn now(&self) -> Instant {
            self.0 + self.1.get()
        }

        async fn sleep(&self, wait: Duration) {
            self.1.set(self.1.get() + wait);
        }
    }

    /// How often it is reported, and for how long, with these answers and then no other than that it may pass.
    async fn reported(limit: Duration, answers: &[u16], incoming: Option<Incoming>) -> (usize, Duration) {
        let (clock, mut tries) = (Slept(Instant::now(), Cell::default()), 0);
        let (tell, mut told) = mpsc::unbounded_channel();
        incoming.into_iter().for_each(|news| tell.send(news).unwrap());
        let report = async || {
            tries += 1;
            assert!(tries < 10_000, "for ever");
            match StatusCode::from_u16(answers.get(tries - 1).copied().unwrap_or(503)).unwrap() {
                StatusCode::NO_CONTENT => Ok(()),
                status => Err(GatewayError::Refused { status, message: "no".into() }),
            }
        };
        retry(report, limit, &clock, &mut told).await;
        (tries, clock.1.get())
    }

    #[tokio::test]
    async fn an_end_that_nobody_takes_is_reported_for_a_while_and_then_no_more() {
        for limit in [LIMIT_NOT_STARTED, LIMIT, LIMIT_RESULT_OMITTED] {
            let (tries, passed) = reported(limit, &[], None).await;
            assert!(passed >= limit && passed <= limit + Duration::from_secs(5), "{passed:?} of {limit:?}");
            assert!(tries > 3 && tries < 10 + limit.as_secs() as usize, "{tries} in {limit:?}");
        }
    }

    #[tokio::test]
    async fn an_end_is_reported_until_it_is_recorded_or_refused_for_good() {
        for last in [204, 403, 404, 409, 410] {
            assert_eq!(reported(LIMIT, &[503, 429, last], None).await.0, 3, "{last}");
        }
        let gone = Incoming::Gone("the run is closed".into());
        assert!(reported(LIMIT, &[], Some(gone)).await.1 < LIMIT);
    }

    #[test]
    fn a_termination_message_always_fits() {
        let identity = Identity::generate().unwrap();
        for limit in [1024, 3072, 4096] {
            let mut ending = not_started("no");
            let short = |ending: &AgentEnd| {
                let (message, short) = termination_message(ending, &identity, limit).unwrap();
                assert!(message.len() <= limit, "{}", message.len());
                assert!(message.contains(&serde_json::to_string(&short).unwrap()));
                short
            };
            assert_eq!(short(&ending), ending);

            ending.result = Some(json!("x".repeat(5000)));
            let cut = short(&ending);
            assert!(cut.result_omitted);
            assert_eq!(cut.result.unwrap()["size"], json!(5002));
            assert_eq!(cut.error, ending.error);

            for message in ["\u{1}".repeat(2048), "é".repeat(1024), "\"\\".repeat(4000)] {
                ending.error.as_mut().unwrap().message = message;
                assert!(short(&ending).error.unwrap().message.len() > 50);
            }
        }
    }
}
