//! Watches one job, for commands that run until its end.

use std::{future::ready, time::Duration};

use anyhow::anyhow;
use futures::{Stream, StreamExt};
use kube::runtime::{
    WatchStreamExt,
    watcher::{self, Config, Event, watcher},
};

use super::connect::{Session, runs_selector};
use crate::api::{AgentJob, AgentRun, Phase};

/// Whether the job has ended.
pub(super) fn finished(job: &AgentJob) -> bool {
    phase(job).is_terminal()
}

/// The phase; Pending without a status.
pub(super) fn phase(job: &AgentJob) -> Phase {
    job.status.as_ref().and_then(|s| s.phase).unwrap_or_default()
}

/// The job now, and each time that it changes. Ends with an error when it is deleted, or may not be watched; while the
/// API server is unreachable it retries.
pub(super) async fn job(
    session: &Session,
    name: &str,
) -> anyhow::Result<impl Stream<Item = anyhow::Result<AgentJob>> + Unpin + use<>> {
    // Fails first, with a better message, if there is none.
    let uid = session.job(name).await?.metadata.uid;
    let gone = {
        let name = name.to_string();
        move || anyhow!("agentjob.kodosumi.io/{name} was deleted")
    };
    let config = Config::default().fields(&format!("metadata.name={name}"));
    let events = watcher(session.jobs(), config).default_backoff();
    let mut seen = false;
    Ok(Box::pin(events.filter_map(move |event| {
        ready(match event {
            Ok(Event::Apply(job) | Event::InitApply(job)) if job.metadata.uid == uid => {
                seen = true;
                Some(Ok(job))
            }
            Ok(Event::Init) => {
                seen = false;
                None
            }
            Ok(Event::InitDone) if seen => None,
            Ok(_) => Some(Err(gone())),
            Err(e) => refused(&e).map(|message| Err(anyhow!(message))),
        })
    })))
}

/// A change of a job's runs.
#[derive(Debug)]
pub(super) enum RunChange {
    /// A run is new, or has changed.
    Now(Box<AgentRun>),
    /// A run is gone.
    Gone(i32),
}

/// The runs of a job now, and each as it changes. Never ends; an error says that they may not be watched.
pub(super) fn runs(session: &Session, job: &AgentJob) -> impl Stream<Item = anyhow::Result<RunChange>> + Unpin + use<> {
    let uid = job.uid().to_string();
    let events = watcher(session.runs(), Config::default().fields(&runs_selector(job))).default_backoff();
    Box::pin(events.filter_map(move |event| {
        let ours = |run: &AgentRun| run.spec.identity.job_uid == uid;
        ready(match event {
            Ok(Event::Apply(run) | Event::InitApply(run)) if ours(&run) => Some(Ok(RunChange::Now(Box::new(run)))),
            Ok(Event::Delete(run)) if ours(&run) => Some(Ok(RunChange::Gone(run.number()))),
            Ok(_) => None,
            Err(e) => refused(&e).map(|message| Err(anyhow!(message))),
        })
    }))
}

/// The API server's error, if retrying is pointless.
pub(super) fn refused(error: &watcher::Error) -> Option<String> {
    let status = match error {
        watcher::Error::InitialListFailed(kube::Error::Api(s))
        | watcher::Error::WatchStartFailed(kube::Error::Api(s)) => s,
        _ => return None,
    };
    [401, 403, 404].contains(&status.code).then(|| status.message.clone())
}

/// Waits before polling again.
pub(super) async fn a_little() {
    tokio::time::sleep(Duration::from_millis(300)).await;
}
