//! Waits until each of several jobs has reached what was requested of it, with one watch for all. Used by the commands
//! that have `--wait`.

use std::{
    collections::{HashMap, HashSet},
    io::Write,
    process::ExitCode,
    time::Duration,
};

use anyhow::anyhow;
use clap::Args;
use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{
    Api,
    runtime::{
        WatchStreamExt,
        watcher::{Config, Event, watcher},
    },
};

use super::{
    connect::Session,
    output::reference,
    text::{Progress, plain, say},
    watch,
};
use crate::api::{AgentJob, Phase, Reason, Seconds, conditions};

/// For how long a command with `--wait` waits.
#[derive(Args)]
pub(super) struct Limit {
    /// With --wait: how long, such as 90s. Default: without limit
    #[arg(long, value_name = "DURATION", value_parser = Seconds::parse, requires = "wait")]
    pub timeout: Option<Duration>,
}

/// How many jobs a page of the watch's list has: inputs may be large.
const PAGE: u32 = 50;
/// The exit code when the time is over, as timeout(1) has it.
pub(super) const TIME_IS_OVER: u8 = 124;

/// A job that something was requested of.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Asked {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// The generation of the request: a status that is older says nothing about it.
    pub generation: Option<i64>,
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Goal {
    /// Paused, as the runner has confirmed.
    Paused,
    /// No longer paused, as the runner has confirmed.
    Resumed,
    /// Ended, however.
    Ended,
    /// Ended with success.
    Succeeded,
}

