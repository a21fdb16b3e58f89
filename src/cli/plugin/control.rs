//! `pause`, `resume`, `cancel`: a merge patch of the spec of each job. Each is a new request (the annotation), so that it
//! also takes effect if the spec has that state already but a signal through Temporal has changed it.

use std::process::ExitCode;

use anyhow::{Context, anyhow};
use clap::Args;
use futures::{StreamExt, stream};
use kube::{
    Api,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
};
use serde_json::{Value, json};

use super::{
    connect::Session,
    output::{Change, DryRun, MANAGER, Printed, reference},
    select::{Chosen, Selection},
    settle::{self, Asked, Goal, Limit},
    text::{Progress, say},
};
use crate::api::{AgentJob, DesiredState, Phase, names};

pub(super) const HELP: &str = "\
With --selector or --all, jobs that have ended, or are being cancelled, are left alone.

Exit codes:
  0    requested of each, or with --wait: reached by each
  1    not of each: the reason is on stderr, and the others were still asked
  2    wrong usage
  124  the time is over (--timeout)";

/// How many jobs are asked at a time.
const AT_ONCE: usize = 8;

#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    selection: Selection,
    #[command(flatten)]
    change: Change,
    /// Wait until each has reached it: is paused as its runner has confirmed, or is no longer, or has ended
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,
    #[command(flatten)]
    limit: Limit,
}

/// Requests a state of each job. Without `--wait` it returns once that is written, not when it is reached.
pub(super) async fn run(session: &Session, arguments: &Arguments, state: DesiredState) -> anyhow::Result<ExitCode> {
    let mut requests =
        Requests { change: arguments.change, state, asked: Vec::new(), failed: 0, printed: Printed::default() };
    let names = arguments.selection.names();
    if names.is_empty() {
        let mut pages = arguments.selection.pages(session, phases(state));
        let (mut found, mut progress) = (0, Progress::new());
        while let Some(page) = pages.next().await.map_err(|e| session.explain(e, ""))? {
            progress.clear();
            found += page.len();
            requests.of(session, page.into_iter().map(Job::Chosen)).await;
            progress.show(format_args!("{found} jobs asked"));
        }
        if found == 0 {
            say("No AgentJobs found");
        }
    } else {
        requests.of(session, names.iter().cloned().map(Job::Named)).await;
    }
    let failed = requests.failed > 0;
    if arguments.wait {
        let goal = match state {
            DesiredState::Paused => Goal::Paused,
            DesiredState::Running => Goal::Resumed,
            DesiredState::Cancelled => Goal::Ended,
        };
        let selector = arguments.selection.selector.as_deref();
        let quiet = arguments.change.output.is_some() || requests.printed.failed();
        let code = settle::all(session, requests.asked, goal, selector, arguments.limit.timeout, quiet).await?;
        requests.printed.end()?;
        return Ok(if failed { ExitCode::FAILURE } else { code });
    }
    requests.printed.end()?;
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The phases of jobs that a state can be requested of, where they are not named.
fn phases(state: DesiredState) -> &'static [Phase] {
    const OPEN: [Phase; 5] = [Phase::Pending, Phase::Running, Phase::Paused, Phase::Retrying, Phase::Cancelling];
    if state == DesiredState::Cancelled { &OPEN } else { &OPEN[..4] }
}

/// A job that is to be asked.
enum Job {
    /// It has to be read first.
    Named(String),
    Chosen(Chosen),
}

/// What is requested of each, and what became of it.
struct Requests {
    change: Change,
    state: DesiredState,
    asked: Vec<Asked>,
    failed: usize,
    printed: Printed,
}

impl Requests {
    /// Asks several at a time, and prints in their order.
    async fn of(&mut self, session: &Session, jobs: impl Iterator<Item = Job>) {
        let (change, state) = (self.change, self.state);
        let ask = |job: Job| async move {
            let job = match job {
                Job::Chosen(job) => job,
                Job::Named(name) => named(session, &name, state).await?,
            };
            ask(session, job, change, state).await
        };
        let mut answers = stream::iter(jobs.map(ask)).buffered(AT_ONCE);
        while let Some(answer) = answers.next().await {
            match answer {
                Ok((asked, object)) => {
                    self.printed.note(change.print(&asked.name, word(state), &object));
                    self.asked.push(asked);
                }
                Err(error) => {
                    self.failed += 1;
                    say(format_args!("error: {error:#}"));
                }
            }
        }
    }
}

fn word(state: DesiredState) -> &'static str {
    match state {
        DesiredState::Running => "resume requested",
        DesiredState::Paused => "pause requested",
        DesiredState::Cancelled => "cancel requested",
    }
}

async fn named(session: &Session, name: &str, state: DesiredState) -> anyhow::Result<Chosen> {
    let job = session.job(name).await?;
    match refusal(&job, state) {
        Some(why) => Err(anyhow!("{} {why}", reference(name))),
        None => {
            let of = job.reference();
            let phase = job.status.and_then(|s| s.phase).unwrap_or_default();
            let created = job.metadata.creation_timestamp;
            Ok(Chosen { namespace: of.namespace, name: of.name, uid: of.uid, phase, created })
        }
    }
}

