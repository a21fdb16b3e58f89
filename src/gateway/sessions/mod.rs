//! What this process remembers of the runners that talk to it. Nothing here is needed for correctness: another gateway,
//! or this one after a restart, starts without it. Used by the requests, by [`super::temporal_bridge`] and by
//! [`liveness`].

mod liveness;
pub mod messages;
pub mod peers;

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{requests::Heard, temporal_bridge::PendingSignals};
use crate::{
    platform::http::limits::{TokenBucket, due},
    protocol::runner::Progress,
};

/// How long Temporal isn't asked about the same workflow again.
const DESCRIBE: Duration = Duration::from_secs(2);
/// How long a workflow isn't reminded of its runner again.
const REMIND: Duration = Duration::from_secs(600);
/// A tick that is later than this means that the process was suspended.
const LATE: Duration = Duration::from_secs(3);
/// After this many consecutive heartbeats without a gap no other gateway serves the runner.
const ALL_HERE: u32 = 3;

/// One run's runner.
pub struct Session {
    /// Whether a heartbeat to Temporal is in flight.
    pub beating: AtomicBool,
    /// Whether its workflow turned out to be closed.
    pub workflow_closed: watch::Sender<bool>,
    /// The number of the newest stream.
    pub stream: watch::Sender<u64>,
    /// Signals to send to the workflow.
    pub signals: Mutex<PendingSignals>,
    /// The pending status write.
    pub update: Mutex<PendingUpdate>,
    /// The id of its job's workflow, as the AgentJob says it.
    pub workflow: Mutex<Option<String>>,
    times: Mutex<Times>,
    limits: Mutex<Limits>,
}

/// A pending write of a run's status; of each kind only the newest counts.
#[derive(Default)]
pub struct PendingUpdate {
    /// The runner's reported state.
    pub heard: Option<Heard>,
    /// Its agent's progress, and when it was received.
    pub progress: Option<(Progress, Time)>,
    /// That there was contact.
    pub contact: bool,
    /// That it is connected to this gateway.
    pub gateway: bool,
    /// Whether a task is writing.
    pub writing: bool,
}

#[derive(Default)]
struct Times {
    heard: Option<Instant>,
    contact: Option<Instant>,
    unacknowledged: Option<(i32, Instant)>,
    described: Option<Instant>,
    reminded: Option<Instant>,
    forwarded: Option<Instant>,
    /// Heartbeats in a row, and the last one.
    beats: Option<(u32, Instant)>,
}

struct Limits {
    registrations: TokenBucket,
    writes: TokenBucket,
    signals: TokenBucket,
}

impl Default for Session {
    fn default() -> Self {
        let few = || TokenBucket::new(5, 1.0, Instant::now());
        Self {
            beating: AtomicBool::new(false),
            workflow_closed: watch::Sender::new(false),
            stream: watch::Sender::new(0),
            signals: Mutex::default(),
            update: Mutex::default(),
            workflow: Mutex::default(),
            times: Mutex::default(),
            limits: Mutex::new(Limits { registrations: few(), writes: few(), signals: few() }),
        }
    }
}

impl Session {
    /// There was contact with the runner now.
    pub fn heard(&self) {
        let (mut times, now) = (self.times.lock(), Some(Instant::now()));
        (times.heard, times.contact) = (now, now);
    }

    /// Time since the last contact with this process, if there was one.
    fn last_contact(&self) -> Option<Duration> {
        self.times.lock().contact.map(|at| at.elapsed())
    }

    /// Time since the last contact; begins now if there was none with this process.
    pub fn time_since_contact(&self) -> Duration {
        self.times.lock().heard.get_or_insert_with(Instant::now).elapsed()
    }

    /// Time since this gateway first knew of a binding that the runner has not acknowledged, `acknowledged` being the
    /// last one that it has. An acknowledgement restarts it, a newer binding doesn't.
    pub fn time_unacknowledged(&self, acknowledged: i32) -> Duration {
        let mut times = self.times.lock();
        match times.unacknowledged {
            Some((of, since)) if of == acknowledged => since.elapsed(),
            _ => {
                times.unacknowledged = Some((acknowledged, Instant::now()));
                Duration::ZERO
            }
        }
    }

    /// Records a heartbeat. Returns whether all of them have come here for a while, so that no other gateway serves the
    /// runner.
    pub fn hears_all(&self, interval: Duration, now: Instant) -> bool {
        let mut times = self.times.lock();
        let near = |last: Instant| now.saturating_duration_since(last) < interval.mul_f64(1.5);
        let beats = match times.beats {
            Some((beats, last)) if near(last) => beats.saturating_add(1),
            _ => 1,
        };
        times.beats = Some((beats, now));
        beats >= ALL_HERE
    }

    /// Whether Temporal may be asked about the workflow now; then not again for a while.
    pub fn may_describe(&self) -> bool {
        due(&mut self.times.lock().described, DESCRIBE, Instant::now())
    }

    /// Whether the workflow may be reminded of its runner now; then not again for long, because signals pile up while no
    /// worker runs.
    pub fn may_remind(&self) -> bool {
        due(&mut self.times.lock().reminded, REMIND, Instant::now())
    }

    /// Whether a heartbeat may go on to Temporal now; then not again for a quarter of the interval between heartbeats.
    pub fn may_forward(&self, interval: Duration) -> bool {
        due(&mut self.times.lock().forwarded, interval / 4, Instant::now())
    }

    /// Whether the runner may register again already: each time the whole job is read.
    pub fn may_register(&self) -> bool {
        self.limits.lock().registrations.take(Instant::now()).is_ok()
    }

    /// Whether the run's status may be written now, or after how long.
    pub fn may_write(&self) -> Result<(), Duration> {
        self.limits.lock().writes.take(Instant::now())
    }