/// Waits for all, and prints a line for each on stdout, unless `quiet`.
pub(super) async fn all(
    session: &Session,
    asked: Vec<Asked>,
    goal: Goal,
    selector: Option<&str>,
    timeout: Option<Duration>,
    quiet: bool,
) -> anyhow::Result<ExitCode> {
    let mut waiting = Waiting::new(asked, goal, quiet);
    let watched = waiting.watch(session, selector);
    let ended = match timeout {
        Some(limit) => tokio::time::timeout(limit, watched).await,
        None => Ok(watched.await),
    };
    match ended {
        Ok(done) => done?,
        Err(_) => {
            for job in waiting.open.values() {
                say(format_args!("error: timed out waiting for {}", reference(&job.name)));
            }
            return Ok(TIME_IS_OVER.into());
        }
    }
    Ok(if waiting.failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

struct Waiting {
    goal: Goal,
    quiet: bool,
    /// By UID.
    open: HashMap<String, Asked>,
    failed: bool,
}

impl Waiting {
    fn new(asked: Vec<Asked>, goal: Goal, quiet: bool) -> Self {
        let open = asked.into_iter().map(|job| (job.uid.clone(), job)).collect();
        Self { goal, quiet, open, failed: false }
    }

    async fn watch(&mut self, session: &Session, selector: Option<&str>) -> anyhow::Result<()> {
        let Some(first) = self.open.values().next().cloned() else { return Ok(()) };
        let mut config = Config::default().page_size(PAGE);
        config.label_selector = selector.map(str::to_string);
        if self.open.len() == 1 {
            config = config.fields(&format!("metadata.name={}", first.name));
        }
        let one = self.open.values().all(|job| job.namespace == first.namespace);
        let jobs: Api<AgentJob> = match one {
            true => Api::namespaced(session.client(), &first.namespace),
            false => Api::all(session.client()),
        };
        let total = self.open.len();
        let start = |config: &Config| Box::pin(watcher(jobs.clone(), config.clone()).default_backoff());
        let (mut events, mut seen) = (start(&config), HashSet::new());
        let mut progress = Progress::new();
        while !self.open.is_empty() {
            progress.show(match total {
                1 => format!("waiting for {}", reference(&first.name)),
                _ => format!("waiting for {} of {total} jobs", self.open.len()),
            });
            let event = events.next().await.ok_or_else(|| anyhow!("the watch has ended"))?;
            progress.clear();
            let mut missing: Vec<String> = Vec::new();
            match event {
                Ok(Event::Init) => seen.clear(),
                Ok(Event::InitApply(job)) => {
                    seen.insert(job.uid().to_string());
                    self.see(&job)?;
                }
                Ok(Event::Apply(job)) => self.see(&job)?,
                Ok(Event::InitDone) => {
                    missing.extend(self.open.keys().filter(|uid| !seen.contains(*uid)).cloned());
                }
                Ok(Event::Delete(job)) => missing.push(job.uid().into()),
                Err(e) => {
                    if let Some(message) = watch::refused(&e) {
                        return Err(anyhow!(message));
                    }
                }
            }
            for uid in missing {
                if config.label_selector.is_some() && self.may_exist(session, &uid).await {
                    // Its labels were changed: it is waited for all the same.
                    config.label_selector = None;
                    events = start(&config);
                    break;
                }
                self.gone(&uid)?;
            }
        }
        Ok(())
    }

    /// Whether a job that is waited for is still there, as far as the API server says.
    async fn may_exist(&self, session: &Session, uid: &str) -> bool {
        let Some(asked) = self.open.get(uid) else { return false };
        match session.within(&asked.namespace).jobs().get_metadata_opt(&asked.name).await {
            Ok(found) => found.is_some_and(|job| job.metadata.uid.as_deref() == Some(uid)),
            Err(_) => true,
        }
    }

    fn see(&mut self, job: &AgentJob) -> anyhow::Result<()> {
        let reached = self.open.get(job.uid()).and_then(|asked| judge(job, asked.generation, self.goal));
        match (reached, self.open.get(job.uid()).cloned()) {
            (Some(false), Some(asked)) if !watch::finished(job) => {
                let why = paused(job).map(|c| plain(&c.message)).unwrap_or_default();
                self.done(&asked, &format!("can't be paused: {why}"), false)
            }
            (Some(reached), Some(asked)) => self.done(&asked, watch::phase(job).as_str(), reached),
            _ => Ok(()),
        }
    }

    fn gone(&mut self, uid: &str) -> anyhow::Result<()> {
        match self.open.get(uid).cloned() {
            Some(asked) => self.done(&asked, "was deleted", self.goal == Goal::Ended),
            None => Ok(()),
        }
    }

    fn done(&mut self, asked: &Asked, word: &str, reached: bool) -> anyhow::Result<()> {
        self.open.remove(&asked.uid);
        let line = format!("{} {word}", reference(&asked.name));
        if !reached {
            self.failed = true;
            say(format_args!("error: {line}"));
        } else if !self.quiet {
            writeln!(std::io::stdout(), "{line}")?;
        }
        Ok(())
    }
}

fn paused(job: &AgentJob) -> Option<&Condition> {
    job.status.as_ref()?.conditions.iter().find(|c| c.type_ == conditions::PAUSED)
}

/// Whether the runner has answered this pause, and not an earlier one, with why it can't be carried out. That is final.
fn cannot_pause(job: &AgentJob, generation: Option<i64>) -> bool {
    let answered =
        paused(job).is_some_and(|c| c.reason == Reason::CannotPause.as_str() && c.observed_generation >= generation);
    let control = job.status.as_ref().and_then(|s| s.control.as_ref());
    // A workflow takes each request as a new one, also for the same state, which changes no generation.
    let old = control.and_then(|c| c.sent.as_ref()).is_some_and(|sent| {
        let confirmed = control.and_then(|c| c.confirmed.as_ref());
        sent.request.as_deref() != job.control_request() || confirmed.is_none_or(|c| c.time.0 < sent.time.0)
    });
    answered && !old
}

/// Whether a job has reached it; `None`: not yet.
fn judge(job: &AgentJob, generation: Option<i64>, goal: Goal) -> Option<bool> {
    let status = job.status.as_ref()?;
    let phase = status.phase?;
    if phase.is_terminal() {
        return Some(goal == Goal::Ended || (goal == Goal::Succeeded && phase == Phase::Succeeded));
    }
    if status.observed_generation < generation {
        return None;
    }
    let paused = paused(job);
    let reached = match goal {
        Goal::Paused if cannot_pause(job, generation) => return Some(false),
        Goal::Paused => phase == Phase::Paused,
        // A resume that its runner has not confirmed has another reason.
        Goal::Resumed => phase != Phase::Paused && paused.is_none_or(|c| c.reason == Reason::NotPaused.as_str()),
        Goal::Ended | Goal::Succeeded => false,
    };
    reached.then_some(true)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::names;

    fn job(phase: &str, reason: &str, observed: i64) -> AgentJob {
        let condition = json!({ "type": "Paused", "status": "False", "reason": reason, "message": "why",
            "observedGeneration": observed,
            "lastTransitionTime": "2026-01-01T00:00:00Z" });
        serde_json::from_value(json!({
            "apiVersion": "kodosumi.io/v1alpha1", "kind": "AgentJob", "metadata": { "name": "x", "uid": "u" },
            "spec": { "entryPoint": "e", "template": {} },
            "status": { "phase": phase, "observedGeneration": observed, "conditions": [condition] },
        }))
        .unwrap()
    }

    #[test]
    fn a_request_is_reached_once_the_status_answers_it() {
        let at = |phase, reason, observed, goal| judge(&job(phase, reason, observed), Some(2), goal);
        assert_eq!(at("Paused", "Paused", 1, Goal::Paused), None, "that was an earlier pause");
        assert_eq!(at("Paused", "Paused", 2, Goal::Paused), Some(true));
        assert_eq!(at("Running", "Pausing", 2, Goal::Paused), None);
        assert_eq!(at("Running", "CannotPause", 1, Goal::Paused), None, "that was an earlier pause");
        assert_eq!(at("Running", "CannotPause", 2, Goal::Paused), Some(false), "final");
        assert_eq!(at("Running", "CannotPause", 2, Goal::Ended), None);
        assert_eq!(at("Running", "NotPaused", 1, Goal::Resumed), None, "an earlier resume");
        assert_eq!(at("Running", "Resuming", 2, Goal::Resumed), None);
        assert_eq!(at("Paused", "Paused", 2, Goal::Resumed), None);
        assert_eq!(at("Retrying", "NotPaused", 2, Goal::Resumed), Some(true));
        assert_eq!(at("Cancelling", "NotPaused", 2, Goal::Ended), None);
    }

    #[test]
    fn an_earlier_pause_that_could_not_be_carried_out_is_not_this_one() {
        let answered = |request: &str, second: i64| {
            let mut job = job("Running", "CannotPause", 2);
            job.metadata.annotations = Some([(names::ANNOTATION_REQUEST.into(), "new".into())].into());
            let control = json!({
                "sent": { "state": "Paused", "id": "i", "request": request, "time": "2026-01-01T00:00:05Z" },
                "confirmed": { "state": "Running", "generation": 1, "run": 1, "time": format!("2026-01-01T00:00:0{second}Z") },
            });
            job.status.as_mut().unwrap().control = Some(serde_json::from_value(control).unwrap());
            judge(&job, Some(2), Goal::Paused)
        };
        assert_eq!(answered("old", 6), None);
        assert_eq!(answered("new", 4), None);
        assert_eq!(answered("new", 6), Some(false));
    }

    #[test]
    fn an_end_ends_each_wait() {
        let at = |phase, goal| judge(&job(phase, "NotPaused", 1), Some(2), goal);
        assert_eq!(at("Succeeded", Goal::Paused), Some(false));
        assert_eq!(at("Failed", Goal::Resumed), Some(false));
        assert_eq!((at("Cancelled", Goal::Ended), at("Succeeded", Goal::Ended)), (Some(true), Some(true)));
        assert_eq!((at("Failed", Goal::Succeeded), at("Succeeded", Goal::Succeeded)), (Some(false), Some(true)));
        assert_eq!(judge(&AgentJob::default(), None, Goal::Ended), None, "no status yet");
    }

    #[test]
    fn each_job_is_waited_for_once_and_by_its_uid() {
        let asked = Asked { namespace: "n".into(), name: "x".into(), uid: "u".into(), generation: Some(1) };
        let other = Asked { uid: "v".into(), ..asked.clone() };
        let mut waiting = Waiting::new(vec![asked, other], Goal::Succeeded, true);
        let job = job("Succeeded", "NotPaused", 1);
        waiting.see(&job).unwrap();
        waiting.see(&job).unwrap();
        assert_eq!((waiting.open.len(), waiting.failed), (1, false));
        waiting.gone("v").unwrap();
        assert!(waiting.open.is_empty() && waiting.failed, "a job that is gone has not succeeded");
    }
}
