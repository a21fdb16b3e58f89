//! `retry`: a new job with the spec of one that has finished, as it is stored, with fields that this binary doesn't
//! know.

use std::{collections::BTreeMap, io::Write, process::ExitCode, time::Duration};

use anyhow::{Context, bail};
use clap::Args;
use kube::{
    Api,
    api::{ApiResource, DynamicObject, PostParams},
};
use serde_json::{Value, json};

use super::{
    connect::Session,
    output::{Change, DryRun, MANAGER, name_of, reference},
    select::Selection,
    settle::{self, Asked, Goal},
    text::say,
};
use crate::api::{AgentJob, DesiredState, Phase, Seconds, names};

/// The longest name that leaves room for the suffix.
const HEAD: usize = 63 - "-retry-".len() - 5;

pub(super) const HELP: &str = "\
With --selector or --all, jobs that have failed are retried, and no others.

Exit codes:
  0    created for each, or with --wait: each has succeeded
  1    not for each: the reason is on stderr, and the others were still retried; or one has not succeeded
  2    wrong usage
  124  the time is over (--timeout)";

#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    selection: Selection,
    #[command(flatten)]
    change: Change,
    /// Wait until each new job has ended
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,
    /// With --wait: how long, such as 90s. Default: without limit
    #[arg(long, value_name = "DURATION", value_parser = Seconds::parse, requires = "wait")]
    timeout: Option<Duration>,
}

pub(super) async fn run(session: &Session, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let (selection, change) = (&arguments.selection, arguments.change);
    let (mut created, mut failed, mut found) = (Vec::new(), false, 0);
    let mut note = |made: anyhow::Result<Asked>| match made {
        Ok(job) => created.push(job),
        Err(error) => {
            failed = true;
            say(format_args!("error: {error:#}"));
        }
    };
    for name in selection.names() {
        note(one(session, name, change).await);
    }
    if selection.names().is_empty() {
        let mut pages = selection.pages(session, &[Phase::Failed]);
        while let Some(page) = pages.next().await.map_err(|e| session.explain(e, ""))? {
            found += page.len();
            for job in page {
                note(one(&session.within(&job.namespace), &job.name, change).await);
            }
        }
        if found == 0 {
            say("No AgentJobs found that have failed");
        }
    }
    if arguments.wait {
        let code = settle::all(session, created, Goal::Succeeded, None, arguments.timeout, true).await?;
        return Ok(if failed { ExitCode::FAILURE } else { code });
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Creates one, and prints its name.
async fn one(session: &Session, name: &str, change: Change) -> anyhow::Result<Asked> {
    let kind = ApiResource::erase::<AgentJob>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(session.client(), &session.namespace, &kind);
    let old = api.get(name).await.map_err(|e| session.explain(e, name))?;
    let phase = old.data.pointer("/status/phase").and_then(Value::as_str).unwrap_or("Pending");
    if !finished(phase) {
        bail!("{} has not finished, its phase is {phase}: cancel it first, or wait for its end", reference(name));
    }
    let mut new = again(name, old.metadata.labels, &old.data);
    let params = PostParams { dry_run: change.dry_run == DryRun::Server, field_manager: Some(MANAGER.into()) };
    if change.dry_run != DryRun::Client {
        let body = serde_json::from_value(new).context("the new job")?;
        new = serde_json::to_value(api.create(&params, &body).await.map_err(|e| session.explain(e, name))?)?;
    }
    let (made, uid) = (name_of(&new), new.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default());
    match change.output {
        None => writeln!(std::io::stdout(), "{made}")?,
        Some(_) => change.print(&made, "", &new)?,
    }
    Ok(Asked { namespace: session.namespace.clone(), name: made, uid: uid.into(), generation: None })
}

fn finished(phase: &str) -> bool {
    serde_json::from_value::<Phase>(phase.into()).is_ok_and(Phase::is_terminal)
}

/// Labels of who manages the job, and annotations, are not copied: a GitOps tool would adopt the new job.
fn again(name: &str, labels: Option<BTreeMap<String, String>>, old: &Value) -> Value {
    let mut labels = labels.unwrap_or_default();
    labels.retain(|label, _| names::is_inherited(label));
    labels.insert(names::LABEL_RETRY_OF.into(), name.into());
    let mut spec = old.get("spec").cloned().unwrap_or_default();
    spec["desiredState"] = json!(DesiredState::Running);
    json!({
        "apiVersion": "kodosumi.io/v1alpha1",
        "kind": "AgentJob",
        "metadata": { "generateName": head(name) + "-retry-", "labels": labels },
        "spec": spec,
    })
}

/// The name without an earlier retry's suffix.
fn head(name: &str) -> String {
    let first = match name.rsplit_once("-retry-") {
        Some((first, random)) if random.len() == 5 && !first.is_empty() => first,
        _ => name,
    };
    let head: String = first.chars().take(HEAD).collect();
    head.trim_end_matches(['-', '.']).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_has_the_same_spec_and_runs() {
        let old = json!({
            "spec": { "entryPoint": "e", "desiredState": "Cancelled", "inputs": { "a": 1 } },
            "status": { "phase": "Cancelled" },
        });
        let labels = [("team", "t"), ("app.kubernetes.io/instance", "theirs"), (names::LABEL_RETRY_OF, "w")];
        let new = again("x", Some(labels.map(|(key, value)| (key.into(), value.into())).into()), &old);
        assert_eq!(new["spec"], json!({ "entryPoint": "e", "desiredState": "Running", "inputs": { "a": 1 } }));
        assert_eq!(new["metadata"]["generateName"], "x-retry-");
        assert_eq!(new["metadata"]["labels"], json!({ "team": "t", "kodosumi.io/retry-of": "x" }));
        assert_eq!(new.get("status"), None);
    }

    #[test]
    fn names_stay_short() {
        assert_eq!(head("x-retry-abcde"), "x");
        assert_eq!(head("x-retry-later-on"), "x-retry-later-on");
        assert_eq!((head(&"a".repeat(63)) + "-retry-abcde").len(), 63);
    }

    #[test]
    fn only_what_has_ended_is_tried_again() {
        assert!(finished("Succeeded") && finished("Failed") && finished("Cancelled"));
        assert!(!finished("Paused") && !finished("Retrying"));
    }
}
