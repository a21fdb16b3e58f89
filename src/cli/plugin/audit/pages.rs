//! Lists for a [`Sweep`], page by page.

use futures::TryStreamExt;
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{Client, Resource, api::ListParams};
use serde_json::Value;

use crate::{
    api::{AgentJob, AgentRun, Phase, names},
    audit::{PodRow, RunRow, Sweep},
    cli::plugin::tables::{Listed, each},
    pods::view,
    temporal::{Temporal, TemporalError},
};

/// The pods whose phase is not final, and the others.
const LIVE: &str = "status.phase!=Succeeded,status.phase!=Failed";
const ENDED: &str = "status.phase!=Pending,status.phase!=Running,status.phase!=Unknown";

/// Takes all jobs, runs and pods of a namespace, or of all.
pub(super) async fn sweep(client: &Client, namespace: Option<&str>, sweep: &mut Sweep) -> Result<(), kube::Error> {
    let all = ListParams::default;
    each(client, &AgentJob::url_path(&(), namespace), all(), |listed| {
        let phase = listed.cell("Phase").and_then(|p| serde_json::from_value::<Phase>(p.clone()).ok());
        sweep.job(word(&listed.meta().uid), phase.is_some_and(Phase::is_terminal));
    })
    .await?;
    each(client, &AgentRun::url_path(&(), namespace), all(), |listed| run(&listed, sweep)).await?;
    for (selector, is_live) in [(LIVE, true), (ENDED, false)] {
        let pods = all().fields(selector);
        each(client, &Pod::url_path(&(), namespace), pods, |listed| pod(listed.meta(), is_live, sweep)).await?;
    }
    Ok(())
}

/// Takes all open workflows of an installation.
pub(super) async fn workflows(temporal: &Temporal, installation: &str, sweep: &mut Sweep) -> Result<(), TemporalError> {
    let mut found = Box::pin(temporal.open_workflows(installation)?);
    while let Some((id, uid)) = found.try_next().await? {
        sweep.workflow(&id, &uid);
    }
    Ok(())
}

fn word(text: &Option<String>) -> &str {
    text.as_deref().unwrap_or_default()
}

fn run(listed: &Listed<'_>, sweep: &mut Sweep) {
    let meta = listed.meta();
    let owner = meta.owner_references.iter().flatten().find(|o| o.kind == "AgentJob").map(|o| o.uid.as_str());
    let label = meta.labels.as_ref().and_then(|l| l.get(names::LABEL_JOB_UID)).map(String::as_str);
    let is_tombstone = listed.cell("Tombstone").is_some_and(|t| t == &Value::Bool(true));
    sweep.run(RunRow {
        namespace: word(&meta.namespace),
        name: word(&meta.name),
        uid: word(&meta.uid),
        job: listed.cell("Job").and_then(Value::as_str).unwrap_or_default(),
        job_uid: owner.or(label),
        number: listed.cell("Number").and_then(Value::as_i64).and_then(|n| i32::try_from(n).ok()).unwrap_or(0),
        is_open: !is_tombstone && listed.cell("Ended").is_none(),
    });
}

/// A pod, if it is an agent's: by its label, which users may remove, or by its owner.
fn pod(meta: &ObjectMeta, is_live: bool, sweep: &mut Sweep) {
    let component = meta.labels.as_ref().and_then(|l| l.get(names::LABEL_COMPONENT));
    let owner = view::owner(meta);
    if owner.is_some() || component.is_some_and(|c| c == names::RUNNER_COMPONENT) {
        let (namespace, name) = (word(&meta.namespace), word(&meta.name));
        let job = owner.and_then(|owner| names::job_of(&owner.name));
        sweep.pod(PodRow { namespace, name, run_uid: owner.map(|o| o.uid.as_str()), job, is_live });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cli::plugin::{paging, tables::Table};

    fn table(json: Value) -> Table {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_run_is_read_from_its_row() {
        let table = table(json!({
            "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": { "continue": "more" },
            "columnDefinitions": [{ "name": "Name", "type": "string", "format": "name", "description": "", "priority": 0 },
                { "name": "Job" }, { "name": "Number" }, { "name": "Ended" }, { "name": "Tombstone" }],
            "rows": [
                { "cells": ["j-0-1", "j", 1, "Failed", null],
                  "object": { "metadata": { "name": "j-0-1", "namespace": "n", "uid": "r1", "labels": { "kodosumi.io/job-uid": "ju" } } } },
                { "cells": ["j-0-2", "j", 2, null, true], "object": { "metadata": { "name": "j-0-2", "uid": "r2",
                    "ownerReferences": [{ "apiVersion": "kodosumi.io/v1alpha1", "kind": "AgentJob", "name": "j", "uid": "ju" }] } } },
                { "cells": ["j-0-3", "j", 3, null, null], "object": { "metadata": { "name": "j-0-3", "uid": "r3",
                    "labels": { "kodosumi.io/job-uid": "ju" } } } },
            ],
        }));
        assert_eq!(paging::next(Some(&table.metadata)), Some("more"));
        let mut sweep = Sweep::default();
        sweep.job("ju", true);
        table.listed().for_each(|listed| run(&listed, &mut sweep));
        // The third alone is open, and its job has ended.
        let suspects: Vec<_> = sweep.suspects().into_iter().map(|s| format!("{s:?}")).collect();
        assert_eq!(suspects, [r#"Run { namespace: "", name: "j-0-3" }"#]);
    }

    #[test]
    fn a_pod_is_an_agents_by_its_label_or_its_owner() {
        let count = |meta: Value| {
            let mut sweep = Sweep::default();
            pod(&serde_json::from_value(meta).unwrap(), true, &mut sweep);
            sweep.counts().pods
        };
        let owner = json!([{ "apiVersion": names::API_VERSION, "kind": "AgentRun", "name": "r", "uid": "u",
            "controller": true }]);
        assert_eq!(count(json!({ "name": "p", "ownerReferences": owner })), 1);
        assert_eq!(count(json!({ "name": "p", "labels": { names::LABEL_COMPONENT: names::RUNNER_COMPONENT } })), 1);
        assert_eq!(count(json!({ "name": "p", "labels": { names::LABEL_COMPONENT: "web" } })), 0);
    }
}
