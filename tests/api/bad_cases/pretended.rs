//! Objects that somebody makes so that koco takes them for its own.

use std::time::Duration;

use koco::{
    api::{AgentRun, TerminationType, conditions, names},
    protocol::runner::AgentEnd,
};
use kube::api::DeleteParams;
use serde_json::{Value, json};

use crate::harness::{
    ApiProxy, DEADLINE, DesiredState, Job, Kubelet, MODES, Phase, Roles, Server, Test, agent,
    by_hand::{create, create_run, end, foreign_pod, logged, run_of, started, succeeds, touch},
    job::{With, condition, pod_name, stalled},
    kubelet::End,
    runner::{failed, succeeded},
    wait::always,
    within,
};

/// How long nothing may happen that must not.
const QUIET: Duration = Duration::from_millis(1500);

/// What a runner would leave that has succeeded.
fn message() -> Option<String> {
    let forged: AgentEnd = succeeded(json!("forged"));
    Some(serde_json::to_string(&forged).expect("JSON"))
}

/// An operator for both namespaces.
async fn watching(here: &Test, there: &Test) -> Roles {
    let mut roles = Roles::all_in_one(here, Server::Shared);
    roles.set("KOCO_WATCH_NAMESPACES", &format!("{},{}", here.namespace, there.namespace));
    roles.start().await;
    roles
}

/// The victim goes on as if nothing had happened, whatever is touched.
async fn is_unharmed(job: &Job<'_>, run: &AgentRun) {
    touch(job, "once").await;
    always(QUIET, &format!("{} is unharmed", job.name), async || {
        let (status, now) = (job.status().await, job.test.runs().get_opt(run.name()).await.expect("get"));
        let well = (status.phase, status.attempt, status.result) == (Some(Phase::Running), Some(1), None);
        let open = now.as_ref().is_some_and(|r| r.uid() == run.uid() && !r.is_closed());
        if well && open && status.active_run == Some(1) { Ok(()) } else { Err((status.phase, status.active_run, now)) }
    })
    .await;
    touch(job, "twice").await;
}

