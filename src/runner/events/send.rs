//! Sends events to the gateway as [`Delivery`] decides. Runs on the thread of [`super`], until the runner's end.

use std::{sync::Arc, time::Duration};

use reqwest::StatusCode;
use tokio::{sync::watch, time::sleep};

use super::{
    Phase,
    delivery::{Answer, Delivery, Follow, Step},
    recorder::Recorder,
};
use crate::{
    protocol::events::Batch,
    runner::{
        gateway::{Gateway, GatewayError},
        log::{causes, say},
    },
};

/// What has become of the events so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The last number that is stored.
    pub stored: u64,
    /// Whether no more are taken.
    pub closed: bool,
}

/// Sends events until none is taken any more.
pub async fn run(
    recorder: Arc<Recorder>,
    gateway: Gateway,
    mut phase: watch::Receiver<Phase>,
    progress: watch::Sender<Progress>,
) {
    let mut delivery = Delivery::new();
    let mut failing = false;
    loop {
        if *phase.borrow_and_update() == Phase::Ended {
            delivery.finish();
        }
        // Before it is looked at, so that nothing that comes then is missed.
        let woken = recorder.wake.notified();
        match delivery.step(recorder.now(), &recorder.backlog()) {
            Step::Closed => return,
            Step::Wait(until) => {
                let wait = until.map(|until| until.saturating_sub(recorder.now()));
                tokio::select! {
                    () = woken => {}
                    () = pause(wait) => {}
                    Ok(()) = phase.changed() => {}
                }
            }
            Step::Send { from, count, oldest } => match recorder.read(from, count) {
                Err(lost) => {
                    say(format_args!("events {from} to {} can't be read again and are lost", lost.through));
                    recorder.lose(lost.through, lost.through.saturating_sub(from) + 1);
                    delivery.skip(lost.through);
                }
                Ok((lines, count)) => {
                    delivery.sent(from, from + count - 1);
                    let answer = post(&gateway, Batch { from, oldest }, lines, &mut failing).await;
                    follow(delivery.answered(recorder.now(), jitter(), answer), &recorder);
                    recorder.set_stored(delivery.stored());
                    let now = Progress { stored: delivery.stored(), closed: answer == Answer::Gone };
                    progress.send_if_modified(|before| std::mem::replace(before, now) != now);
                }
            },
        }
    }
}

fn follow(follow: Follow, recorder: &Recorder) {
    match follow {
        Follow::Nothing => {}
        Follow::Forget(through) => recorder.forget(through),
        Follow::LeaveOut(number) => {
            say(format_args!("event {number} is refused and left out"));
            recorder.lose(number, 1);
        }
        Follow::Close => recorder.close(),
    }
}

async fn post(gateway: &Gateway, batch: Batch, lines: Vec<u8>, failing: &mut bool) -> Answer {
    let (answer, why) = match gateway.events(batch, lines).await {
        Ok(stored) => (Answer::Stored(stored.stored), None),
        Err(error) => (answer(&error), Some(causes(&error))),
    };
    // One line for each outage.
    if let Some(why) = why
        && !std::mem::replace(failing, answer != Answer::Gone)
    {
        say(format_args!("events are not taken: {why}"));
    }
    *failing &= !matches!(answer, Answer::Stored(_));
    answer
}

fn answer(error: &GatewayError) -> Answer {
    if error.is(&[StatusCode::GONE]) {
        Answer::Gone
    } else if error.is(&[StatusCode::BAD_REQUEST, StatusCode::PAYLOAD_TOO_LARGE, StatusCode::UNPROCESSABLE_ENTITY]) {
        Answer::Refused
    } else {
        Answer::Unavailable
    }
}

async fn pause(wait: Option<Duration>) {
    match wait {
        Some(wait) => sleep(wait).await,
        None => std::future::pending().await,
    }
}

/// From 0 to 1.
fn jitter() -> f64 {
    getrandom::u32().map_or(0.5, |number| f64::from(number) / f64::from(u32::MAX))
}
