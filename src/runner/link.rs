//! The tasks that keep up the connection to the gateway: orders, heartbeats, confirmations. Started by
//! [`super::supervisor`], and each on its own, so that none waits for another, nor the agent's control for any of them.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use reqwest::StatusCode;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout_at},
};

use super::{
    gateway::{Gateway, GatewayError},
    log::{causes, say},
};
use crate::{
    api::RunnerState,
    protocol::runner::{Job, Order},
};

/// How many heartbeats may be on their way at a time.
const HEARTBEATS: usize = 4;

/// What the agent does, and the highest command carried out.
pub type Standing = (RunnerState, i64);

/// What comes from the gateway.
#[derive(Debug)]
pub enum Incoming {
    /// The first answer to a hello.
    Job(Box<Job>),
    Order(Order),
    /// The job is over, or never was this pod's. And the gateway's words.
    Gone(String),
}

/// Waits that grow to 5 s at the most, without end.
pub fn patience() -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(100))
        // Up to as much again is added at random.
        .with_max_delay(Duration::from_millis(2500))
        .without_max_times()
        .with_jitter()
        .build()
}

/// Says hello and listens for orders, again and again. A hello before each stream lets any gateway know where we stand.
pub async fn listen(gateway: Gateway, standing: watch::Receiver<Standing>, to: mpsc::UnboundedSender<Incoming>) {
    let (mut first, mut waits, mut trouble) = (true, patience(), false);
    loop {
        let now = *standing.borrow();
        match gateway.hello(now).await {
            Ok(job) => {
                if std::mem::take(&mut first) && to.send(Incoming::Job(Box::new(job))).is_err() {
                    return;
                }
                let mut heard = false;
                let error = follow(&gateway, &to, &mut heard).await;
                if heard {
                    waits = patience();
                    trouble = false;
                }
                complain(&mut trouble, "the stream of orders ended", error.as_ref());
            }
            Err(error) if error.is_final() => {
                drop(to.send(Incoming::Gone(error.to_string())));
                return;
            }
            Err(error) => complain(&mut trouble, "the gateway does not answer", Some(&error)),
        }
        sleep(waits.next().unwrap_or_default()).await;
    }
}

async fn follow(gateway: &Gateway, to: &mpsc::UnboundedSender<Incoming>, heard: &mut bool) -> Option<GatewayError> {
    let mut orders = match gateway.orders().await {
        Ok(orders) => orders,
        Err(error) => return Some(error),
    };
    loop {
        match orders.next().await {
            Ok(Some(order)) => {
                *heard = true;
                drop(to.send(Incoming::Order(order)));
            }
            Ok(None) => return None,
            Err(error) => return Some(error),
        }
    }
}

/// One line for each time of trouble, not for each try.
fn complain(trouble: &mut bool, what: &str, error: Option<&GatewayError>) {
    if !std::mem::replace(trouble, true) {
        let why = error.map_or_else(|| "closed by the gateway".to_owned(), |e| causes(e));
        say(format_args!("{what}, trying again: {why}"));
    }
}

/// Sends heartbeats. Each has its own task and time-out: a slow one delays none.
pub async fn beat(
    gateway: Gateway,
    every: Duration,
    standing: watch::Receiver<Standing>,
    to: mpsc::UnboundedSender<Incoming>,
) {
    let every = every.max(Duration::from_millis(100));
    let limit = every.clamp(Duration::from_secs(2), Duration::from_secs(20));
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut under_way = JoinSet::new();
    loop {
        ticks.tick().await;
        while under_way.try_join_next().is_some() {}
        if under_way.len() >= HEARTBEATS {
            continue;
        }
        let (gateway, to, now) = (gateway.clone(), to.clone(), *standing.borrow());
        under_way.spawn(async move {
            // Anything else than "over" is for the hello to find out.
            if let Err(error) = gateway.heartbeat(now, limit).await
                && error.is(&[StatusCode::GONE])
            {
                drop(to.send(Incoming::Gone(error.to_string())));
            }
        });
    }
}

/// What to confirm; only the newest counts.
pub type Answer = Option<(Standing, Option<String>)>;

/// Delivers confirmations until each is taken or replaced by a newer one.
pub async fn confirm(gateway: Gateway, mut answers: watch::Receiver<Answer>) {
    while answers.changed().await.is_ok() {
        let mut waits = patience();
        loop {
            let Some((standing, problem)) = answers.borrow_and_update().clone() else { break };
            match gateway.confirm(standing, problem).await {
                Ok(()) => break,
                Err(error) if error.is_final() || error.is(&[StatusCode::CONFLICT]) => break,
                Err(_) => {}
            }
            // A newer one need not wait.
            let until = Instant::now() + waits.next().unwrap_or_default();
            if matches!(timeout_at(until, answers.changed()).await, Ok(Err(_))) {
                return;
            }
        }
    }
}
