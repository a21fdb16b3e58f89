//! Answers by which nothing gets better, however often one asks: they are asked for ever less often.

use std::time::Duration;

use k8s_openapi::{
    api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding},
    jiff::Timestamp,
};
use koco::api::{StartGrant, TerminationType, conditions};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::json;

use crate::harness::{
    DEADLINE, DesiredState, ExecutionMode, Job, Kubelet, MODES, Phase, Server, Test, agent, audit,
    by_hand::{create_run, end, event, logged, run_of, started, succeeds, touch},
    job::{With, condition, pod_name, stalled},
    kubelet::End,
    runner::failed,
    temporal, within,
};

/// The first wait of koco's before it tries again what was refused.
const RETRY: Duration = Duration::from_secs(5);

/// A policy by which objects with names like `strict-...` can't be updated, until it is lifted.
struct Stricter {
    name: String,
    policies: Api<ValidatingAdmissionPolicy>,
    bindings: Api<ValidatingAdmissionPolicyBinding>,
}

impl Stricter {
    /// Of this resource, for this reason.
    async fn than_ours(test: &Test, resource: &str, reason: &str) -> Self {
        let name = format!("no-{}-{}", resource.replace('/', "-"), test.namespace);
        let (policies, bindings) = (Api::all(test.client.clone()), Api::all(test.client.clone()));
        let policy = json!({
            "metadata": { "name": name },
            "spec": {
                "failurePolicy": "Fail",
                "matchConstraints": { "resourceRules": [{ "apiGroups": ["kodosumi.io"], "apiVersions": ["*"],
                    "operations": ["UPDATE"], "resources": [resource] }] },
                "matchConditions": [{ "name": "one", "expression":
                    format!("request.namespace == '{}' && request.name.startsWith('strict-')", test.namespace) }],
                "validations": [{ "expression": "false", "message": "stricter than ours", "reason": reason }],
            },
        });
        let binding =
            json!({ "metadata": { "name": name }, "spec": { "policyName": name, "validationActions": ["Deny"] } });
        let (policy, binding) = (serde_json::from_value(policy), serde_json::from_value(binding));
        policies.create(&PostParams::default(), &policy.expect("a policy")).await.expect("a policy");
        bindings.create(&PostParams::default(), &binding.expect("a binding")).await.expect("a binding");
        Self { name, policies, bindings }
    }

    async fn lift(&self) {
        self.bindings.delete(&self.name, &DeleteParams::default()).await.expect("a deletion");
        self.policies.delete(&self.name, &DeleteParams::default()).await.expect("a deletion");
    }
}

/// When the job's status was refused, each time.
fn refused(job: &Job<'_>) -> Vec<Timestamp> {
    let events = audit::of_namespace(&job.test.namespace);
    let status = events.iter().filter(|e| {
        let object = &e["objectRef"];
        object["subresource"] == "status" && object["name"] == job.name.as_str() && e["verb"] == "update"
    });
    let refused = status.filter(|e| e["responseStatus"]["code"] == 422);
    let mut times: Vec<Timestamp> =
        refused.filter_map(|e| e["requestReceivedTimestamp"].as_str()?.parse().ok()).collect();
    times.sort();
    times
}

