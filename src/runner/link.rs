//! The tasks that talk to the gateway: control messages, heartbeats, confirmations. Started by [`super::supervisor`],
//! each separately, so that none delays another or the control of the agent.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use reqwest::StatusCode;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout_at},
};

use super::{
    ending::FileContents,
    gateway::{Gateway, GatewayError},
    log::{causes, say},
};
use crate::{
    api::RunnerState,
    protocol::runner::{ControlMessage, Heartbeat, Job, Progress},
};

/// How many heartbeats may be in flight.
const HEARTBEATS: usize = 4;

/// The agent's state, and the highest command carried out.
pub type RunnerSnapshot = (RunnerState, i64);

/// A message from the gateway, or something new in the agent's progress file.
#[derive(Debug)]
pub enum Incoming {
    /// The response to the first registration.
    Job(Box<Job>),
    Message(ControlMessage),
    /// The agent's progress file, as it is now.
    Progress(FileContents<Vec<u8>>),
    /// The job has ended, or the run is another pod's; with the gateway's reason.
    Gone(String),
}

/// Endless exponential back-off, up to 5 s.
pub fn backoff() -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(100))
        // The jitter adds up to as much again.
        .with_max_delay(Duration::from_millis(2500))
        .without_max_times()
        .with_jitter()
        .build()
}

/// Registers and reads control messages, in a loop. Registering before each stream tells any gateway the current state.
pub async fn listen(gateway: Gateway, snapshot: watch::Receiver<RunnerSnapshot>, to: mpsc::UnboundedSender<Incoming>) {
    let (mut first, mut waits, mut failing) = (true, backoff(), false);
    loop {
        let now = *snapshot.borrow();
        match gateway.register(now, !first).await {
            Ok(job) => {
                if let Some(job) = job
                    && std::mem::take(&mut first)
                    && to.send(Incoming::Job(Box::new(job))).is_err()
                {
                    return;
                }
                let mut heard = false;
                let error = follow(&gateway, &to, &mut heard).await;
                if heard {
                    waits = backoff();
                    failing = false;
                }
                log_once(&mut failing, "the stream of control messages ended", error.as_ref());
            }
            // An agent that runs is only stopped if its run has ended. Any other refusal may pass, as when a gateway of
            // other settings or of another release has answered.
            Err(error) if error.is(&[StatusCode::GONE]) || (now.0 == RunnerState::Waiting && error.is_final()) => {
                drop(to.send(Incoming::Gone(error.to_string())));
                return;
            }
            Err(error) => log_once(&mut failing, "the gateway does not answer", Some(&error)),
        }
        sleep(waits.next().unwrap_or_default()).await;
    }
}

async fn follow(gateway: &Gateway, to: &mpsc::UnboundedSender<Incoming>, heard: &mut bool) -> Option<GatewayError> {
    let mut messages = match gateway.messages().await {
        Ok(messages) => messages,
        Err(error) => return Some(error),
    };
    loop {
        match messages.next().await {
            Ok(Some(message)) => {
                *heard = true;
                drop(to.send(Incoming::Message(message)));
            }
            Ok(None) => return None,
            Err(error) => return Some(error),
        }
    }
}

/// Logs one line for each outage, not for each try.
fn log_once(failing: &mut bool, what: &str, error: Option<&GatewayError>) {
    if !std::mem::replace(failing, true) {
        let why = error.map_or_else(|| "closed by the gateway".to_owned(), |e| causes(e));
        say(format_args!("{what}, trying again: {why}"));
    }
}

/// Sends heartbeats, and one more whenever there is progress. Each has its own task and time-out: a slow one delays none.
pub async fn beat(
    gateway: Gateway,
    every: Duration,
    snapshot: watch::Receiver<RunnerSnapshot>,
    mut progress: watch::Receiver<Option<Progress>>,
    to: mpsc::UnboundedSender<Incoming>,
) {
    let every = every.max(Duration::from_millis(100));
    let limit = every.clamp(Duration::from_secs(2), Duration::from_secs(20));
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut in_flight = JoinSet::new();
    loop {
        let between = tokio::select! {
            _ = ticks.tick() => false,
            // Progress alone takes no place from a regular heartbeat: it waits for those in flight.
            Ok(()) = progress.changed(), if in_flight.is_empty() => true,
            Some(_) = in_flight.join_next() => continue,
        };
        if in_flight.len() >= HEARTBEATS {
            continue;
        }
        let (state, generation) = *snapshot.borrow();
        let heartbeat = Heartbeat { state, generation, progress: progress.borrow_and_update().clone(), between };
        let (gateway, to) = (gateway.clone(), to.clone());
        in_flight.spawn(async move {
            // The next registration handles all other errors.
            if let Err(error) = gateway.heartbeat(&heartbeat, limit).await
                && error.is(&[StatusCode::GONE])
            {
                drop(to.send(Incoming::Gone(error.to_string())));
            }
        });
    }
}

/// What to confirm; only the newest counts.
pub type Answer = Option<(RunnerSnapshot, Option<String>)>;

/// Sends each confirmation until it is accepted or replaced by a newer one.
pub async fn confirm(gateway: Gateway, mut answers: watch::Receiver<Answer>) {
    while answers.changed().await.is_ok() {
        let mut waits = backoff();
        loop {
            let Some((snapshot, problem)) = answers.borrow_and_update().clone() else { break };
            match gateway.confirm(snapshot, problem).await {
                Ok(()) => break,
                Err(error) if error.is(&[StatusCode::GONE, StatusCode::CONFLICT]) => break,
                Err(_) => {}
            }
            // A newer one is sent without delay.
            let until = Instant::now() + waits.next().unwrap_or_default();
            if matches!(timeout_at(until, answers.changed()).await, Ok(Err(_))) {
                return;
            }
        }
    }
}
