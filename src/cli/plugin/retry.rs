//! `retry`: a new job with the spec of one that has finished, as it is stored, with fields that this binary doesn't
//! know.

use std::{
    collections::{BTreeMap, HashMap},
    io::Write,
    process::ExitCode,
};

use anyhow::{Context, bail};
use clap::Args;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::{
    Api, Resource,
    api::{ApiResource, DynamicObject, ListParams, PostParams},
};
use serde_json::{Value, json};

use super::{
    connect::Session,
    output::{Change, DryRun, MANAGER, Printed, name_of, reference},
    select::{Chosen, Selection},
    settle::{self, Asked, Goal, Limit},
    tables,
    text::say,
};
use crate::api::{AgentJob, DesiredState, Phase, names};

/// The longest name that leaves room for the suffix.
const HEAD: usize = 63 - "-retry-".len() - 5;

pub(super) const HELP: &str = "\
With --selector or --all, jobs that have failed are retried, and no others, each once: those that have been retried already
are left alone. Name one to retry it again.

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
    #[command(flatten)]
    limit: Limit,
}

pub(super) async fn run(session: &Session, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let (selection, change) = (&arguments.selection, arguments.change);
    let (mut created, mut failed, mut printed) = (Vec::new(), false, Printed::default());
    let mut note = |made: anyhow::Result<(Asked, Value)>| match made {
        Ok((job, object)) => {
            printed.note(print(&job.name, &object, change));
            created.push(job);
        }
        Err(error) => {
            failed = true;
            say(format_args!("error: {error:#}"));
        }
    };
    for name in selection.names() {
        note(one(session, name, change).await);
    }
    if selection.names().is_empty() {
        let retried = Retried::read(session, selection).await.map_err(|e| session.explain(e, ""))?;
        let (mut found, mut left) = (0, 0);
        let mut pages = selection.pages(session, &[Phase::Failed]);
        while let Some(page) = pages.next().await.map_err(|e| session.explain(e, ""))? {
            found += page.len();
            for job in page {
                if retried.has(&job) {
                    left += 1;
                    continue;
                }
                note(one(&session.within(&job.namespace), &job.name, change).await);
            }
        }
        if found == 0 {
            say("No AgentJobs found that have failed");
        } else if left > 0 {
            say(format_args!("{left} of {found} were left alone: they have been retried already"));
        }
    }
    if arguments.wait {
        let code = settle::all(session, created, Goal::Succeeded, None, arguments.limit.timeout, true).await?;
        printed.end()?;
        return Ok(if failed { ExitCode::FAILURE } else { code });
    }
    printed.end()?;
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The jobs that have been retried, by namespace and name, and when last.
#[derive(Default)]
struct Retried(HashMap<(String, String), Time>);

impl Retried {
    async fn read(session: &Session, selection: &Selection) -> Result<Self, kube::Error> {
        let namespace = (!selection.all_namespaces).then_some(session.namespace.as_str());
        let params = ListParams::default().labels(names::LABEL_RETRY_OF);
        let mut retried = Self::default();
        let url = AgentJob::url_path(&(), namespace);
        tables::each(&session.client(), &url, params, |listed| retried.note(listed.meta())).await?;
        Ok(retried)
    }

    fn note(&mut self, retry: &ObjectMeta) {
        let of = retry.labels.as_ref().and_then(|labels| labels.get(names::LABEL_RETRY_OF));
        if let (Some(of), Some(made)) = (of, &retry.creation_timestamp) {
            let last = self.0.entry((retry.namespace.clone().unwrap_or_default(), of.clone())).or_insert(made.clone());
            if last.0 < made.0 {
                *last = made.clone();
            }
        }
    }

    /// Whether this job has been retried, and not an earlier one of its name.
    fn has(&self, job: &Chosen) -> bool {
        let last = self.0.get(&(job.namespace.clone(), job.name.clone()));
        last.is_some_and(|last| job.created.as_ref().is_none_or(|created| last.0 >= created.0))
    }
}

/// Prints the new job's name, or the job.
fn print(name: &str, object: &Value, change: Change) -> std::io::Result<()> {
    match change.output {
        None => writeln!(std::io::stdout(), "{name}{}", change.dry_run.remark()),
        Some(_) => change.print(name, "", object),
    }
}

/// Creates one.
async fn one(session: &Session, name: &str, change: Change) -> anyhow::Result<(Asked, Value)> {
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
    let asked = Asked { namespace: session.namespace.clone(), name: made, uid: uid.into(), generation: None };
    Ok((asked, new))
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
    fn a_job_is_retried_once() {
        let meta = |of: &str, created: &str| -> ObjectMeta {
            let labels = json!({ names::LABEL_RETRY_OF: of });
            serde_json::from_value(json!({ "namespace": "n", "labels": labels, "creationTimestamp": created })).unwrap()
        };
        let mut retried = Retried::default();
        retried.note(&meta("x", "2026-01-02T00:00:00Z"));
        retried.note(&meta("x", "2026-01-01T00:00:00Z"));
        retried.note(&ObjectMeta::default());
        let job = |namespace: &str, name: &str, day: u8| Chosen {
            namespace: namespace.into(),
            name: name.into(),
            created: serde_json::from_value(json!(format!("2026-01-0{day}T00:00:00Z"))).unwrap(),
            ..Chosen::default()
        };
        assert!(retried.has(&job("n", "x", 1)));
        assert!(!retried.has(&job("n", "x", 3)), "a new job of that name");
        assert!(!retried.has(&job("m", "x", 1)) && !retried.has(&job("n", "y", 1)));
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
