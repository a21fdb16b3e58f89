//! Events: what the runner has to say about its agent, on the way to the gateway. Started by the
//! [`supervisor`](super::supervisor) with the agent.
//!
//! Nothing here may hold up what controls the agent: heartbeats, pauses, cancels and the report of the end. So it runs on
//! threads of its own with connections of its own, and the supervisor only ever waits for it with a limit.
//!
//! Decisions are pure: [`delivery`] (when to send what), [`own`] (the runner's events).
//! [`spool`] keeps events until they are stored, [`recorder`] numbers them, [`send`] sends them.

mod delivery;
mod own;
mod recorder;
mod send;
mod spool;

use std::{io, path::Path, sync::Arc, thread, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use self::{recorder::Recorder, send::Progress};
use super::{gateway::Gateway, log::say};
use crate::{
    api::RawJson,
    protocol::{
        events::{EventsConfig, Kind},
        runner::AgentEnd,
    },
};

/// How long the report of the end waits for a store that takes nothing.
const PATIENCE: Duration = Duration::from_secs(2);

/// The events of a run; nothing if the installation keeps none.
#[derive(Debug, Default)]
pub struct Events(Option<Kept>);

#[derive(Debug)]
struct Kept {
    recorder: Arc<Recorder>,
    ending: watch::Sender<bool>,
    progress: watch::Receiver<Progress>,
}

impl Events {
    /// Begins to keep events, in a spool in this folder. To be called before the agent starts.
    pub fn begin(config: Option<&EventsConfig>, folder: &Path, gateway: Gateway) -> io::Result<Self> {
        if config.is_none() {
            return Ok(Self(None));
        }
        let recorder = Arc::new(Recorder::create(folder, std::time::Instant::now())?);
        let (ending, ends) = watch::channel(false);
        let (tell, progress) = watch::channel(Progress::default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let sender = send::run(recorder.clone(), gateway, ends, tell);
        thread::Builder::new().name("events".into()).spawn(move || runtime.block_on(sender))?;
        Ok(Self(Some(Kept { recorder, ending, progress })))
    }

    /// The agent is about to be started.
    pub fn starting(&self, inputs: &RawJson) {
        if let Some(kept) = &self.0 {
            kept.recorder.own(Kind::Status, own::STARTING);
            kept.recorder.own(Kind::Inputs, &own::inputs(inputs));
        }
    }

    /// The agent was started.
    pub fn running(&self) {
        if let Some(kept) = &self.0 {
            kept.recorder.own(Kind::Status, own::RUNNING);
        }
    }

    /// The agent has ended: takes the last events.
    pub async fn end(&self, ending: &AgentEnd) {
        let Some(kept) = self.0.as_ref().filter(|kept| kept.recorder.is_used()) else { return };
        let (recorder, last) = (kept.recorder.clone(), own::last(ending));
        // It may wait for a disk.
        let _ = tokio::task::spawn_blocking(move || recorder.end(&last)).await;
        kept.ending.send_replace(true);
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
        let Some(kept) = &self.0 else { return };
        let mut progress = kept.progress.clone();
        let mut last = Instant::now();
        loop {
            let before = *progress.borrow_and_update();
            if before.closed || kept.recorder.missing() == 0 {
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

    /// How many events are not known to be stored; `None` if none is kept.
    pub fn missing(&self) -> Option<u64> {
        self.0.as_ref().map(|kept| kept.recorder.missing())
    }
}
