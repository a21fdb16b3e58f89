//! What the accounts of the operator may and may not do, by the chart's roles and policies.

use k8s_openapi::api::{
    core::v1::Pod,
    rbac::v1::{Role, RoleBinding},
};
use koco::api::{AgentJob, AgentRun, StartGrant, TerminationType};
use kube::{
    Api, Client, Config, ResourceExt,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::harness::{
    DEADLINE, ExecutionMode, MODES, Node, Phase, Roles, Server, Test, agent,
    by_hand::{create_run, end, foreign_pod, run_of},
    job::With,
    life::{lives, nothing_was_forbidden},
    within,
};
use crate::{network, templates};

/// The namespace of the release whose accounts and policies the API server knows.
const RELEASE: &str = "koco-system";

/// The account of a role, as the API server calls it.
pub fn account(role: &str) -> String {
    format!("system:serviceaccount:{RELEASE}:koco-{role}")
}

/// A client with the rights of a user.
pub async fn client_as(user: &str) -> Client {
    let mut config = Config::infer().await.expect("a kubeconfig");
    config.auth_info.impersonate = Some(user.into());
    Client::try_from(config).expect("a client")
}

/// Nothing is stored.
pub fn dry_run() -> PostParams {
    PostParams { dry_run: true, ..PostParams::default() }
}

/// Why a request was refused.
pub fn refusal<T: std::fmt::Debug>(answer: Result<T, kube::Error>) -> Result<String, T> {
    match answer {
        Ok(done) => Err(done),
        Err(kube::Error::Api(e)) if e.code == 403 || e.code == 422 => Ok(e.message.clone()),
        Err(e) => panic!("{e}"),
    }
}

/// A pod such as the controller and the worker create.
fn agents_pod(job: &str) -> Value {
    let owner = json!({ "apiVersion": "kodosumi.io/v1alpha1", "kind": "AgentRun", "name": format!("{job}-1"), "uid": "r-1",
        "controller": true });
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "pod",
            "labels": { "app.kubernetes.io/component": "agent-runner", "kodosumi.io/job-uid": "u",
                "kodosumi.io/job-name": job, "kodosumi.io/run-number": "1" },
            "ownerReferences": [owner],
        },
        "spec": {
            "initContainers": [{ "name": "koco-install", "image": "kodosumi/koco:0.0.1" }],
            "containers": [{ "name": "agent", "image": "localhost/agent:none" }],
        },
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kocos_accounts_create_no_pods_but_those_of_agents() {
    let test = Test::new().await;
    let good = agents_pod("job");
    let label = |key: &str, value: Value| good.clone().with(json!({ "metadata": { "labels": { key: value } } }));
    let owner = |change: Value| {
        let mut pod = good.clone();
        json_patch::merge(&mut pod["metadata"]["ownerReferences"][0], &change);
        pod
    };
    let image = |image: &str| {
        let install = json!([{ "name": "koco-install", "image": image }]);
        good.clone().with(json!({ "spec": { "initContainers": install } }))
    };
    let here = test.namespace.as_str();
    let cases = [
        ("kube-system", good.clone(), "metadata.namespace"),
        (RELEASE, good.clone(), "metadata.namespace"),
        (here, good.clone().with(json!({ "metadata": { "ownerReferences": null } })), "metadata.ownerReferences"),
        (here, owner(json!({ "controller": null })), "metadata.ownerReferences"),
        (here, owner(json!({ "kind": "AgentJob" })), "metadata.ownerReferences"),
        (here, owner(json!({ "apiVersion": "apps/v1" })), "metadata.ownerReferences"),
        (here, label("app.kubernetes.io/component", json!("web")), "metadata.labels"),
        (here, label("kodosumi.io/job-uid", Value::Null), "metadata.labels"),
        (here, good.clone().with(json!({ "spec": { "initContainers": null } })), "spec.initContainers"),
        (here, image("example.com/other:1"), "spec.initContainers"),
        (here, image("kodosumi/koco-other:1"), "spec.initContainers"),
    ];
    for role in ["controller", "worker"] {
        let client = client_as(&account(role)).await;
        let create = async |namespace: &str, pod: &Value| {
            let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
            api.create(&dry_run(), &serde_json::from_value(pod.clone()).expect("a pod")).await
        };
        // The API server takes a moment to see a new policy.
        let refused = async || refusal(create("kube-system", &good).await);
        within(DEADLINE, "the policy", refused).await;
        for pod in [good.clone(), image("kodosumi/koco"), image("kodosumi/koco@sha256:00")] {
            create(here, &pod).await.unwrap_or_else(|e| panic!("{role}: {e}: {pod}"));
        }
        for (namespace, pod, field) in &cases {
            let words = refusal(create(namespace, pod).await).unwrap_or_else(|_| panic!("{role} may create {pod}"));
            assert!(words.contains(field) && words.contains("koco-operator-pods"), "{role}, {field}: {words}");
        }
    }
    let pods: Api<Pod> = Api::namespaced(client_as(&account("gateway")).await, here);
    refusal(pods.create(&dry_run(), &serde_json::from_value(good).expect("a pod")).await).expect("no right to pods");
}

#[expect(clippy::too_many_lines, reason = "a table of cases")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_role_writes_only_its_part_of_jobs_and_runs() {
    let test = Test::new().await;
    let job = test.apply(agent("anything")).await;
    let ns = test.namespace.as_str();
    let (controller, worker, gateway) = (
        client_as(&account("controller")).await,
        client_as(&account("worker")).await,
        client_as(&account("gateway")).await,
    );

    // A job: its finalizers, and no more.
    let jobs: Api<AgentJob> = Api::namespaced(controller.clone(), ns);
    let change = async |patch: Value| jobs.patch(&job.name, &PatchParams::default(), &Patch::Merge(patch)).await;
    let cancel = json!({ "spec": { "desiredState": "Cancelled" } });
    let words = within(DEADLINE, "the policy", async || refusal(change(cancel.clone()).await)).await;
    assert!(words.contains("never changes what users want"), "{words}");
    change(json!({ "metadata": { "finalizers": ["kodosumi.io/workflow"] } })).await.expect("the finalizer");

    // Runs: each mode's by its role, under their names, owned by their job.
    let of = |mode: ExecutionMode, number: i32| {
        let mut run = run_of(&job, number, 1);
        run.spec.identity.execution_mode = mode;
        run
    };
    let (direct, temporal) = (of(ExecutionMode::Direct, 1), of(ExecutionMode::Temporal, 2));
    let mut tombstone = of(ExecutionMode::Temporal, 3);
    tombstone.spec.identity.tombstone = true;
    let create = async |client: &Client, run: &AgentRun| {
        Api::<AgentRun>::namespaced(client.clone(), ns).create(&dry_run(), run).await
    };
    create(&controller, &direct).await.expect("a Direct run");
    create(&controller, &tombstone).await.expect("a tombstone");
    create(&worker, &temporal).await.expect("a Temporal run");
    let mut another_name = direct.clone();
    another_name.metadata.name = Some("another-1".into());
    let mut unowned = direct.clone();
    unowned.metadata.owner_references = None;
    let mut of_another = direct.clone();
    of_another.owner_references_mut()[0].uid = "another".into();
    for (client, run, words) in [
        (&controller, &temporal, "spec: the controller writes"),
        (&worker, &direct, "spec: the controller writes"),
        (&controller, &another_name, "metadata: AgentRuns"),
        (&controller, &unowned, "metadata: AgentRuns"),
        (&controller, &of_another, "metadata: AgentRuns"),
    ] {
        let said = refusal(create(client, run).await).unwrap_or_else(|run| panic!("{words}: {run:?}"));
        assert!(said.contains(words), "{said}");
    }
    for namespace in ["kube-system", RELEASE] {
        let mut run = direct.clone();
        run.metadata.namespace = Some(namespace.into());
        let api: Api<AgentRun> = Api::namespaced(controller.clone(), namespace);
        let said = refusal(api.create(&dry_run(), &run).await).expect("a refusal");
        assert!(said.contains("creates no AgentRuns in this namespace"), "{said}");
    }

    // Grants and commands, also.
    let (direct, temporal) =
        (create_run(&test.runs(), &direct, None).await, create_run(&test.runs(), &temporal, None).await);
    let granted = |run: &AgentRun| {
        let mut run = run.clone();
        let time = serde_json::from_value(json!("2026-01-01T00:00:00Z")).expect("a time");
        run.spec.grant = Some(StartGrant { time, binding: 0, workflow_id: None, run_id: None, activity_attempt: None });
        run
    };
    let update = async |client: &Client, run: &AgentRun| {
        Api::<AgentRun>::namespaced(client.clone(), ns).replace(run.name(), &dry_run(), run).await
    };
    update(&controller, &granted(&direct)).await.expect("a grant");
    update(&worker, &granted(&temporal)).await.expect("a grant");
    refusal(update(&controller, &granted(&temporal)).await).expect("the worker's");
    refusal(update(&worker, &granted(&direct)).await).expect("the controller's");
    refusal(update(&gateway, &granted(&direct)).await).expect("no right to specs");

    // Status: observations by the gateway, and no end but the runner's.
    let status = async |client: &Client, run: &AgentRun, status: Value| {
        let mut changed = serde_json::to_value(run).expect("JSON");
        json_patch::merge(&mut changed, &json!({ "status": status }));
        let run: AgentRun = serde_json::from_value(changed).expect("a run");
        Api::<AgentRun>::namespaced(client.clone(), ns).replace_status(run.name(), &dry_run(), &run).await
    };
    let time = "2026-01-01T00:00:00Z";
    let acknowledged = json!({ "binding": 0, "generation": 0, "state": "Frozen", "time": time });
    let ended = |source: &str| {
        let mut end = serde_json::to_value(end(TerminationType::Failed)).expect("JSON");
        end["source"] = json!(source);
        json!({ "termination": end })
    };
    for seen in [
        json!({ "podUID": "u", "readyTime": time, "gateway": "g" }),
        json!({ "publicKey": format!("ed25519:{}", "0".repeat(64)) }),
        json!({ "pausedSince": time }),
        json!({ "pausedMillis": 5 }),
        json!({ "progress": { "percent": 5, "time": time } }),
        json!({ "acknowledged": acknowledged }),
        json!({ "unresponsiveSince": time }),
    ] {
        status(&gateway, &direct, seen.clone()).await.expect("the gateway's");
        for client in [&controller, &worker] {
            let said = refusal(status(client, &direct, seen.clone()).await).expect("the gateway's");
            assert!(said.contains("written by the gateway alone"), "{said}");
        }
    }
    for (written, by_gateway) in [
        (json!({ "createError": "x" }), false),
        (ended("Koco"), false),
        (ended("Kubelet"), false),
        (ended("Runner"), true),
    ] {
        status(&controller, &direct, written.clone()).await.expect("the controller's");
        status(&worker, &direct, written.clone()).await.expect("the worker's");
        let done = refusal(status(&gateway, &direct, written.clone()).await);
        assert_eq!(done.is_err(), by_gateway, "{written}: {done:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_writes_one_annotation_and_nothing_else() {
    let test = Test::new().await;
    let job = test.apply(agent("anything")).await;
    job.patch(json!({ "metadata": { "labels": { "a": "1" }, "annotations": { "a": "1" }, "finalizers": ["a/b"] } }))
        .await;
    let jobs: Api<AgentJob> = Api::namespaced(client_as(&account("server")).await, &test.namespace);
    let patch = async |patch: Value| {
        let params = PatchParams { dry_run: true, ..PatchParams::default() };
        refusal(jobs.patch(&job.name, &params, &Patch::Merge(patch)).await)
    };
    // The API server takes a moment to see a new policy.
    let cancelled = json!({ "spec": { "desiredState": "Cancelled" } });
    within(DEADLINE, "the policy", async || patch(cancelled.clone()).await.map_err(|_| "none")).await;
    let archived = json!({ "metadata": { "annotations": { "kodosumi.io/archived-at": "now" } } });
    assert!(patch(archived).await.is_err(), "it may");
    for other in [
        cancelled,
        json!({ "metadata": { "annotations": { "kodosumi.io/repair-requested-at": "now" } } }),
        json!({ "metadata": { "annotations": { "a": "2" } } }),
        json!({ "metadata": { "annotations": { "a": null } } }),
        json!({ "metadata": { "labels": { "a": null } } }),
        json!({ "metadata": { "finalizers": null } }),
    ] {
        assert!(patch(other.clone()).await.is_ok(), "{other}");
    }
    let status = jobs.patch_status(&job.name, &PatchParams::default(), &Patch::Merge(json!({ "status": {} }))).await;
    assert!(refusal(status).is_ok());
    assert!(refusal(jobs.delete(&job.name, &Default::default()).await).is_ok());
    let pods: Api<Pod> = Api::namespaced(client_as(&account("server")).await, &test.namespace);
    assert!(refusal(pods.list(&Default::default()).await).is_ok());
    job.patch(json!({ "metadata": { "finalizers": null } })).await;
}

/// A job's whole life in each mode, by roles that have the rights of the chart and no others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_charts_rights_are_enough_for_a_jobs_life() {
    let test = Test::new().await;
    let mut roles = Roles::separate(&test, Server::Shared);
    roles.add(&test, Server::None, "server");
    roles.set("KOCO_NAMESPACE", RELEASE);
    // A job that expires goes only after the server has said that it is in the archive.
    roles.set("KOCO_ARCHIVE_PATIENCE", "10m");
    // The gateway reads the server's certificate authority.
    let server = format!("https://127.0.0.1:{}", roles.server_port);
    roles.set("KOCO_SERVER_URL", &server);
    // The image that the chart names.
    roles.set("KOCO_RUNNER_IMAGE", "kodosumi/koco:none");
    roles.set("KOCO_AGENT_NETWORK_POLICY", &network::spec().to_string());
    for role in &mut roles.list {
        let user = account(role.name.trim_start_matches("temporal-"));
        role.process.set("KUBECONFIG", Some(kubeconfig(&test, &user)));
    }
    roles.start().await;
    let _node = Node::automatic(&test);
    for mode in MODES {
        lives(&test, mode, async |job| _ = job.phase(Phase::Running).await, async |_| {}).await;
    }
    // A job of which its template says all.
    templates::template(&test, "t", agent("succeed").with(json!({ "inputsSchema": {} }))).await;
    test.apply(json!({ "templateRef": { "name": "t" } })).await.phase(Phase::Succeeded).await;
    network::right(&test).await;
    nothing_was_forbidden(&test);
}

/// The administrator's kubeconfig, with another user's rights.
pub fn kubeconfig(test: &Test, user: &str) -> String {
    let text = std::fs::read_to_string(std::env::var("KUBECONFIG").expect("KUBECONFIG")).expect("the kubeconfig");
    let mut config: Value = serde_yaml_ng::from_str(&text).expect("a kubeconfig");
    config["users"][0]["user"]["as"] = json!(user);
    let path = test.cluster.dev.join(format!("data/as-{}-{}", user.replace(':', "-"), test.namespace));
    std::fs::write(&path, config.to_string()).expect("a file");
    path.display().to_string()
}

/// In these namespaces, a job's pod could use the accounts of the cluster's or of the operator's own pods.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_in_the_clusters_and_the_operators_namespace_are_refused() {
    let test = Test::new().await;
    for namespace in ["kube-system", RELEASE] {
        let jobs: Api<AgentJob> = Api::namespaced(test.client.clone(), namespace);
        let job: AgentJob =
            serde_json::from_value(crate::harness::job::manifest("job", agent("succeed"))).expect("a job");
        let words = within(DEADLINE, "the policy", async || refusal(jobs.create(&dry_run(), &job).await)).await;
        assert!(words.contains("not served in kube-system, nor in the operator's own namespace"), "{words}");
    }
    test.apply(agent("succeed")).await;
}

