//! A simulated agent and runner: does what the job's entry point says, follows commands, and reconnects like the real
//! runner. No process is stopped; this tests how the other components react.
//!
//! | entry point | what it does |
//! |---|---|
//! | `succeed?ms=N` | leaves its inputs as its result, after N ms of activity |
//! | `exit?code=3&ms=N` | exits |
//! | `exit0-after?ms=N` | exits with 0, later; and at once with 0 when it is told to stop |
//! | `fail-until?attempt=2&ms=N` | exits with 1 at once in earlier attempts, and succeeds in this one, after N ms |
//! | `count`, `sleep`, ... | goes on until it is told to stop |
//!
//! The words are the test agent's, so that a test needs no other job for the cluster.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use koco::{
    api::{DesiredState, ErrorStatus, PausePolicy, RunnerState, TerminationType},
    protocol::{
        error_types,
        runner::{AgentEnd, ControlMessage, Job},
    },
};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    kubelet::End,
    runner::{Refused, Runner, ending, failed, succeeded},
};

/// The wait before something is tried again.
const AGAIN: Duration = Duration::from_millis(50);

enum News {
    Message(ControlMessage),
    /// The job has ended, or the run is another pod's.
    Gone,
}

/// What an agent is to do: after how much activity it ends, if by itself, and how.
struct Plan {
    after: Option<Duration>,
    end: AgentEnd,
    /// Whether being told to stop makes it end with success.
    ends_well: bool,
}

fn plan(job: &Job) -> Plan {
    let (name, arguments) = job.entry_point.split_once('?').unwrap_or((&job.entry_point, ""));
    let text = |key: &str| {
        let found = arguments.split('&').filter_map(|a| a.split_once('=')).find(|(k, _)| *k == key);
        found.map(|(_, value)| value)
    };
    let number = |key: &str| text(key).and_then(|value| value.parse::<u64>().ok());
    let after = Some(Duration::from_millis(number("ms").unwrap_or(0)));
    // What nests too deeply to be read is no result either.
    let inputs = job.inputs.read::<serde_json::Value>().unwrap_or_default();
    let well = succeeded(json!({ "inputs": inputs }));
    match name {
        "fail-until" if u64::try_from(job.attempt).is_ok_and(|n| n < number("attempt").unwrap_or(3)) => {
            let end = failed(error_types::AGENT_FAILED, 1);
            Plan { after: Some(Duration::ZERO), end, ends_well: false }
        }
        "succeed" | "fail-until" => Plan { after, end: well, ends_well: false },
        "exit0-after" => Plan { after, end: AgentEnd { result: None, ..well }, ends_well: true },
        "exit" => {
            let end = failed(text("type").unwrap_or(error_types::AGENT_FAILED), number("code").unwrap_or(1) as i32);
            Plan { after, end, ends_well: false }
        }
        _ => Plan { after: None, end: well, ends_well: false },
    }
}

/// What one agent did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Life {
    /// The UID of its job.
    pub job: String,
    /// The number of its run.
    pub run: i32,
    /// Whether another of the job's agents lived when this one started.
    pub beside: bool,
    /// When it started.
    pub began: Instant,
    /// How it ended, if it has.
    pub end: Option<LifeEnd>,
    /// When it ended.
    pub ended: Option<Instant>,
}

/// Why an agent ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LifeEnd {
    ByItself,
    /// It obeyed a command, to pause by eviction or to cancel.
    Commanded,
    /// Its pod was deleted, or a gateway told its runner to stop.
    Stopped,
}

/// The agents that were started, in that order, and how many of their runners are connected.
#[derive(Clone, Default)]
pub struct Diary(Arc<Mutex<Vec<Life>>>, Arc<AtomicUsize>);

impl Diary {
    /// How many streams of control messages are open.
    #[allow(dead_code)] // benches/idle asks
    pub fn connected(&self) -> usize {
        self.1.load(Ordering::Relaxed)
    }

    /// One is open as long as this is kept.
    fn connects(&self) -> Connected {
        self.1.fetch_add(1, Ordering::Relaxed);
        Connected(self.1.clone())
    }

    /// An agent starts. Returns what to call it by when it ends.
    pub fn started(&self, job: &str, run: i32) -> usize {
        let mut lives = self.0.lock().expect("the diary");
        let beside = lives.iter().any(|l| l.job == job && l.end.is_none());
        lives.push(Life { job: job.into(), run, beside, began: Instant::now(), end: None, ended: None });
        lives.len() - 1
    }

