//! Containers that admission puts into agents' pods, in front of the agent's: a service mesh does so. The agent's is known
//! by its name.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use koco::{api::TerminationSource, protocol::error_types};
use kube::api::PostParams;
use serde_json::json;

use crate::harness::{
    DEADLINE, Job, Kubelet, MODES, Phase, Test, agent,
    by_hand::{started, succeeds, touch},
    cluster::feed,
    job::{With, pod_name},
    kubelet::End,
    wait::always,
    within,
};

/// How long nothing may happen that must not.
const QUIET: Duration = Duration::from_millis(1500);

/// From now on each pod in the test's namespace begins with another container.
async fn inject(test: &Test) {
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicy",
        "metadata": { "name": test.namespace },
        "spec": {
            "failurePolicy": "Fail", "reinvocationPolicy": "Never",
            "matchConstraints": {
                "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": test.namespace } },
                "resourceRules": [{ "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"],
                    "resources": ["pods"] }],
            },
            "mutations": [{ "patchType": "JSONPatch", "jsonPatch": { "expression":
                r#"[JSONPatch{op: "add", path: "/spec/containers/0",
                    value: Object.spec.containers{name: "mesh", image: "localhost/mesh:none"}}]"# } }],
        },
    });
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicyBinding",
        "metadata": { "name": test.namespace }, "spec": { "policyName": test.namespace },
    });
    for object in [policy, binding] {
        let create = ["create", "-f", "-"];
        feed(&test.cluster.dev, "kubectl", &create, object.to_string().as_bytes()).expect("a policy");
    }
    let probe: Pod = serde_json::from_value(json!({
        "metadata": { "name": "probe" },
        "spec": { "containers": [{ "name": "agent", "image": "localhost/busybox:none" }] },
    }))
    .expect("a pod");
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    within(DEADLINE, "the policy to be in force", async || {
        let made = test.pods().create(&dry, &probe).await.map_err(|e| format!("{e}"))?;
        if first(&made) == "mesh" { Ok(()) } else { Err("nothing is injected".to_string()) }
    })
    .await;
}

/// The name of a pod's first container.
fn first(pod: &Pod) -> &str {
    pod.spec.as_ref().map_or("", |spec| &spec.containers[0].name)
}

async fn goes_on(job: &Job<'_>) {
    touch(job, "once").await;
    always(QUIET, &format!("{} goes on", job.name), async || {
        let (status, run) = (job.status().await, job.run().await);
        let open = run.is_some_and(|run| run.number() == 1 && !run.is_closed());
        if status.phase == Some(Phase::Running) && open { Ok(()) } else { Err(status.phase) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agents_container_is_known_by_its_name() {
    let (test, _roles) = Test::with_operator().await;
    inject(&test).await;
    let kubelet = Kubelet::of(&test);
    for mode in MODES {
        let once = agent("anything").mode(mode).with(json!({ "retryPolicy": { "maximumAttempts": 1 } }));
        let job = test.apply(once.clone()).await;
        let (pod, runner) = started(&kubelet, &job, 1).await;
        assert_eq!(first(&pod), "mesh");
        kubelet.end_container(&pod_name(&pod), "mesh", &End::exit(3, None)).await;
        goes_on(&job).await;
        succeeds(&kubelet, &job, &pod, &runner, json!(42)).await;

        let job = test.apply(once).await;
        let (pod, _runner) = started(&kubelet, &job, 1).await;
        kubelet.end_container(&pod_name(&pod), "agent", &End::killed()).await;
        let status = job.phase(Phase::Failed).await;
        assert_eq!(status.error.map(|e| e.kind), Some(error_types::RUNNER_LOST.into()), "{mode:?}");
        assert_eq!(job.termination().await.map(|t| t.source), Some(TerminationSource::Kubelet), "{mode:?}");
        // The other container would hold the pod for ever.
        kubelet.deleted(&pod_name(&pod)).await;
    }
}
