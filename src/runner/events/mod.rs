//! Events: what the agent prints and tells, and what the runner has to say, on their way to the gateway. Started by the
//! [`supervisor`](super::supervisor) with the agent.
//!
//! Nothing here may hold up what controls the agent: heartbeats, pauses, cancels and the report of the end. So it runs on
//! threads of its own with connections of its own, and the supervisor only ever waits for it with a limit.
//!
//! Decisions are pure: [`delivery`] (when to send what), [`lines`] (bytes to lines), [`message`] (what an agent sends) and
//! [`own`] (the runner's events). [`capture`] reads what is printed, [`socket`] what is sent, [`recorder`] numbers all and
//! [`spool`] keeps it until [`send`] has sent it.

mod capture;
mod delivery;
mod lines;
mod message;
mod own;
mod recorder;
mod send;
mod socket;
mod spool;

use std::{convert::Infallible, io, path::Path, sync::Arc, thread, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until, timeout},
};

pub use self::capture::Output;
use self::{recorder::Recorder, send::Progress};
use super::{gateway::Gateway, log::say};
use crate::{
    api::RawJson,
    protocol::{
        events::{EventsConfig, Kind},
        runner::AgentEnd,
    },
};

/// How long what the agent has printed and sent may take to be read after its end: a process that it left may hold its
/// output open.
const DRAIN: Duration = Duration::from_secs(1);
/// How long the report of the end waits for a store that takes nothing.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where the run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Starting,
    Running,
    /// The agent has ended: what it left is read.
    Draining,
    /// The last event is taken.
    Ended,
}

/// The events of a run.
#[derive(Debug, Default)]
pub struct Events(Option<Begun>);

#[derive(Debug)]
struct Begun {
    /// `None` if the installation keeps none.
    recorder: Option<Arc<Recorder>>,
    phase: watch::Sender<Phase>,
    progress: watch::Receiver<Progress>,
    /// Ends when all that was printed and sent is read.
    open: mpsc::Receiver<Infallible>,
}

impl Events {
    /// Begins to take events, with a spool in this folder and a socket there, and returns where the agent is to print to. To be
    /// called before it starts. `gateway` makes a client with connections of its own: no heartbeat waits behind a batch.
    pub fn begin(
        config: Option<&EventsConfig>,
        folder: &Path,
        socket: &Path,
        gateway: impl FnOnce() -> io::Result<Gateway>,
    ) -> io::Result<(Self, Output)> {
        let (phase, phases) = watch::channel(Phase::Starting);
        let (tell, progress) = watch::channel(Progress::default());
        let (opened, open) = mpsc::channel(1);
        let recorder = config.map(|_| Recorder::create(folder, std::time::Instant::now())).transpose()?.map(Arc::new);
        let output = match (&recorder, config) {
            (Some(recorder), Some(EventsConfig { stdio: true })) => capture::start(recorder, &phases, &opened)?,
            _ => Output::default(),
        };
        let sender = match &recorder {
            Some(recorder) => Some(send::run(recorder.clone(), gateway()?, phases.clone(), tell)),
            None => None,
        };
        let server = socket::serve(socket::bind(socket)?, recorder.clone(), phases, opened);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let run = async move {
            tokio::spawn(async {
                if let Err(error) = server.await {
                    say(format_args!("no events are taken from the agent: {error}"));
                }
            });
            if let Some(sender) = sender {
                sender.await;
            }
            // Connections are served until the runner's end.
            std::future::pending::<()>().await;
        };
        thread::Builder::new().name("events".into()).spawn(move || runtime.block_on(run))?;
        Ok((Self(Some(Begun { recorder, phase, progress, open })), output))
    }

    fn recorder(&self) -> Option<&Arc<Recorder>> {
        self.0.as_ref().and_then(|begun| begun.recorder.as_ref())
    }

    /// The agent is about to be started.
    pub fn starting(&self, inputs: &RawJson) {
        if let Some(recorder) = self.recorder() {
            recorder.own(Kind::Status, own::STARTING);
            recorder.own(Kind::Inputs, &own::inputs(inputs));
        }
    }

    /// The agent was started. What it prints and sends is taken from now on.
    pub fn running(&self) {
        if let Some(recorder) = self.recorder() {
            recorder.own(Kind::Status, own::RUNNING);
        }
        if let Some(begun) = &self.0 {
            begun.phase.send_replace(Phase::Running);
        }
    }

    /// The agent has ended: takes what it left, if that comes soon, and the last events.
    pub async fn end(&mut self, ending: &AgentEnd) {
        let Some(begun) = &mut self.0 else { return };
        begun.phase.send_replace(Phase::Draining);
        let drained = async { while begun.open.recv().await.is_some() {} };
        if timeout(DRAIN, drained).await.is_err() {
            say(format_args!(
                "a process that the agent has left holds its output: what it prints from now on is no event"
            ));
        }
        if let Some(recorder) = begun.recorder.clone() {
            let last = own::last(ending);
            // It may wait for a disk.
            let _ = tokio::task::spawn_blocking(move || recorder.end(&last)).await;
        }
        begun.phase.send_replace(Phase::Ended);
    }

    /// Waits until all events are stored, as long as the store takes some, or is expected to, but not longer than this.
    pub async fn flush(&self, until: Instant) {
        self.stored(PATIENCE, until).await;
        match self.missing() {
            Some(0) | None => {}
            Some(missing) => say(format_args!("{missing} events are not stored yet")),
        }
    }

    /// Waits until all events are stored, but not longer than this.
    pub async fn flush_late(&self, until: Instant) {
        self.stored(Duration::MAX, until).await;
    }

    async fn stored(&self, patience: Duration, until: Instant) {
        let (Some(begun), Some(recorder)) = (&self.0, self.recorder()) else { return };
        let mut progress = begun.progress.clone();
        let mut last = Instant::now();
        loop {
            let before = *progress.borrow_and_update();
            if before.closed || recorder.unstored() == 0 {
                return;
            }
            let limit = last.checked_add(patience).map_or(until, |limit| limit.min(until));
            tokio::select! {
                changed = progress.changed() => match changed {
                    Ok(()) if progress.borrow().stored > before.stored => last = Instant::now(),
                    Ok(()) => {}
                    Err(_) => return,
                },
                () = sleep_until(limit) => return,
            }
        }
    }

    /// How many events there are, stored or not; `None` if none is kept.
    pub fn count(&self) -> Option<u64> {
        self.recorder().map(|recorder| recorder.count())
    }

    /// How many events are not known to be stored; `None` if none is kept.
    pub fn missing(&self) -> Option<u64> {
        self.recorder().map(|recorder| recorder.missing())
    }
}