/// Later containers, too, get hold of nothing that koco has put into a pod.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ephemeral_containers_mount_none_of_the_runners_volumes() {
    const DEBUGGER: &str = "koco-test-debugger";
    let test = Test::new().await;
    let ns = test.namespace.as_str();
    let role = json!({ "metadata": { "name": "debugger" }, "rules": [
        { "apiGroups": [""], "resources": ["pods/ephemeralcontainers"], "verbs": ["update"] } ] });
    let binding = json!({
        "metadata": { "name": "debugger" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "debugger" },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": DEBUGGER }],
    });
    let (roles, bindings): (Api<Role>, Api<RoleBinding>) =
        (Api::namespaced(test.client.clone(), ns), Api::namespaced(test.client.clone(), ns));
    let role = serde_json::from_value(role).expect("a role");
    let binding = serde_json::from_value(binding).expect("a binding");
    roles.create(&PostParams::default(), &role).await.expect("a role");
    bindings.create(&PostParams::default(), &binding).await.expect("a binding");
    let job = test.apply(agent("anything")).await;
    // One that exists, or the pods would be collected.
    let run = create_run(&test.runs(), &run_of(&job, 1, 1), None).await;
    let owner =
        json!({ "apiVersion": "kodosumi.io/v1alpha1", "kind": "AgentRun", "name": run.name(), "uid": run.uid() });
    let volumes =
        json!({ "spec": { "volumes": [{ "name": "koco-token", "emptyDir": {} }, { "name": "v", "emptyDir": {} }] } });
    let agents = foreign_pod(&job, "agents", owner).with(volumes.clone());
    let others = json!({ "metadata": { "labels": null, "ownerReferences": null, "name": "others" } });
    let others = agents.clone().with(others);
    for pod in [&agents, &others] {
        test.pods()
            .create(&PostParams::default(), &serde_json::from_value(pod.clone()).expect("a pod"))
            .await
            .expect("made");
    }
    let pods: Api<Pod> = Api::namespaced(client_as(DEBUGGER).await, ns);
    let add = async |pod: &str, volume: &str| {
        let mut found = test.pods().get(pod).await.expect("the pod");
        let container =
            json!([{ "name": "debug", "image": "i", "volumeMounts": [{ "name": volume, "mountPath": "/x" }] }]);
        found.spec.as_mut().expect("a spec").ephemeral_containers =
            serde_json::from_value(container).expect("a container");
        pods.replace_ephemeral_containers(pod, &dry_run(), &found).await
    };
    let words = within(DEADLINE, "the policy", async || refusal(add("agents", "koco-token").await)).await;
    assert!(words.contains("spec.ephemeralContainers[*].volumeMounts[*].name"), "{words}");
    add("agents", "v").await.expect("any other volume");
    add("others", "koco-token").await.expect("any other pod");
}
