//! `kubectl koco audit`: names each thing that doesn't fit, once it lasts, and nothing of what is only on its way.

use std::{
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use koco::api::{AgentRun, TerminationType, names};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, PropagationPolicy};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::harness::{
    DEADLINE, DesiredState, Job, Kubelet, MODES, Node, Phase, Roles, Server, Test, agent,
    by_hand::{bare_pod, create_run, end, event, events, foreign_pod, patch_status, run_of, started},
    cluster::PLUGIN,
    job::{With, pod_name},
    temporal,
    wait::always,
    within,
};

/// What a test makes by hand lasts from the start.
const SOON: &str = "1s";

fn command(test: &Test, grace: &str, args: &[&str]) -> Command {
    let mut command = Command::new(PLUGIN);
    command.args(["audit", "-n", &test.namespace, "--grace", grace]).args(args);
    command.args(["--operator-namespace", &test.namespace]).env_remove("TEMPORAL_ADDRESS");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// How long an audit goes on at least that has something to look at.
const QUIET: Duration = Duration::from_secs(4);

/// Exit code and all output.
pub async fn audit(test: &Test, grace: &str, args: &[&str]) -> (i32, String, String) {
    let output = command(test, grace, args).output();
    let done = tokio::time::timeout(5 * DEADLINE, output).await.expect("it ends").expect("output");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (done.status.code().unwrap_or(-1), text(done.stdout), text(done.stderr))
}

/// What the audit finds: type and object of each, and how many objects it has compared.
pub async fn findings(test: &Test, args: &[&str]) -> (i32, Vec<String>, Value) {
    let (code, out, err) = audit(test, SOON, &[args, &["-o", "json"]].concat()).await;
    let document: Value = serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {code} {out} {err}"));
    let line = |f: &Value| {
        let word = |at: &str| f.pointer(at).and_then(Value::as_str).unwrap_or_default().to_string();
        format!("{} {}", word("/type"), word("/object/name"))
    };
    let found = document["findings"].as_array().expect("a list").iter().map(line).collect();
    (code, found, document["compared"].clone())
}

/// The pod of a run, as koco would name it, made by hand. It is on no node.
async fn pod_of(job: &Job<'_>, run: &AgentRun) -> Pod {
    let owner = json!({ "apiVersion": names::API_VERSION, "kind": "AgentRun", "name": run.name(), "uid": run.uid(),
        "controller": true });
    let pod = foreign_pod(job, &run.spec.identity.pod_name, owner);
    job.test.pods().create(&PostParams::default(), &serde_json::from_value(pod).expect("a pod")).await.expect("a pod")
}

/// A job that no controller sees, in this phase.
pub async fn job_in<'t>(test: &'t Test, phase: &str) -> Job<'t> {
    let job = test.apply(agent("anything").mode(MODES[0])).await;
    patch_status(test, "agentjob", &job.name, json!({ "phase": phase })).await;
    job
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_finding_is_named() {
    let test = Test::new().await;
    let runs = test.runs();
    let closed = || Some(end(TerminationType::Succeeded));
    // All that fits.
    let good = job_in(&test, "Running").await;
    create_run(&runs, &run_of(&good, 1, 1), closed()).await;
    let run = create_run(&runs, &run_of(&good, 2, 2), None).await;
    pod_of(&good, &run).await;
    let done = job_in(&test, "Succeeded").await;
    create_run(&runs, &run_of(&done, 1, 1), closed()).await;
    let (code, found, compared) = findings(&test, &[]).await;
    assert_eq!((code, found), (0, vec![]));
    assert_eq!(compared, json!({ "jobs": 2, "runs": 3, "pods": 1, "workflows": null }));

    let mut expected = Vec::new();
    bare_pod(&test, "stray", json!({ names::LABEL_COMPONENT: names::RUNNER_COMPONENT })).await;
    expected.push("PodWithoutRun stray".to_string());

    let mut left = run_of(&good, 7, 1);
    left.metadata.owner_references = None;
    left.metadata.labels = None;
    left.spec.identity.job_uid = "gone\u{1b}[2J\n".into();
    left.metadata.name = Some("left".into());
    create_run(&runs, &left, closed()).await;
    expected.push("RunWithoutJob left".into());

    let two = job_in(&test, "Running").await;
    for number in [1, 2] {
        create_run(&runs, &run_of(&two, number, number), None).await;
    }
    expected.push(format!("TwoLiveRuns {}", two.name));

    let over = job_in(&test, "Failed").await;
    let open = create_run(&runs, &run_of(&over, 1, 1), None).await;
    expected.push(format!("OpenRunOfEndedJob {}", open.name()));

    for (phase, kind) in [("Failed", "LivePodOfEndedJob"), ("Running", "LivePodOfClosedRun")] {
        let job = job_in(&test, phase).await;
        let run = create_run(&runs, &run_of(&job, 1, 1), closed()).await;
        expected.push(format!("{kind} {}", pod_name(&pod_of(&job, &run).await)));
    }
    let (code, found, _) = findings(&test, &[]).await;
    assert_eq!((code, found), (1, expected.clone()));

    let (code, out, err) = audit(&test, SOON, &[]).await;
    assert_eq!((code, err.as_str()), (1, ""));
    assert_eq!(out.lines().count(), expected.len() + 2, "{out}");
    assert!(out.ends_with(": 6 findings\n") && out.contains(r"gone\u{1b}[2J\n"), "{out}");
    assert!(!out.contains(|c: char| c.is_control() && c != '\n'), "{out:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_passes_is_not_named() {
    let test = Test::new().await;
    bare_pod(&test, "stray", json!({ names::LABEL_COMPONENT: names::RUNNER_COMPONENT })).await;
    let mut audit = command(&test, "30s", &[]).spawn().expect("an audit");
    always(QUIET, "the audit to look on", async || match audit.try_wait().expect("a process") {
        None => Ok(()),
        Some(ended) => Err(ended),
    })
    .await;
    test.pods().delete("stray", &DeleteParams::default().grace_period(0)).await.expect("delete");
    let done = audit.wait_with_output().await.expect("output");
    assert_eq!((done.status.code(), String::from_utf8_lossy(&done.stderr)), (Some(0), "".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_pages_are_compared() {
    let test = Test::new().await;
    let job = job_in(&test, "Running").await;
    let runs = test.runs();
    let make = async |number: i32| {
        let mut run = run_of(&job, number, 1);
        run.spec.identity.tombstone = true;
        if number == 999 {
            run.metadata.owner_references = None;
            run.metadata.labels = None;
        }
        runs.create(&PostParams::default(), &run).await.expect("a run");
    };
    stream::iter(1..=1201).map(make).buffer_unordered(32).collect::<Vec<_>>().await;
    let (code, found, compared) = findings(&test, &[]).await;
    // The list doesn't say whose it is; the run itself does.
    assert_eq!((code, found), (0, vec![]));
    assert_eq!(compared["runs"], 1201);
    let mut left = run_of(&job, 1202, 1);
    left.metadata.owner_references = None;
    left.metadata.labels = None;
    left.metadata.name = Some("zzz".into());
    create_run(&runs, &left, None).await;
    let (code, found, _) = findings(&test, &[]).await;
    assert_eq!((code, found), (1, vec!["RunWithoutJob zzz".into()]), "the last of the third page");
}

/// Past the finalizer and its owner references.
pub async fn delete_by_force(job: &Job<'_>) {
    job.patch(json!({ "metadata": { "finalizers": null } })).await;
    let orphan = Some(PropagationPolicy::Background);
    job.delete(DeleteParams { propagation_policy: orphan, ..DeleteParams::default() }).await;
    job.gone(DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workflows_are_compared_with_jobs_and_runners() {
    let (test, mut roles) = Test::with_operator().await;
    let kubelet = Kubelet::of(&test);
    let mut jobs = Vec::new();
    let mut workflows = Vec::new();
    for _ in 0..4 {
        let job = test.apply(agent("anything").mode(MODES[1]).heartbeat("10m")).await;
        let (pod, _runner) = started(&kubelet, &job, 1).await;
        workflows.push(job.workflow().await);
        jobs.push((job, pod));
    }
    let temporal = ["--temporal-address", test.cluster.temporal.as_str()];
    // The visibility store lags.
    within(DEADLINE, "all open workflows to be listed", async || {
        let (code, found, compared) = findings(&test, &temporal).await;
        assert_eq!((code, found), (0, vec![]));
        if compared["workflows"] == 4 { Ok(()) } else { Err(compared) }
    })
    .await;
    roles.kill_all();
    delete_by_force(&jobs[0].0).await;
    patch_status(&test, "agentjob", &jobs[1].0.name, json!({ "phase": "Failed" })).await;
    let lost = pod_name(&jobs[2].1);
    jobs[2].0.delete_pod(&lost, &DeleteParams::default().grace_period(0)).await;
    let expected = [
        format!("WorkflowWithoutJob {}", workflows[0]),
        format!("OpenWorkflowOfEndedJob {}", workflows[1]),
        format!("ActivityWithoutRunner {}", workflows[2]),
    ];
    let (code, found, _) = findings(&test, &temporal).await;
    assert_eq!(code, 1);
    let of_workflows: Vec<_> = found.iter().filter(|f| f.contains("Workflow") || f.contains("Activity")).collect();
    assert_eq!(of_workflows, expected.iter().collect::<Vec<_>>(), "{found:?}");
    // Its run and its pod are said to live on, too.
    let others: Vec<_> = found.iter().filter(|f| f.contains("EndedJob ") && !f.contains("Workflow")).collect();
    assert_eq!(others.len(), 2, "{found:?}");

    // Another installation's workflows are none of its business.
    let (_, found, compared) = findings(&test, &[&temporal[..], &["--cluster", "another"]].concat()).await;
    assert_eq!((compared["workflows"].clone(), found.len()), (json!(0), 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_not_be_compared_is_trouble() {
    let test = Test::new().await;
    let (code, out, err) = audit(&test, SOON, &["--temporal-address", "127.0.0.1:9"]).await;
    assert_eq!((code, out.as_str()), (2, ""), "{err}");
    assert!(err.starts_with("error: Temporal can't be reached at 127.0.0.1:9"), "{err}");
    let (code, _, err) = audit(&test, SOON, &["--kubeconfig", "/nowhere"]).await;
    assert_eq!(code, 2, "{err}");
}

/// The value of the controller's metric of leaks of this kind, if it has one yet.
async fn leaks(roles: &mut Roles, kind: &str) -> Option<u32> {
    let metrics = roles.role("operator").metrics().await;
    let line = metrics.lines().find(|l| l.starts_with(&format!("koco_leaks{{kind=\"{kind}\"}} ")))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaks_are_counted_and_told() {
    let test = Test::new().await;
    let mut roles = Roles::all_in_one(&test, Server::Shared);
    roles.set("KOCO_LEAK_GRACE", "3s");
    roles.start().await;
    let kubelet = Kubelet::of(&test);
    let job = test.apply(agent("anything").mode(MODES[0])).await;
    let _started = started(&kubelet, &job, 1).await;
    let kinds = ["PodWithoutRun", "RunWithoutJob", "TwoLiveRuns", "LivePodOfClosedRun"];
    for kind in kinds {
        within(DEADLINE, "the metric", async || leaks(&mut roles, kind).await.filter(|n| *n == 0).ok_or("none")).await;
    }
    bare_pod(&test, "stray", json!({ names::LABEL_COMPONENT: names::RUNNER_COMPONENT })).await;
    let mut left = run_of(&job, 3, 1);
    left.metadata.owner_references = None;
    left.spec.identity.job_uid = "gone".into();
    left.metadata.name = Some(names::run(&job.name, "gone", 3));
    let left = create_run(&test.runs(), &left, Some(end(TerminationType::Failed))).await;
    for (kind, object) in [("PodWithoutRun", "stray"), ("RunWithoutJob", left.name())] {
        within(DEADLINE, kind, async || leaks(&mut roles, kind).await.filter(|n| *n == 1).ok_or("none")).await;
        let event = event(&test, object, kind).await;
        assert_eq!(event.type_.as_deref(), Some("Warning"));
    }
    test.pods().delete("stray", &DeleteParams::default().grace_period(0)).await.expect("delete");
    within(DEADLINE, "no leak", async || {
        leaks(&mut roles, "PodWithoutRun").await.filter(|n| *n == 0).ok_or("it is counted")
    })
    .await;
    assert_eq!(leaks(&mut roles, "RunWithoutJob").await, Some(1));
    assert_eq!(events(&test, left.name(), "RunWithoutJob").await.len(), 1);
    assert_eq!((leaks(&mut roles, kinds[2]).await, leaks(&mut roles, kinds[3]).await), (Some(0), Some(0)));
}

/// Without the controller nothing would end them: one is held before its first run, the other waits for its runner.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_workflows_whose_jobs_are_gone_are_cancelled() {
    let test = Test::new().await;
    let mut roles = Roles::all_in_one(&test, Server::Shared);
    roles.set("KOCO_LEAK_GRACE", "1s");
    roles.set("KOCO_CLUSTER", "c");
    roles.start().await;
    // An installation whose name begins with this one's.
    let neighbour = Test::new().await;
    let mut others = Roles::all_in_one(&neighbour, Server::Shared);
    others.set("KOCO_CLUSTER", &format!("c-{}", test.namespace));
    others.start().await;
    let spec = || agent("anything").mode(MODES[1]);
    let theirs = neighbour.apply(spec()).await;
    theirs.until_pod().await;
    let held = test.apply(spec().with(json!({ "desiredState": "Paused" }))).await;
    let (waits, stays) = (test.apply(spec()).await, test.apply(spec()).await);
    let mut workflows = Vec::new();
    for job in [&held, &waits, &stays] {
        workflows.push(job.workflow().await);
    }
    held.phase(Phase::Paused).await;
    waits.until_pod().await;
    stays.until_pod().await;
    roles.kill_all();
    delete_by_force(&held).await;
    delete_by_force(&waits).await;
    roles.start().await;
    for (job, id) in [(&held, &workflows[0]), (&waits, &workflows[1])] {
        assert_eq!(job.closed(id).await, "CANCELED");
        let event = event(&test, &job.name, "WorkflowWithoutJob").await;
        assert!(event.message.expect("a message").contains(id.as_str()));
    }
    within(DEADLINE, "no leak", async || {
        leaks(&mut roles, "WorkflowWithoutJob").await.filter(|n| *n == 0).ok_or("it is counted")
    })
    .await;
    for (id, why) in [(&workflows[2], "its job exists"), (&theirs.workflow().await, "it is another installation's")] {
        assert_eq!(temporal::state(&test.cluster.temporal, id), "RUNNING", "{why}");
    }
}

/// Jobs that come, end in every way, and go.
async fn churn(test: &Test, over: &AtomicBool) {
    for n in 0.. {
        if over.load(Ordering::Relaxed) {
            return;
        }
        let mode = MODES[n % 2];
        let entry = ["succeed?ms=300", "exit?code=3", "fail-until?attempt=2&ms=200", "sleep", "sleep"][n % 5];
        let retry = json!({ "retryPolicy": { "maximumAttempts": 2, "initialInterval": "100ms" } });
        let job = test.apply(agent(entry).mode(mode).with(retry)).await;
        match n % 5 {
            3 => {
                job.phase(Phase::Running).await;
                job.want(DesiredState::Cancelled).await;
                job.phase(Phase::Cancelled).await;
            }
            4 => {
                job.until_pod().await;
                job.delete(DeleteParams::background()).await;
                job.gone(DEADLINE).await;
            }
            _ => drop(job.until("its end", |s| s.phase.is_some_and(Phase::is_terminal)).await),
        }
        if n % 3 == 0 {
            let touched = json!({ "metadata": { "labels": { "example.com/round": n.to_string() } } });
            let _ = test.jobs().patch(&job.name, &PatchParams::default(), &Patch::Merge(touched)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_healthy_set_under_change_fits() {
    let (test, _roles) = Test::with_operator().await;
    let _node = Node::automatic(&test);
    let over = AtomicBool::new(false);
    let audits = async {
        let temporal = ["--temporal-address", test.cluster.temporal.as_str()];
        let mut jobs = 0;
        for _ in 0..10 {
            let (code, out, err) = audit(&test, "20s", &[&temporal[..], &["-o", "json"]].concat()).await;
            assert_eq!(code, 0, "{out}{err}");
            jobs = serde_json::from_str::<Value>(&out).expect("JSON")["compared"]["jobs"].as_u64().unwrap_or(0);
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        over.store(true, Ordering::Relaxed);
        assert!(jobs > 5, "{jobs}");
    };
    let changes = stream::iter(0..6).map(|_| churn(&test, &over)).buffer_unordered(6).collect::<Vec<_>>();
    tokio::join!(audits, changes);
}
