//! `koco before-uninstall`: refuses while AgentJobs live that nothing would control any more. Called by the chart's
//! hook before an uninstall, with the controller's account.

use std::fmt::Write as _;

use anyhow::Context;
use clap::Args;
use kube::{
    Api, ResourceExt,
    api::{ApiResource, ListParams},
    core::{NotUsed, Object},
};
use serde::Deserialize;

use super::plugin::paging;
use crate::{
    api::{AgentJob, Phase, names},
    platform::{kubernetes, metrics::RequestMetrics, settings::Common},
};

/// How many jobs are read at a time, each with all of its inputs.
const PAGE: u32 = 50;
/// How many are named.
const NAMED: usize = 20;

#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    common: Common,
    /// The command that takes a refused uninstall back
    #[arg(long)]
    undo: Option<String>,
}

/// A job as it is listed.
type Job = Object<NotUsed, Status>;

#[derive(Clone, Debug, Default, Deserialize)]
struct Status {
    phase: Option<Phase>,
}

/// A job that lives: namespace and name, and its phase.
type Live = (String, Phase);

/// A job of which something runs or may start, or which can't be deleted without a controller.
fn live(job: &Job) -> Option<Live> {
    let phase = job.status.as_ref().and_then(|status| status.phase).unwrap_or_default();
    let lives = !phase.is_terminal() || job.finalizers().iter().any(|finalizer| finalizer == names::FINALIZER);
    lives.then(|| (format!("{}/{}", job.namespace().unwrap_or_default(), job.name_any()), phase))
}

/// What is said of jobs that live; `None` if there are none.
fn refusal(live: &[Live], namespaces: &[Option<String>]) -> Option<String> {
    let mut text = match live.len() {
        0 => return None,
        1 => "an AgentJob lives, so koco is not uninstalled:\n".to_string(),
        number => format!("{number} AgentJobs live, so koco is not uninstalled:\n"),
    };
    for (job, phase) in live.iter().take(NAMED) {
        let _ = writeln!(text, "  {job}  {phase:?}");
    }
    if live.len() > NAMED {
        let _ = writeln!(text, "  and {} more: kubectl get agentjobs --all-namespaces", live.len() - NAMED);
    }
    text.push_str("Wait for their end, cancel them, or delete them:");
    for namespace in namespaces {
        let place =
            namespace.as_ref().map_or("--all-namespaces".into(), |namespace| format!("--namespace {namespace}"));
        let _ = write!(text, "\n  kubectl delete agentjobs --all {place} --wait");
    }
    Some(text)
}

/// What else can be done. Helm has a release as uninstalling from the moment when its hooks run, and doesn't upgrade it
/// then.
fn ways_on(undo: Option<&str>) -> String {
    let mut text = "Or leave the jobs as they are: helm uninstall --no-hooks. Agents that run go on, nothing else \
        happens to their jobs, and the next installation takes them up."
        .to_string();
    if let Some(undo) = undo {
        let _ = write!(text, "\nTo go on with this installation, which Helm has as uninstalling: {undo}");
    }
    text
}

async fn all_live(namespaces: &[Option<String>]) -> anyhow::Result<Vec<Live>> {
    let client = kubernetes::client(&RequestMetrics::default()).await?;
    let kind = ApiResource::erase::<AgentJob>(&());
    let mut found = Vec::new();
    for namespace in namespaces {
        let api: Api<Job> = match namespace {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &kind),
            None => Api::all_with(client.clone(), &kind),
        };
        let listed = paging::each(ListParams::default().limit(PAGE), async |page| {
            let list = api.list(page).await?;
            found.extend(list.items.iter().filter_map(live));
            Ok(list.metadata)
        });
        match listed.await {
            // Without the CRD there are no jobs.
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            listed => listed.context("the AgentJobs can't be listed, so koco is not uninstalled")?,
        }
    }
    Ok(found)
}

/// Looks for jobs that live. Fails with their names if there are any.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let namespaces = arguments.common.namespaces();
    let text = match runtime.block_on(all_live(&namespaces)) {
        Ok(found) => refusal(&found, &namespaces),
        Err(error) => Some(format!("{error:#}")),
    };
    match text {
        Some(text) => anyhow::bail!("{text}\n{}", ways_on(arguments.undo.as_deref())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn job(name: &str, phase: Option<&str>, finalizers: &[&str]) -> Job {
        serde_json::from_value(json!({
            "apiVersion": "kodosumi.io/v1alpha1", "kind": "AgentJob",
            "metadata": { "namespace": "team", "name": name, "finalizers": finalizers },
            "spec": { "entryPoint": "x" },
            "status": { "phase": phase, "attempts": 1 },
        }))
        .unwrap()
    }

    #[test]
    fn who_has_ended_and_is_let_go_does_not_live() {
        let all = [
            (job("running", Some("Running"), &[names::FINALIZER]), true),
            (job("new", None, &[]), true),
            (job("ends", Some("Succeeded"), &[names::FINALIZER]), true),
            (job("ended", Some("Failed"), &["another/finalizer"]), false),
        ];
        assert_eq!(all.iter().map(|(job, _)| live(job).is_some()).collect::<Vec<_>>(), all.map(|(_, lives)| lives));
    }

    #[test]
    fn a_refusal_names_some_and_counts_all() {
        let all = [None];
        assert_eq!(refusal(&[], &all), None);
        let one = refusal(&[live(&job("a", Some("Paused"), &[])).unwrap()], &all).unwrap();
        assert!(one.starts_with("an AgentJob lives") && one.contains("\n  team/a  Paused\n"), "{one}");
        let many: Vec<Live> = (0..25).map(|n| (format!("team/job-{n}"), Phase::Running)).collect();
        let many = refusal(&many, &[Some("team".into()), Some("b".into())]).unwrap();
        assert!(many.starts_with("25 AgentJobs live") && many.contains("  and 5 more: "), "{many}");
        assert!(many.contains("team/job-19  ") && !many.contains("team/job-20  "), "{many}");
        // Other installations have other namespaces.
        let deletions: Vec<&str> = many.lines().filter(|line| line.contains("kubectl delete")).collect();
        assert_eq!(
            deletions,
            ["team", "b"].map(|n| format!("  kubectl delete agentjobs --all --namespace {n} --wait"))
        );
        assert!(ways_on(Some("helm rollback x 1")).ends_with(" uninstalling: helm rollback x 1"));
    }
}
