//! Answers by which nothing gets better, however often one asks: they are asked for ever less often.

use std::time::Duration;

use koco::api::{StartGrant, TerminationType};
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::harness::{
    DEADLINE, ExecutionMode, Job, Kubelet, MODES, Server, Test, agent, audit,
    by_hand::{create_run, end, logged, run_of, started, touch},
    cluster::{feed, kubectl},
    job::With,
    temporal, within, word,
};

/// A policy by which the status of jobs with names like `strict-...` can't be written, while it is kept.
struct Stricter(String);

impl Stricter {
    fn than_ours(test: &Test) -> Self {
        let name = format!("no-status-{}", test.namespace);
        let policy = json!({ "apiVersion": "v1", "kind": "List", "items": [
            {
                "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
                "metadata": { "name": name },
                "spec": {
                    "failurePolicy": "Fail",
                    "matchConstraints": { "resourceRules": [{ "apiGroups": ["kodosumi.io"], "apiVersions": ["*"],
                        "operations": ["UPDATE"], "resources": ["agentjobs/status"] }] },
                    "matchConditions": [{ "name": "one", "expression":
                        format!("request.namespace == '{}' && request.name.startsWith('strict-')", test.namespace) }],
                    "validations": [{ "expression": "false", "message": "stricter than ours" }],
                },
            },
            {
                "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
                "metadata": { "name": name }, "spec": { "policyName": name, "validationActions": ["Deny"] },
            },
        ] });
        feed(&test.cluster.dev, "kubectl", &["apply", "-f", "-"], policy.to_string().as_bytes()).expect("a policy");
        Self(name)
    }

    fn lift(&self) -> Result<(), String> {
        for kind in ["validatingadmissionpolicybinding", "validatingadmissionpolicy"] {
            kubectl(&["delete", kind, &self.0, "--ignore-not-found"])?;
        }
        Ok(())
    }
}

impl Drop for Stricter {
    fn drop(&mut self) {
        let _ = self.lift();
    }
}

/// How often the job's status was refused.
fn refused(job: &Job<'_>) -> usize {
    let events = audit::of_namespace(&job.test.namespace);
    let status = events.iter().filter(|e| {
        let object = &e["objectRef"];
        object["subresource"] == "status" && object["name"] == job.name.as_str() && e["verb"] == "update"
    });
    status.filter(|e| e["responseStatus"]["code"] == 422).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_status_that_is_not_taken_is_not_written_all_the_time() {
    let test = Test::new().await;
    let kubelet = Kubelet::of(&test);
    let mut strict = Vec::new();
    for mode in MODES {
        let name = format!("strict-{}", word(mode).to_lowercase());
        strict.push(test.apply_as(&name, agent("anything").mode(mode)).await);
    }
    let policy = Stricter::than_ours(&test);
    let probe = async || {
        let patch = Patch::Merge(json!({ "status": { "observedGeneration": 0 } }));
        test.jobs().patch_status(&strict[0].name, &PatchParams::default(), &patch).await.map(drop)
    };
    within(DEADLINE, "the policy to be in force", async || match probe().await {
        Err(kube::Error::Api(e)) if e.code == 422 => Ok(()),
        other => Err(other),
    })
    .await;
    let mut roles = test.operator(Server::Shared).await;
    for job in &strict {
        within(DEADLINE, "a refusal", async || if refused(job) > 0 { Ok(()) } else { Err("none") }).await;
    }
    // Another job is none the worse for it.
    let other = test.apply(agent("anything")).await;
    started(&kubelet, &other, 1).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    for job in &strict {
        let count = refused(job);
        assert!((1..=4).contains(&count), "{count} writes that were refused");
        let said = logged(&test, &["WARN", "stricter than ours", "Invalid", &job.name]).len();
        assert!(said >= 1, "nothing is said about {}", job.name);
        assert!(job.pods().await.is_empty(), "what follows from a status comes after it");
    }
    let metrics = roles.role("operator").metrics().await;
    assert!(metrics.contains("koco_reconcile_errors_total{reason=\"Invalid\"}"), "{metrics}");
    policy.lift().expect("lifted");
    within(DEADLINE, "the policy to be lifted", async || probe().await).await;
    for job in &strict {
        touch(job, "again").await;
        started(&kubelet, job, 1).await;
    }
}

/// Temporal has never heard of the activity that the end of this run is for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_that_temporal_does_not_wait_for_is_not_told_all_the_time() {
    let test = Test::new().await;
    let mut roles = test.operator(Server::Shared).await;
    let kubelet = Kubelet::of(&test);
    let job = test.apply(agent("anything").mode(ExecutionMode::Temporal)).await;
    let (_pod, _runner) = started(&kubelet, &job, 1).await;
    let workflow = job.workflow().await;
    // The workflow waits for the end of run 1, and is told that of run 2.
    let first = job.run().await.expect("a run");
    let mut next = run_of(&job, 2, 1);
    next.spec.identity.execution_mode = ExecutionMode::Temporal;
    let granted = first.spec.grant.expect("a grant");
    next.spec.grant = Some(StartGrant { workflow_id: Some(workflow.clone()), ..granted });
    create_run(&test.runs(), &next, Some(end(TerminationType::Failed))).await;
    job.until("it on record", |s| s.active_run == Some(2)).await;
    let events = || temporal::events(&job.temporal, &workflow).len();
    let reconciles = |text: &str| {
        let line = text.lines().find(|l| l.starts_with("koco_reconciles_total ")).expect("a count");
        line.rsplit(' ').next().and_then(|n| n.parse::<f64>().ok()).expect("a number")
    };
    // What is still to come of the change itself comes in the first moments.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (before, history) = (reconciles(&roles.role("operator").metrics().await), events());
    tokio::time::sleep(Duration::from_secs(5)).await;
    let more = reconciles(&roles.role("operator").metrics().await) - before;
    assert!(more <= 12.0, "{more} reconciles of one job in five seconds");
    assert!(events() - history <= 4, "{} events", events() - history);
}