    /// Whether a confirmation may be signalled now, or after how long.
    pub fn may_signal(&self) -> Result<(), Duration> {
        self.limits.lock().signals.take(Instant::now())
    }
}

/// All of them, by the run's UID.
pub struct Sessions {
    all: Mutex<HashMap<String, Arc<Session>>>,
    /// The end of this gateway's last gap in listening, if there was one.
    listening: Mutex<Option<Instant>>,
    tick: Mutex<Instant>,
}

impl Default for Sessions {
    fn default() -> Self {
        Self { all: Mutex::default(), listening: Mutex::default(), tick: Mutex::new(Instant::now()) }
    }
}

impl Sessions {
    /// The session of a run.
    pub fn of(&self, uid: &str) -> Arc<Session> {
        let mut all = self.all.lock();
        if let Some(session) = all.get(uid) {
            return session.clone();
        }
        all.entry(uid.into()).or_default().clone()
    }

    /// Heartbeats may have been dropped: restarts all liveness windows.
    fn reset_liveness(&self) {
        *self.listening.lock() = Some(Instant::now());
    }

    /// A tick of the clock. If the process was suspended before, restarts all liveness windows.
    fn tick(&self, now: Instant) {
        let mut tick = self.tick.lock();
        if now.saturating_duration_since(*tick) > LATE {
            tracing::warn!(
                "this process has stood still: no runner is judged by its silence until it has listened anew"
            );
            self.reset_liveness();
        }
        *tick = now;
    }

    /// Whether the last tick is recent, so that the process was not suspended since.
    fn is_awake(&self, now: Instant) -> bool {
        now.saturating_duration_since(*self.tick.lock()) <= LATE
    }

    /// For how long a runner could have made contact and didn't.
    pub fn time_since_contact(&self, uid: &str) -> Duration {
        let listening = self.listening.lock().map_or(Duration::MAX, |since| since.elapsed());
        self.of(uid).time_since_contact().min(listening)
    }

    /// Time since a runner's last contact with this process, if there was one.
    fn last_contact(&self, uid: &str) -> Option<Duration> {
        let session = self.all.lock().get(uid).cloned();
        session?.last_contact()
    }

    /// Drops unused sessions whose run is not in `open`.
    pub fn prune(&self, open: impl Fn(&str) -> bool) {
        self.all.lock().retain(|uid, session| Arc::strong_count(session) > 1 || open(uid));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Advances the clock.
    fn pass() {
        std::thread::sleep(Duration::from_millis(20));
    }

    #[test]
    fn a_run_that_was_never_heard_begins_a_window_of_its_own() {
        let sessions = Sessions::default();
        sessions.of("r").heard();
        pass();
        assert!(sessions.time_since_contact("r") >= Duration::from_millis(20));
        assert!(sessions.time_since_contact("s") < Duration::from_millis(20));
    }

    #[test]
    fn only_an_acknowledgement_begins_the_wait_for_one_anew() {
        let session = Session::default();
        assert_eq!(session.time_unacknowledged(0), Duration::ZERO);
        pass();
        assert!(session.time_unacknowledged(0) >= Duration::from_millis(20));
        assert_eq!(session.time_unacknowledged(2), Duration::ZERO);
    }

    #[test]
    fn a_gateway_after_a_gap_deems_no_runner_unresponsive() {
        let sessions = Sessions::default();
        sessions.of("r").heard();
        pass();
        sessions.reset_liveness();
        assert!(sessions.time_since_contact("r") < Duration::from_millis(20));
    }

    #[test]
    fn a_process_that_stood_still_listens_anew_before_it_judges() {
        let sessions = Sessions::default();
        let start = Instant::now();
        sessions.tick(start);
        sessions.tick(start + Duration::from_secs(1));
        assert!(sessions.listening.lock().is_none());
        let thawed = start + Duration::from_secs(1) + LATE + Duration::from_millis(1);
        assert!(!sessions.is_awake(thawed), "before its tick has come");
        sessions.tick(thawed);
        assert!(sessions.is_awake(thawed));
        assert!(sessions.listening.lock().is_some());
    }

    #[test]
    fn heartbeats_that_take_turns_are_not_all_here() {
        let (session, interval) = (Session::default(), Duration::from_secs(1));
        let start = Instant::now();
        assert!((0..8).all(|n| !session.hears_all(interval, start + 2 * n * interval)));
        let start = start + 20 * interval;
        let all: Vec<bool> = (0..4).map(|n| session.hears_all(interval, start + n * interval)).collect();
        assert_eq!(all, [false, false, true, true]);
    }

    #[test]
    fn what_costs_others_something_is_limited() {
        let session = Session::default();
        assert!(session.may_describe() && !session.may_describe());
        assert!(session.may_forward(Duration::from_secs(4)) && !session.may_forward(Duration::from_secs(4)));
        assert_eq!((0..9).filter(|_| session.may_write().is_ok()).count(), 5);
        assert_eq!((0..9).filter(|_| session.may_signal().is_ok()).count(), 5);
        assert_eq!((0..9).filter(|_| session.may_register()).count(), 5);
    }

    #[test]
    fn only_unused_sessions_are_dropped() {
        let sessions = Sessions::default();
        let used = sessions.of("used");
        sessions.of("open").stream.send_replace(7);
        sessions.of("closed").stream.send_replace(7);
        sessions.prune(|uid| uid == "open");
        assert_eq!(*sessions.of("open").stream.borrow(), 7);
        assert_eq!(*sessions.of("closed").stream.borrow(), 0);
        assert!(Arc::ptr_eq(&used, &sessions.of("used")));
    }
}