    /// It has ended.
    pub fn ended(&self, life: usize, end: LifeEnd) {
        let life = &mut self.0.lock().expect("the diary")[life];
        (life.end, life.ended) = (Some(end), Some(Instant::now()));
    }

    /// All of them.
    #[allow(dead_code)] // benches/jobs asks
    pub fn all(&self) -> Vec<Life> {
        self.0.lock().expect("the diary").clone()
    }

    /// Those of a job.
    pub fn of(&self, job_uid: &str) -> Vec<Life> {
        self.0.lock().expect("the diary").iter().filter(|l| l.job == job_uid).cloned().collect()
    }
}

struct Connected(Arc<AtomicUsize>);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Player {
    runner: Arc<Runner>,
    job: Job,
    state: RunnerState,
    desired: DesiredState,
    generation: i64,
    carried: i64,
    attempt: Option<i32>,
    active: Duration,
    since: Option<Instant>,
    unconfirmed: bool,
    diary: Diary,
    life: Option<usize>,
}

/// Plays until the container ends. `terminate` is the kubelet's SIGTERM.
pub async fn play(runner: Runner, terminate: CancellationToken, diary: Diary) -> End {
    let runner = Arc::new(runner);
    let job = tokio::select! {
        job = meet(&runner) => job,
        () = terminate.cancelled() => None,
    };
    let Some(job) = job else { return left(&runner, &not_started()) };
    let mut player = Player {
        runner: runner.clone(),
        job,
        state: RunnerState::Waiting,
        desired: DesiredState::Running,
        generation: -1,
        carried: 0,
        attempt: None,
        active: Duration::ZERO,
        since: None,
        unconfirmed: false,
        diary,
        life: None,
    };
    let (tell, news) = mpsc::unbounded_channel();
    let (stand, standing) = tokio::sync::watch::channel((RunnerState::Waiting, 0));
    let link = tokio::spawn(listen(runner.clone(), standing.clone(), tell.clone(), player.diary.clone()));
    let every = Duration::from_millis(player.job.heartbeat_interval_millis);
    let beat = tokio::spawn(beat(runner.clone(), every, standing, tell));
    let (ending, report) = player.live(news, &stand, &terminate).await;
    beat.abort();
    if report {
        deliver(&runner, &ending, player.carried).await;
    }
    link.abort();
    left(&runner, &ending)
}

/// Waits for the job; `None` if this runner is refused.
async fn meet(runner: &Runner) -> Option<Job> {
    loop {
        match runner.register(RunnerState::Waiting, 0).await {
            Ok(job) => return Some(job),
            Err(refused) if refused.is_final() => return None,
            Err(_) => tokio::time::sleep(AGAIN).await,
        }
    }
}

type Standing = tokio::sync::watch::Receiver<(RunnerState, i64)>;

