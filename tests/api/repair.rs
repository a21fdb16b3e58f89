//! `kubectl koco audit --repair`: the controller, with the chart's rights, does what is safe about what doesn't fit,
//! once a request, and says what it did.

use koco::api::{TerminationType, names};
use kube::{
    ResourceExt,
    api::{DeleteParams, PostParams, PropagationPolicy},
};
use serde_json::{Value, json};

use crate::{
    audit::{audit, delete_by_force, findings},
    harness::{
        DEADLINE, Job, Kubelet, MODES, Phase, Roles, Server, Test, agent,
        by_hand::{
            bare_pod, create_run, end, event, events, foreign_pod, patch_status, run_of, started, succeeds, touch,
        },
        cluster::kubectl,
        job::{With, pod_name},
        life::nothing_was_forbidden,
        within,
    },
    rights::{account, kubeconfig},
};

/// All roles; the controller with the rights that the chart gives it.
async fn roles(test: &Test) -> Roles {
    let mut roles = Roles::separate(test, Server::Shared);
    // In the chart's own namespace it has this one, too.
    let (ns, controller) = (test.namespace.as_str(), account("controller"));
    let own = ["--verb=get,list,watch", "--resource=configmaps"];
    kubectl(&[&["create", "role", "own", "-n", ns], own.as_slice()].concat()).expect("a role");
    let user = format!("--user={controller}");
    kubectl(&["create", "rolebinding", "own", "-n", ns, "--role=own", &user]).expect("a binding");
    let process = &mut roles.role("controller").process;
    process.set("KUBECONFIG", Some(kubeconfig(test, &controller)));
    // The image that the chart names.
    process.set("KOCO_RUNNER_IMAGE", Some("kodosumi/koco:none".into()));
    roles.start().await;
    roles
}

/// A pod with all of koco's labels, for a run of this number.
fn labelled(job: &Job<'_>, name: &str, number: &str, owner: Option<Value>) -> Value {
    let mut pod = foreign_pod(job, name, json!({}));
    pod["metadata"]["labels"][names::LABEL_RUN_NUMBER] = json!(number);
    pod["metadata"]["finalizers"] = Value::Null;
    pod["metadata"]["ownerReferences"] = owner.map_or(Value::Null, |owner| json!([owner]));
    pod
}

async fn make(test: &Test, pod: Value) {
    test.pods().create(&PostParams::default(), &serde_json::from_value(pod).expect("a pod")).await.expect("a pod");
}

/// Requests the repair of all that doesn't fit. Exit code and all output.
async fn repair(test: &Test, args: &[&str]) -> (i32, String, String) {
    audit(test, "1s", &[&["--repair"], args].concat()).await
}

