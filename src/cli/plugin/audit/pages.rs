//! Lists for a [`Sweep`], page by page. The API server sends tables, as it does to `kubectl get`: the columns and the
//! metadata of an object, whatever the size of its inputs and results.

use futures::TryStreamExt;
use k8s_openapi::{
    api::core::v1::Pod,
    apimachinery::pkg::apis::meta::v1::{ListMeta, ObjectMeta},
};
use kube::{Client, Resource, api::ListParams, core::Request};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    api::{AgentJob, AgentRun, Phase, names},
    audit::{PodRow, RunRow, Sweep},
    cli::plugin::paging,
    pods::view,
    temporal::{Temporal, TemporalError},
};

/// How many objects a page has.
const PAGE: u32 = 500;
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
/// The pods whose phase is not final, and the others.
const LIVE: &str = "status.phase!=Succeeded,status.phase!=Failed";
const ENDED: &str = "status.phase!=Pending,status.phase!=Running,status.phase!=Unknown";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Table {
    #[serde(default)]
    metadata: ListMeta,
    #[serde(default)]
    column_definitions: Vec<Column>,
    #[serde(default)]
    rows: Vec<Row>,
}

#[derive(Deserialize)]
struct Column {
    name: String,
}

#[derive(Deserialize)]
struct Row {
    cells: Vec<Value>,
    object: Object,
}

#[derive(Deserialize)]
struct Object {
    metadata: ObjectMeta,
}

/// One object: its metadata, and the cells by the names of their columns.
struct Listed<'a> {
    columns: &'a [Column],
    row: &'a Row,
}

impl Listed<'_> {
    fn meta(&self) -> &ObjectMeta {
        &self.row.object.metadata
    }

    fn cell(&self, column: &str) -> Option<&Value> {
        let at = self.columns.iter().position(|c| c.name == column)?;
        self.row.cells.get(at).filter(|value| !value.is_null())
    }
}

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
    while let Some(id) = found.try_next().await? {
        if let Some(uid) = names::job_uid(installation, &id) {
            sweep.workflow(&id, uid);
        }
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

/// Lists page by page. What is suspected is read anyway, if a page is of a newer snapshot.
async fn each(
    client: &Client,
    url: &str,
    params: ListParams,
    mut take: impl FnMut(Listed<'_>),
) -> Result<(), kube::Error> {
    paging::each(params.limit(PAGE), async |page| {
        let mut request = Request::new(url).list(page).map_err(kube::Error::BuildRequest)?;
        request.headers_mut().insert("accept", axum::http::HeaderValue::from_static(TABLE));
        let table = client.request::<Table>(request).await?;
        let columns = &table.column_definitions;
        table.rows.iter().for_each(|row| take(Listed { columns, row }));
        Ok(table.metadata)
    })
    .await
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

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
        table.rows.iter().for_each(|row| run(&Listed { columns: &table.column_definitions, row }, &mut sweep));
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