/// Waits for a refusal that comes at least that long after the first, and answers how many there were until then.
async fn refused_over(job: &Job<'_>, time: Duration) -> usize {
    within(DEADLINE, "it to be tried again", async || {
        let times = refused(job);
        let over = times.iter().position(|t| t.duration_since(times[0]).unsigned_abs() >= time);
        over.map(|i| i + 1).ok_or(times)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_status_that_is_not_taken_is_not_written_all_the_time() {
    let test = Test::new().await;
    let kubelet = Kubelet::of(&test);
    let mut strict = Vec::new();
    for mode in MODES {
        let name = format!("strict-{}", mode.as_str().to_lowercase());
        strict.push(test.apply_as(&name, agent("anything").mode(mode)).await);
    }
    let policy = Stricter::than_ours(&test, "agentjobs/status", "Invalid").await;
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
        within(DEADLINE, "a refusal", async || if refused(job).is_empty() { Err("none") } else { Ok(()) }).await;
    }
    // Another job is none the worse for it.
    let other = test.apply(agent("anything")).await;
    started(&kubelet, &other, 1).await;
    for job in &strict {
        let count = refused_over(job, RETRY).await;
        assert!(count <= 4, "{count} writes that were refused");
        let said = logged(&test, &["WARN", "stricter than ours", "Invalid", &job.name]).len();
        assert!(said >= 1, "nothing is said about {}", job.name);
        assert!(job.pods().await.is_empty(), "what follows from a status comes after it");
    }
    let metrics = roles.role("operator").metrics().await;
    assert!(metrics.contains("koco_reconcile_errors_total{reason=\"Invalid\"}"), "{metrics}");
    policy.lift().await;
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
    let (before, history) = (roles.role("operator").count("koco_reconciles_total").await, events());
    // Until another job has failed, waited for its second attempt, and succeeded.
    let slow = json!({ "retryPolicy": { "maximumAttempts": 2, "initialInterval": "5s" } });
    let other = test.apply(agent("anything").with(slow)).await;
    let (pod, runner) = started(&kubelet, &other, 1).await;
    runner.outcome(0, failed("AgentFailed", 1)).await.expect("204");
    kubelet.end(&pod_name(&pod), &End::exit(1, None)).await;
    let (pod, runner) = started(&kubelet, &other, 2).await;
    succeeds(&kubelet, &other, &pod, &runner, json!(2)).await;
    let more = roles.role("operator").count("koco_reconciles_total").await - before;
    assert!(more <= 60, "{more} reconciles of two jobs");
    assert!(events() - history <= 8, "{} events", events() - history);
}

/// As if koco's rights were taken away: users see it where they look.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_api_server_forbids_is_said_to_users() {
    let (test, _roles) = Test::with_operator().await;
    // The worker can't close the run.
    let job = test.apply_as("strict-run", agent("anything").mode(ExecutionMode::Temporal)).await;
    job.until_pod().await;
    let policy = Stricter::than_ours(&test, "agentruns/status", "Forbidden").await;
    within(DEADLINE, "the policy to be in force", async || {
        let patch = Patch::Merge(json!({ "status": { "gateway": "probe" } }));
        let name = job.run().await.expect("a run").name().to_string();
        match test.runs().patch_status(&name, &PatchParams::default(), &patch).await {
            Err(kube::Error::Api(e)) if e.code == 403 => Ok(()),
            other => Err(other.map(drop)),
        }
    })
    .await;
    job.want(DesiredState::Cancelled).await;
    let status = job.until("Stalled", stalled).await;
    let (_, reason, message) = condition(&status, conditions::STALLED);
    assert_eq!(reason, "RequestRefused", "{message}");
    assert!(message.contains("cleanup") && message.contains("stricter than ours"), "{message}");
    policy.lift().await;
    assert!(!stalled(&job.phase(Phase::Cancelled).await));

    // The controller can't let a job go.
    let job = test.apply_as("strict-job", agent("anything").mode(ExecutionMode::Temporal)).await;
    job.until_pod().await;
    let policy = Stricter::than_ours(&test, "agentjobs", "Forbidden").await;
    within(DEADLINE, "the policy to be in force", async || {
        let patch = Patch::Merge(json!({ "metadata": { "labels": { "example.com/probe": "1" } } }));
        match test.jobs().patch(&job.name, &PatchParams::default(), &patch).await {
            Err(kube::Error::Api(e)) if e.code == 403 => Ok(()),
            other => Err(other.map(drop)),
        }
    })
    .await;
    job.delete(DeleteParams::background()).await;
    let said = event(&test, &job.name, "RequestRefused").await.message.unwrap_or_default();
    assert!(said.contains("finalizers") && said.contains("stricter than ours"), "{said}");
    policy.lift().await;
    job.gone(DEADLINE).await;
}