/// Waits until something that was made is mentioned in the log, and answers how often it is.
async fn said(test: &Test, name: &str) -> usize {
    let what = format!("a warning about {name}");
    within(DEADLINE, &what, async || {
        let lines = logged(test, &["WARN", name, &test.namespace]);
        if lines.is_empty() { Err("none") } else { Ok(lines.len()) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_that_name_anothers_job_mean_nothing() {
    let (here, there) = (Test::new().await, Test::new().await);
    let _roles = watching(&here, &there).await;
    let kubelet = Kubelet::of(&here);
    for mode in MODES {
        let job = here.apply(agent("anything").mode(mode)).await;
        let (pod, runner) = started(&kubelet, &job, 1).await;
        let run = job.run().await.expect("a run");
        let ends = [Some(TerminationType::Succeeded), Some(TerminationType::Failed), None];
        let mut made = Vec::new();
        for (number, kind) in [1, 2, 1000].into_iter().flat_map(|n| ends.map(|end| (n, end))) {
            let mut forged = run_of(&job, number, 1);
            let word = kind.map_or("open".into(), |k| format!("{k:?}").to_lowercase());
            forged.metadata.name = Some(format!("{}-forged-{number}-{word}", job.name));
            create_run(&here.runs(), &forged, kind.map(end)).await;
            made.push(forged.name().to_string());
            // In the other namespace it even has the right name, and an owner that is not there.
            let mut twin = run_of(&job, number, 1);
            twin.metadata.namespace = Some(there.namespace.clone());
            twin.metadata.finalizers = Some(vec!["example.com/stays".into()]);
            if there.runs().get_opt(twin.name()).await.expect("get").is_none() {
                create_run(&there.runs(), &twin, kind.map(end)).await;
            }
        }
        is_unharmed(&job, &run).await;
        for name in &made {
            assert_eq!(said(&here, name).await, 1, "{name}");
        }
        succeeds(&kubelet, &job, &pod, &runner, json!(42)).await;
        assert_eq!(here.runs().get(run.name()).await.expect("the run").uid(), run.uid());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_that_name_anothers_run_mean_nothing() {
    let (here, there) = (Test::new().await, Test::new().await);
    let _roles = watching(&here, &there).await;
    let kubelet = Kubelet::of(&here);
    for mode in MODES {
        let job = here.apply(agent("anything").mode(mode)).await;
        let (pod, runner) = started(&kubelet, &job, 1).await;
        let run = job.run().await.expect("a run");
        let owners = |version: &str| {
            let owner = |kind: &str, name: &str, uid: &str| json!({ "apiVersion": version, "kind": kind, "name": name, "uid": uid, "controller": true });
            [owner("AgentJob", &job.name, &job.uid), owner("AgentRun", run.name(), run.uid())]
        };
        let all: Vec<Value> = [names::API_VERSION, "nowhere.example/v1"].into_iter().flat_map(owners).collect();
        for (test, (i, owner)) in [&here, &there].into_iter().flat_map(|t| all.iter().enumerate().map(move |o| (t, o)))
        {
            let kubelet = Kubelet::of(test);
            // Several, so that no order among them makes the right one the first by chance.
            let more = if i == 1 { 8 } else { 0 };
            let ends = [Some(End::exit(0, message())), Some(End::killed()), None].into_iter();
            let ends = ends.chain((0..more).map(|_| Some(End::exit(0, message()))));
            for (k, end) in ends.enumerate() {
                // In the other namespace one of them has the very name of the run's pod.
                let same = i == 1 && k == 0 && test.namespace == there.namespace;
                let name = if same { pod_name(&pod) } else { format!("{}-forged-{i}-{k}", job.name) };
                create(test, &foreign_pod(&job, &name, owner.clone()).to_string()).await;
                if let Some(end) = end {
                    kubelet.end(&name, &end).await;
                }
            }
        }
        is_unharmed(&job, &run).await;
        // Those that koco would believe if it went by owners alone.
        for name in [format!("{}-forged-1-0", job.name), format!("{}-forged-1-2", job.name)] {
            assert_eq!(said(&here, &name).await, 1, "{name}");
        }
        succeeds(&kubelet, &job, &pod, &runner, json!(42)).await;
    }
}

/// The name of the job's second run is another's, before the job needs it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_says_that_the_name_of_its_run_is_taken() {
    let (test, _roles) = Test::with_operator().await;
    let kubelet = Kubelet::of(&test);
    for mode in MODES {
        let retry = json!({ "retryPolicy": { "maximumAttempts": 2, "initialInterval": "100ms" } });
        let job = test.apply(agent("anything").mode(mode).with(retry)).await;
        let (pod, runner) = started(&kubelet, &job, 1).await;
        let mut forged = run_of(&job, 2, 1);
        forged.spec.identity.job_uid = "another".into();
        create_run(&test.runs(), &forged, None).await;
        assert!(!stalled(&job.phase(Phase::Running).await), "nothing is in its way yet, in {mode:?}");
        runner.outcome(0, failed("AgentFailed", 1)).await.expect("204");
        kubelet.end(&pod_name(&pod), &End::exit(1, None)).await;
        let (_, reason, message) = condition(&job.until("Stalled", stalled).await, conditions::STALLED);
        assert_eq!(reason, "RunNameTaken", "{message}");
        assert!(message.contains(forged.name()), "{message}");
        test.runs().delete(forged.name(), &DeleteParams::default()).await.expect("delete");
        let (pod, runner) = started(&kubelet, &job, 2).await;
        job.until("moving", |s| !stalled(s)).await;
        succeeds(&kubelet, &job, &pod, &runner, json!(2)).await;
    }
}

/// A pod that waits for koco under a name that it may choose.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_names_of_pods_can_not_be_guessed() {
    let test = Test::new().await;
    let mut roles = Roles::all_in_one(&test, Server::Shared);
    let proxy = ApiProxy::before(&test, roles.role("operator")).await;
    roles.start().await;
    let kubelet = Kubelet::of(&test);
    for mode in MODES {
        let retry = json!({ "retryPolicy": { "maximumAttempts": 2, "initialInterval": "1s" } });
        let job = test.apply(agent("anything").mode(mode).with(retry)).await;
        let (pod, runner) = started(&kubelet, &job, 1).await;
        let first = pod_name(&pod);
        let (head, random) = first.rsplit_once('-').expect("a random part");
        assert_eq!((random.len(), names::pod(&job.name, &job.uid, 1, random)), (5, first.clone()));
        // What one can know of the next pod's name beforehand, and the first one's random part.
        let next = head.strip_suffix("-1").expect("the number").to_string() + "-2";
        let nobody = json!({ "apiVersion": "example.com/v1", "kind": "X", "name": "x", "uid": "x" });
        let guesses = [next.clone(), format!("{next}-{random}"), format!("{next}-")];
        for guess in guesses.iter().filter(|g| !g.ends_with('-')) {
            create(&test, &foreign_pod(&job, guess, nobody.clone()).to_string()).await;
        }
        runner.outcome(0, failed("AgentFailed", 1)).await.expect("204");
        kubelet.end(&first, &End::exit(1, None)).await;
        let run = job.until_run("the next run", |r| r.number() == 2).await;
        assert!(!guesses.contains(&run.spec.identity.pod_name));
        let pod = within(DEADLINE, "its pod", async || {
            test.pods().get_opt(&run.spec.identity.pod_name).await.expect("get").ok_or("none")
        })
        .await;
        let owner = pod.metadata.owner_references.clone().unwrap_or_default();
        assert_eq!(owner[0].uid, run.uid(), "in {mode:?}");
        job.want(DesiredState::Cancelled).await;
        job.phase(Phase::Cancelled).await;
    }
    // One who has read the run, and is faster.
    for mode in MODES {
        let name = format!("taken-{}", mode.as_str().to_lowercase());
        let within_it = name.clone();
        let held = proxy.hold_where(move |asked| asked.words() == "create pods" && asked.body.contains(&within_it));
        let job = test.apply_as(&name, agent("anything").mode(mode)).await;
        held.reached().await;
        let run = job.run().await.expect("a run");
        let nobody = json!({ "apiVersion": "example.com/v1", "kind": "X", "name": "x", "uid": "x" });
        create(&test, &foreign_pod(&job, &run.spec.identity.pod_name, nobody).to_string()).await;
        assert_eq!(held.late().await, 409);
        let status = job.until("Stalled", stalled).await;
        let (_, reason, message) = condition(&status, conditions::STALLED);
        assert!(message.contains("is not this run's"), "{reason}: {message}");
        assert_eq!((status.phase, status.runner_pod_uid), (Some(Phase::Pending), None), "in {mode:?}");
    }
}