/// Requests the state of one job. Returns the whole job only where it is to be printed.
async fn ask(session: &Session, job: Chosen, change: Change, state: DesiredState) -> anyhow::Result<(Asked, Value)> {
    let kind = ApiResource::erase::<AgentJob>(&());
    let jobs: Api<DynamicObject> = Api::namespaced_with(session.client(), &job.namespace, &kind);
    let explain = |e| session.within(&job.namespace).explain(e, &job.name);
    let patch = patch(&job.uid, state, &fresh_id()?);
    let (dry_run, manager) = (change.dry_run == DryRun::Server, Some(MANAGER.into()));
    let params = PatchParams { dry_run, field_manager: manager, ..PatchParams::default() };
    let (generation, object) = match (change.dry_run, change.whole()) {
        (DryRun::Client, false) => (None, Value::Null),
        (DryRun::Client, true) => {
            let mut object = serde_json::to_value(jobs.get(&job.name).await.map_err(explain)?)?;
            merge(&mut object, &patch);
            (None, object)
        }
        (_, true) => {
            let object = jobs.patch(&job.name, &params, &Patch::Merge(patch)).await.map_err(explain)?;
            (object.metadata.generation, serde_json::to_value(object)?)
        }
        (_, false) => {
            let meta = jobs.patch_metadata(&job.name, &params, &Patch::Merge(patch)).await.map_err(explain)?;
            (meta.metadata.generation, Value::Null)
        }
    };
    Ok((Asked { namespace: job.namespace, name: job.name, uid: job.uid, generation }, object))
}

/// Bound to the object's UID, not its version: concurrent writes don't matter.
fn patch(uid: &str, state: DesiredState, id: &str) -> Value {
    json!({
        "metadata": { "uid": uid, "annotations": { names::ANNOTATION_REQUEST: id } },
        "spec": { "desiredState": state },
    })
}

/// A merge patch, for what is only shown.
fn merge(object: &mut Value, patch: &Value) {
    match (object, patch) {
        (Value::Object(fields), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(fields.entry(key.clone()).or_insert(json!({})), value);
            }
        }
        (object, patch) => *object = patch.clone(),
    }
}

/// Why a state can't be requested of a job, if so.
fn refusal(job: &AgentJob, state: DesiredState) -> Option<String> {
    let phase = job.status.as_ref().and_then(|s| s.phase);
    match phase.filter(|p| p.is_terminal()) {
        Some(Phase::Cancelled) if state == DesiredState::Cancelled => None,
        Some(phase) => Some(format!("has finished already: {phase:?}")),
        None if job.spec.desired_state == DesiredState::Cancelled && state != DesiredState::Cancelled => {
            Some("is being cancelled, which is final".into())
        }
        None => None,
    }
}

/// 64 random bits.
fn fresh_id() -> anyhow::Result<String> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).context("random numbers")?;
    Ok(hex::encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::AgentJobStatus;

    fn job(phase: Phase, spec: DesiredState) -> AgentJob {
        let mut job = AgentJob::default();
        job.spec.desired_state = spec;
        job.status = Some(AgentJobStatus { phase: Some(phase), ..AgentJobStatus::default() });
        job
    }

    #[test]
    fn what_has_ended_is_left_alone_and_cancel_is_final() {
        use DesiredState::{Cancelled, Paused, Running};
        assert!(refusal(&job(Phase::Succeeded, Running), Paused).unwrap().contains("Succeeded"));
        assert!(refusal(&job(Phase::Cancelling, Cancelled), Running).unwrap().contains("final"));
        assert_eq!(refusal(&job(Phase::Cancelled, Cancelled), Cancelled), None, "cancelling again is no error");
        assert_eq!(refusal(&job(Phase::Running, Running), Running), None, "the spec may say so already");
        assert!(!phases(Paused).iter().any(|p| p.is_terminal() || *p == Phase::Cancelling));
        assert!(phases(Cancelled).contains(&Phase::Cancelling), "cancelling again is no error");
    }

    #[test]
    fn a_dry_run_shows_what_the_patch_would_make() {
        let mut object =
            json!({ "metadata": { "name": "x", "uid": "u" }, "spec": { "desiredState": "Running", "a": 1 } });
        merge(&mut object, &patch("u", DesiredState::Paused, "1"));
        let annotations = json!({ names::ANNOTATION_REQUEST: "1" });
        let wanted = json!({ "metadata": { "name": "x", "uid": "u", "annotations": annotations },
            "spec": { "desiredState": "Paused", "a": 1 } });
        assert_eq!(object, wanted);
    }

    #[test]
    fn ids_are_fresh() {
        assert_ne!(fresh_id().unwrap(), fresh_id().unwrap());
    }
}
