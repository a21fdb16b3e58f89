//! The delivery of the outcome: first into the container's termination message, then to the gateway. Called by
//! [`super::supervisor`] when all is over.

use std::time::{Duration, Instant};

use reqwest::StatusCode;
use tokio::{sync::mpsc, time::sleep};

use super::{
    ending::cut,
    gateway::Gateway,
    link::{Incoming, patience},
    log::{causes, say},
};
use crate::protocol::runner::{Ending, Order, cut_result};

/// What the kubelet reads of a termination message.
const MAX_TERMINATION_BYTES: usize = 4096;

/// How long to try: nothing had started yet, or the termination message says the same, or it lacks the result.
const PATIENCE_FOR_NOTHING: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(60);
const PATIENCE_FOR_RESULT: Duration = Duration::from_secs(15 * 60);

/// The termination message: as much of the ending as fits.
pub fn termination_message(ending: &Ending) -> Vec<u8> {
    let mut short = ending.clone();
    loop {
        let text = serde_json::to_vec(&short).unwrap_or_default();
        if text.len() <= MAX_TERMINATION_BYTES {
            return text;
        }
        match (&mut short.result, &mut short.error) {
            (Some(result), _) if !short.result_omitted => {
                *result = cut_result(result, 0);
                short.result_omitted = true;
            }
            // Escaped, a character may take six bytes for its one.
            (_, Some(error)) if error.message.len() > 8 => {
                let length = error.message.len();
                cut(&mut error.message, length * 3 / 4);
            }
            _ => return text,
        }
    }
}

/// Repeats the outcome, with the highest command carried out, until it is taken, refused for good, or not worth the wait.
pub async fn deliver(
    gateway: &Gateway,
    ending: &Ending,
    seq: i64,
    omitted: bool,
    incoming: &mut mpsc::UnboundedReceiver<Incoming>,
) {
    let until = Instant::now()
        + match (omitted, ending.started) {
            (true, _) => PATIENCE_FOR_RESULT,
            (false, true) => PATIENCE,
            (false, false) => PATIENCE_FOR_NOTHING,
        };
    let (mut waits, mut trouble) = (patience(), false);
    loop {
        tokio::select! {
            answer = gateway.outcome(ending, seq) => match answer {
                Ok(()) => return say(format_args!("the outcome is delivered")),
                Err(error) if error.is_final() || error.is(&[StatusCode::CONFLICT]) => {
                    return say(format_args!("nobody wants the outcome: {error}"));
                }
                Err(error) => {
                    if !std::mem::replace(&mut trouble, true) {
                        say(format_args!("the outcome is not delivered yet: {}", causes(&error)));
                    }
                }
            },
            () = gone(incoming) => return say(format_args!("the job is over, the outcome is not delivered")),
        }
        if Instant::now() >= until {
            return say(format_args!("the outcome is not delivered; it is in the termination message"));
        }
        tokio::select! {
            () = sleep(waits.next().unwrap_or_default()) => {}
            () = gone(incoming) => return say(format_args!("the job is over, the outcome is not delivered")),
        }
    }
}

/// Waits until the gateway says that nobody waits for an outcome any more. Other orders come too late.
async fn gone(incoming: &mut mpsc::UnboundedReceiver<Incoming>) {
    loop {
        match incoming.recv().await {
            Some(Incoming::Gone(_) | Incoming::Order(Order::Stop { .. })) => return,
            Some(_) => {}
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::runner::ending::not_started;

    #[test]
    fn a_termination_message_fits_whatever_it_has_to_say() {
        let mut ending = not_started("no");
        assert_eq!(serde_json::from_slice::<Ending>(&termination_message(&ending)).unwrap(), ending);

        ending.result = Some(json!("x".repeat(5000)));
        let short: Ending = serde_json::from_slice(&termination_message(&ending)).unwrap();
        assert!(short.result_omitted);
        assert_eq!(short.result.unwrap()["size"], json!(5002));
        assert_eq!(short.error, ending.error);

        for message in ["\u{1}".repeat(2048), "é".repeat(1024), "\"\\".repeat(4000)] {
            ending.error.as_mut().unwrap().message = message;
            let text = termination_message(&ending);
            assert!(text.len() <= MAX_TERMINATION_BYTES, "{}", text.len());
            assert!(text.len() > 2000);
            serde_json::from_slice::<Ending>(&text).unwrap();
        }
    }
}