/// Streams, one after the other; registers before each but the first.
async fn listen(runner: Arc<Runner>, standing: Standing, tell: mpsc::UnboundedSender<News>, diary: Diary) {
    let mut first = true;
    loop {
        let (state, generation) = *standing.borrow();
        let met = match std::mem::take(&mut first) {
            true => Ok(()),
            false => runner.register_again(state, generation).await.map(drop),
        };
        let opened = match met {
            Ok(()) => runner.messages().await,
            Err(refused) => Err(refused),
        };
        match opened {
            Ok(mut orders) => {
                let _connected = diary.connects();
                while let Some(order) = orders.next().await {
                    let _ = tell.send(News::Message(order));
                }
            }
            Err(refused) if refused.is_final() => {
                let _ = tell.send(News::Gone);
                return;
            }
            Err(_) => {}
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn beat(runner: Arc<Runner>, every: Duration, standing: Standing, tell: mpsc::UnboundedSender<News>) {
    loop {
        let (state, generation) = *standing.borrow();
        if matches!(runner.heartbeat(state, generation).await, Err(Refused::Code(410, _))) {
            let _ = tell.send(News::Gone);
            return;
        }
        tokio::time::sleep(every).await;
    }
}

/// Until it is recorded or refused.
async fn deliver(runner: &Runner, ending: &AgentEnd, generation: i64) {
    while let Err(refused) = runner.outcome(generation, ending.clone()).await {
        if refused.is_final() || refused.code() == 409 {
            return;
        }
        tokio::time::sleep(AGAIN).await;
    }
}

fn not_started() -> AgentEnd {
    let error = ErrorStatus { kind: error_types::NOT_STARTED.into(), message: "told to end before its start".into() };
    AgentEnd { error: Some(error), ..ending(TerminationType::Failed, false) }
}

/// What the kubelet sees.
fn left(runner: &Runner, ending: &AgentEnd) -> End {
    let code = match ending.kind {
        TerminationType::Succeeded => 0,
        _ => ending.exit_code.filter(|c| *c != 0).unwrap_or(1),
    };
    End::exit(code, Some(runner.termination_message(ending)))
}

impl Player {
    /// Runs to the end: returns it, and whether to report it.
    async fn live(
        &mut self,
        mut news: mpsc::UnboundedReceiver<News>,
        stand: &tokio::sync::watch::Sender<(RunnerState, i64)>,
        terminate: &CancellationToken,
    ) -> (AgentEnd, bool) {
        let plan = plan(&self.job);
        loop {
            stand.send_replace((self.state, self.carried));
            if self.unconfirmed {
                let said = self.runner.confirm(self.state, self.carried, None).await;
                self.unconfirmed = matches!(&said, Err(refused) if !refused.is_final() && refused.code() != 409);
            }
            // Only a running agent comes nearer to its end.
            let left = self.since.and(plan.after).map(|after| after.saturating_sub(self.active()));
            let done = async {
                match left {
                    Some(left) => tokio::time::sleep(left).await,
                    None => std::future::pending().await,
                }
            };
            let again =
                async { if self.unconfirmed { tokio::time::sleep(AGAIN).await } else { std::future::pending().await } };
            let (ended, why) = tokio::select! {
                heard = news.recv() => match heard {
                    Some(News::Message(order)) => {
                        let stops = matches!(order, ControlMessage::Stop { .. });
                        (self.take(order, &plan), if stops { LifeEnd::Stopped } else { LifeEnd::Commanded })
                    }
                    Some(News::Gone) | None => (Some((not_started(), false)), LifeEnd::Stopped),
                },
                () = terminate.cancelled() => (Some((self.terminated(), true)), LifeEnd::Stopped),
                () = done => (Some((plan.end.clone(), true)), LifeEnd::ByItself),
                () = again => (None, LifeEnd::ByItself),
            };
            if let Some((mut ending, report)) = ended {
                if let Some(life) = self.life {
                    self.diary.ended(life, why);
                }
                ending.active_millis = self.active().as_millis() as i64;
                return (ending, report);
            }
        }
    }

    fn active(&self) -> Duration {
        self.active + self.since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    fn started(&self) -> bool {
        self.state != RunnerState::Waiting
    }

    fn terminated(&self) -> AgentEnd {
        if !self.started() {
            return not_started();
        }
        failed(error_types::DISRUPTED, 143)
    }

    fn take(&mut self, order: ControlMessage, plan: &Plan) -> Option<(AgentEnd, bool)> {
        match order {
            ControlMessage::Ping {} => None,
            ControlMessage::Stop { .. } => Some((not_started(), false)),
            ControlMessage::Grant { attempt } => {
                self.attempt.get_or_insert(attempt);
                if !self.started() && self.desired == DesiredState::Running {
                    self.go(RunnerState::Running);
                }
                None
            }
            ControlMessage::Command { desired, generation } => {
                if generation < self.generation || (generation == self.generation && desired != self.desired) {
                    return None;
                }
                (self.desired, self.generation) = (desired, generation);
                self.obey(plan)
            }
        }
    }

    fn obey(&mut self, plan: &Plan) -> Option<(AgentEnd, bool)> {
        let stopped = |kind: TerminationType| {
            if plan.ends_well { plan.end.clone() } else { AgentEnd { exit_code: Some(143), ..ending(kind, true) } }
        };
        match (self.desired, self.started()) {
            (DesiredState::Cancelled, false) => return Some((ending(TerminationType::Cancelled, false), true)),
            (DesiredState::Cancelled, true) => {
                self.carried = self.generation;
                return Some((stopped(TerminationType::Cancelled), true));
            }
            (DesiredState::Paused, true) if self.job.pause_policy == PausePolicy::Evict => {
                self.carried = self.generation;
                return Some((stopped(TerminationType::Evicted), true));
            }
            (DesiredState::Paused, true) => self.go(RunnerState::Frozen),
            (DesiredState::Running, started) if started || self.attempt.is_some() => self.go(RunnerState::Running),
            _ => self.go(RunnerState::Waiting),
        }
        None
    }

    /// Into this state, which is to be confirmed.
    fn go(&mut self, state: RunnerState) {
        if !self.started() && state != RunnerState::Waiting {
            self.life = Some(self.diary.started(&self.runner.job_uid, self.runner.number));
        }
        self.active = self.active();
        self.since = (state == RunnerState::Running).then(Instant::now);
        self.state = state;
        self.carried = self.generation.max(0);
        self.unconfirmed = true;
    }
}