async fn told(test: &Test, object: &str, reason: &str, words: &str) {
    let note = event(test, object, reason).await.message.unwrap_or_default();
    assert!(note.contains(words), "{note}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_safe_is_done_and_told() {
    let test = Test::new().await;
    let _roles = roles(&test).await;
    let kubelet = Kubelet::of(&test);
    // A job that leaves its run behind.
    let left = test.apply(agent("anything").mode(MODES[0])).await;
    let (pod, _runner) = started(&kubelet, &left, 1).await;
    let run = left.run().await.expect("a run");
    left.delete(DeleteParams { propagation_policy: Some(PropagationPolicy::Orphan), ..Default::default() }).await;
    left.gone(DEADLINE).await;
    kubelet.deleted(&pod_name(&pod)).await;
    kubelet.remove(&pod_name(&pod)).await;
    // A pod of a run that is gone; a pod that only looks like one; a pod that has lost its labels, of an ended job.
    make(&test, labelled(&left, "lost", "7", None)).await;
    bare_pod(&test, "stray", json!({ names::LABEL_COMPONENT: names::RUNNER_COMPONENT })).await;
    let over = test.apply(agent("anything").mode(MODES[0])).await;
    let (pod, runner) = started(&kubelet, &over, 1).await;
    succeeds(&kubelet, &over, &pod, &runner, json!(1)).await;
    let old = create_run(&test.runs(), &run_of(&over, 2, 1), Some(end(TerminationType::Failed))).await;
    let owner = json!({ "apiVersion": names::API_VERSION, "kind": "AgentRun", "name": old.name(), "uid": old.uid(),
        "controller": true });
    let hidden = labelled(&over, &old.spec.identity.pod_name, "2", Some(owner));
    make(&test, hidden.with(json!({ "metadata": { "labels": null } }))).await;
    let all = [
        "PodWithoutRun lost".to_string(),
        "PodWithoutRun stray".into(),
        format!("RunWithoutJob {}", run.name()),
        format!("LivePodOfEndedJob {}", old.spec.identity.pod_name),
    ];
    assert_eq!(findings(&test, &[]).await.1, all);

    let (code, out, err) = repair(&test, &[]).await;
    assert_eq!((code, err.as_str()), (1, ""), "{out}");
    assert_eq!(out.lines().filter(|l| l.ends_with(": repair requested")).count(), 4, "{out}");
    told(&test, run.name(), "Repaired", &format!("deleted AgentRun {}", run.name())).await;
    told(&test, "lost", "Repaired", "deleted pod lost").await;
    told(&test, "stray", "NotRepaired", "delete it yourself").await;
    told(&test, &over.name, "Repaired", "deleted pod").await;
    within(DEADLINE, "what is left", async || {
        let (_, found, _) = findings(&test, &[]).await;
        if found == ["PodWithoutRun stray"] { Ok(()) } else { Err(found) }
    })
    .await;

    // The answer is kept, and a request is handled once.
    let object = over.get().await;
    let note = |key: &str| object.annotations().get(key).cloned();
    assert_eq!(note(names::ANNOTATION_REPAIR_HANDLED), note(names::ANNOTATION_REPAIR));
    assert!(note(names::ANNOTATION_REPAIR_RESULT).expect("an answer").contains("deleted pod"), "{object:?}");
    touch(&over, "again").await;
    over.patch(json!({ "metadata": { "annotations": { names::ANNOTATION_REPAIR: "another" } } })).await;
    told(&test, &over.name, "NothingToRepair", "nothing").await;
    assert_eq!(events(&test, &over.name, "Repaired").await.len(), 1);
    assert_eq!(over.status().await.phase, Some(Phase::Succeeded));
    nothing_was_forbidden(&test);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_fits_is_left_alone() {
    let test = Test::new().await;
    let _roles = roles(&test).await;
    let kubelet = Kubelet::of(&test);
    for mode in MODES {
        let job = test.apply(agent("anything").mode(mode)).await;
        let (pod, runner) = started(&kubelet, &job, 1).await;
        let asked = json!({ "metadata": { "annotations": { names::ANNOTATION_REPAIR: "now" } } });
        job.patch(asked.clone()).await;
        told(&test, &job.name, "NothingToRepair", "nothing").await;
        // At its run and its pod it is refused.
        let (run, pods) = (job.run().await.expect("a run"), test.pods());
        let patch = kube::api::Patch::Merge(&asked);
        test.runs().patch(run.name(), &Default::default(), &patch).await.expect("an annotation");
        pods.patch(&pod_name(&pod), &Default::default(), &patch).await.expect("an annotation");
        told(&test, run.name(), "NotRepaired", "its AgentJob exists").await;
        told(&test, &pod_name(&pod), "NotRepaired", "it is the pod of AgentRun").await;
        succeeds(&kubelet, &job, &pod, &runner, json!(1)).await;
    }
}

#[ignore = "more than a minute: make api-test SLOW=1"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workflows_without_their_jobs_are_cancelled() {
    let test = Test::new().await;
    let mut roles = roles(&test).await;
    let kubelet = Kubelet::of(&test);
    let mut jobs = Vec::new();
    for _ in 0..2 {
        let job = test.apply(agent("anything").mode(MODES[1]).heartbeat("10m")).await;
        let _started = started(&kubelet, &job, 1).await;
        jobs.push((job.workflow().await, job));
    }
    roles.kill_all();
    delete_by_force(&jobs[0].1).await;
    patch_status(&test, "agentjob", &jobs[1].1.name, json!({ "phase": "Failed" })).await;
    roles.start().await;
    let temporal = ["--temporal-address", test.cluster.temporal.as_str()];
    let (code, out, err) = repair(&test, &temporal).await;
    assert_eq!((code, err.as_str()), (1, ""), "{out}");
    for (workflow, job) in &jobs {
        assert!(out.contains(workflow), "{out}");
        assert_eq!(job.closed(workflow).await, "CANCELED");
    }
    told(&test, &jobs[1].1.name, "Repaired", "requested the cancellation of workflow").await;
    assert_eq!(jobs[1].1.status().await.phase, Some(Phase::Failed));
}

/// The chart's rights of users who may edit in a namespace, as far as they are asked for here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_write_runs_may_not_ask_for_their_repair() {
    const EDITOR: &str = "koco-test-editor";
    let test = Test::new().await;
    let (ns, user) = (test.namespace.as_str(), format!("--user={EDITOR}"));
    for (role, verbs, resources) in [
        ("view", "get,list", "agentjobs.kodosumi.io,agentruns.kodosumi.io,pods"),
        ("edit", "patch", "agentjobs.kodosumi.io,pods"),
    ] {
        let (verbs, resources) = (format!("--verb={verbs}"), format!("--resource={resources}"));
        kubectl(&["create", "role", role, "-n", ns, &verbs, &resources]).expect("a role");
        kubectl(&["create", "rolebinding", role, "-n", ns, &format!("--role={role}"), &user]).expect("a binding");
    }
    let job = test.apply(agent("anything").mode(MODES[0])).await;
    let mut left = run_of(&job, 1, 1);
    left.metadata.owner_references = None;
    left.metadata.labels = None;
    left.spec.identity.job_uid = "gone".into();
    create_run(&test.runs(), &left, Some(end(TerminationType::Failed))).await;
    bare_pod(&test, "stray", json!({ names::LABEL_COMPONENT: names::RUNNER_COMPONENT })).await;
    let config = kubeconfig(&test, EDITOR);
    let (code, out, err) = repair(&test, &["--kubeconfig", &config]).await;
    assert_eq!(code, 2, "{out}{err}");
    assert!(out.contains(&format!("pod/stray in {ns}: repair requested")), "{out}");
    let refused = format!("error: agentrun.kodosumi.io/{} in {ns}: ", left.name());
    assert!(err.starts_with(&refused) && err.contains("cannot patch resource \"agentruns\""), "{err}");
}
