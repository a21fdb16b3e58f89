//! What this process remembers of the runners that talk to it. Nothing here is needed for correctness: another gateway, or
//! this one after a restart, begins with none of it. Used by the requests, by [`super::engine`] and by [`super::silence`].

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, atomic::AtomicBool},
    time::{Duration, Instant},
};

use tokio::sync::watch;

use crate::protocol::workflow::RunnerConfirmed;

/// How long Temporal isn't asked about the same workflow again.
const DESCRIBE: Duration = Duration::from_secs(2);

/// One job's runner.
pub struct Session {
    /// Whether a heartbeat is on its way.
    pub beating: AtomicBool,
    /// The epoch whose workflow turned out to be closed. Of one epoch only: a reset opens the workflow again.
    pub closed: watch::Sender<Option<i32>>,
    /// The number of the newest stream of orders.
    pub stream: watch::Sender<u64>,
    /// What to tell the workflow.
    pub mail: Mutex<Mail>,
    times: Mutex<Times>,
}

/// What to tell a workflow; of each kind only the newest counts.
#[derive(Default)]
pub struct Mail {
    /// The runner of this epoch is ready.
    pub ready: Option<i32>,
    /// What it has confirmed.
    pub confirmed: Option<RunnerConfirmed>,
    /// Whether a task is delivering.
    pub busy: bool,
}

#[derive(Default)]
struct Times {
    heard: Option<(i32, Instant)>,
    unanswered: Option<((i32, i32), Instant)>,
    described: Option<Instant>,
    took_over: Option<Instant>,
}

impl Default for Session {
    fn default() -> Self {
        Self {
            beating: AtomicBool::new(false),
            closed: watch::Sender::new(None),
            stream: watch::Sender::new(0),
            mail: Mutex::default(),
            times: Mutex::default(),
        }
    }
}

impl Session {
    /// The runner of an epoch was heard now.
    pub fn heard(&self, epoch: i32) {
        if let Ok(mut times) = self.times.lock() {
            times.heard = Some((epoch, Instant::now()));
        }
    }

    /// For how long it was not; an epoch that was never heard begins now.
    pub fn silence(&self, epoch: i32) -> Duration {
        let Ok(mut times) = self.times.lock() else { return Duration::ZERO };
        match times.heard {
            Some((of, at)) if of == epoch => at.elapsed(),
            _ => {
                times.heard = Some((epoch, Instant::now()));
                Duration::ZERO
            }
        }
    }

    /// For how long this gateway has known of an offer that the runner of an epoch, which has answered `answered`, has not
    /// answered. Newer offers don't begin it anew, an answer does.
    pub fn unanswered(&self, epoch: i32, answered: i32) -> Duration {
        let Ok(mut times) = self.times.lock() else { return Duration::ZERO };
        match times.unanswered {
            Some((of, since)) if of == (epoch, answered) => since.elapsed(),
            _ => {
                times.unanswered = Some(((epoch, answered), Instant::now()));
                Duration::ZERO
            }
        }
    }

    /// Whether Temporal may be asked about the workflow now; then not again for a while.
    pub fn may_describe(&self) -> bool {
        self.times.lock().is_ok_and(|mut t| due(&mut t.described, DESCRIBE))
    }

    /// Whether this gateway may name itself as the one that the runner talks to, `every` so often at the most. A runner whose
    /// requests take turns between two gateways must not make them take turns at writing.
    pub fn may_take_over(&self, every: Duration) -> bool {
        self.times.lock().is_ok_and(|mut t| due(&mut t.took_over, every))
    }
}

fn due(last: &mut Option<Instant>, every: Duration) -> bool {
    let due = last.is_none_or(|at| at.elapsed() >= every);
    if due {
        *last = Some(Instant::now());
    }
    due
}

/// All of them, by the job's UID.
#[derive(Default)]
pub struct Sessions {
    all: Mutex<HashMap<String, Arc<Session>>>,
    deaf: Mutex<Option<Instant>>,
}

impl Sessions {
    /// The one of a job.
    pub fn of(&self, uid: &str) -> Arc<Session> {
        let Ok(mut all) = self.all.lock() else { return Arc::default() };
        if let Some(session) = all.get(uid) {
            return session.clone();
        }
        all.entry(uid.into()).or_default().clone()
    }

    /// This gateway had to turn somebody away without knowing whom, for the API server's sake or its own: no silence proves
    /// anything until it has listened anew.
    pub fn deaf(&self) {
        if let Ok(mut deaf) = self.deaf.lock() {
            *deaf = Some(Instant::now());
        }
    }

    /// For how long a runner could have been heard and was not.
    pub fn silence(&self, uid: &str, epoch: i32) -> Duration {
        let listening = self.deaf.lock().ok().and_then(|d| *d).map_or(Duration::MAX, |at| at.elapsed());
        self.of(uid).silence(epoch).min(listening)
    }

    /// Forgets those that nobody uses and whose job `open` does not know.
    pub fn prune(&self, open: impl Fn(&str) -> bool) {
        if let Ok(mut all) = self.all.lock() {
            all.retain(|uid, session| Arc::strong_count(session) > 1 || open(uid));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_epoch_begins_a_window_of_its_own() {
        let session = Session::default();
        session.heard(1);
        std::thread::sleep(Duration::from_millis(5));
        assert!(session.silence(1) >= Duration::from_millis(5));
        assert_eq!(session.silence(2), Duration::ZERO);
    }

    #[test]
    fn only_an_answer_begins_the_wait_for_one_anew() {
        let session = Session::default();
        assert_eq!(session.unanswered(1, 0), Duration::ZERO);
        std::thread::sleep(Duration::from_millis(5));
        assert!(session.unanswered(1, 0) >= Duration::from_millis(5));
        assert_eq!(session.unanswered(1, 2), Duration::ZERO);
        assert_eq!(session.unanswered(2, 2), Duration::ZERO);
    }

    #[test]
    fn a_gateway_that_could_not_hear_calls_nobody_silent() {
        let sessions = Sessions::default();
        sessions.of("u").heard(1);
        std::thread::sleep(Duration::from_millis(20));
        assert!(sessions.silence("u", 1) >= Duration::from_millis(20));
        sessions.deaf();
        assert!(sessions.silence("u", 1) < Duration::from_millis(20));
    }

    #[test]
    fn temporal_is_not_asked_twice_at_once() {
        let session = Session::default();
        assert!(session.may_describe());
        assert!(!session.may_describe());
        assert!(session.may_take_over(Duration::ZERO));
        assert!(session.may_take_over(Duration::ZERO));
        assert!(!session.may_take_over(Duration::from_secs(1)));
    }

    #[test]
    fn only_what_nobody_needs_is_forgotten() {
        let sessions = Sessions::default();
        let used = sessions.of("used");
        sessions.of("open").stream.send_replace(7);
        sessions.of("over").stream.send_replace(7);
        sessions.prune(|uid| uid == "open");
        assert_eq!(*sessions.of("open").stream.borrow(), 7);
        assert_eq!(*sessions.of("over").stream.borrow(), 0);
        assert!(Arc::ptr_eq(&used, &sessions.of("used")));
    }
}
