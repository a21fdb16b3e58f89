//! What the chart's roles may do, and what they may not, as the API server sees it; and that it is enough for them.

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::{Api, api::PostParams};
use serde_json::json;

use crate::harness::{
    DEADLINE, MODES, Server, Test,
    chart::Chart,
    cluster::{feed, kubectl},
    job::With,
    life::{lives, nothing_was_forbidden},
    within,
};

/// Users of the test's namespace, bound to Kubernetes' own roles.
const VIEWER: &str = "koco-test-viewer";
const EDITOR: &str = "koco-test-editor";

const READ: [&str; 3] = ["get", "list", "watch"];
const ALL: [&str; 8] = ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"];

/// Group, resource with its subresource, and the verbs that are allowed there. All other verbs are refused.
type Rights = [(&'static str, &'static str, &'static [&'static str])];

const CONTROLLER: &Rights = &[
    ("kodosumi.io", "agentjobs", &["get", "list", "watch", "update", "patch", "delete"]),
    ("kodosumi.io", "agentjobs/template", &["update"]),
    ("kodosumi.io", "agenttemplates", &READ),
    ("kodosumi.io", "agentjobs/status", &["update"]),
    ("kodosumi.io", "agentjobs/finalizers", &["update"]),
    ("kodosumi.io", "agentruns", &["get", "list", "watch", "create", "update", "delete"]),
    ("kodosumi.io", "agentruns/status", &["update"]),
    ("kodosumi.io", "agentruns/finalizers", &["update"]),
    ("", "pods", &["get", "list", "watch", "create", "delete"]),
    ("", "pods/exec", &[]),
    ("", "pods/ephemeralcontainers", &[]),
    ("events.k8s.io", "events", &["create", "patch"]),
    ("", "secrets", &[]),
    ("", "serviceaccounts/token", &[]),
    ("authentication.k8s.io", "tokenreviews", &[]),
];

const WORKER: &Rights = &[
    ("kodosumi.io", "agentjobs", &["get"]),
    ("kodosumi.io", "agentjobs/template", &[]),
    ("kodosumi.io", "agenttemplates", &[]),
    ("kodosumi.io", "agentjobs/status", &[]),
    ("kodosumi.io", "agentjobs/finalizers", &["update"]),
    ("kodosumi.io", "agentruns", &["get", "list", "create", "update"]),
    ("kodosumi.io", "agentruns/status", &["update"]),
    ("kodosumi.io", "agentruns/finalizers", &["update"]),
    ("", "pods", &["get", "create", "delete"]),
    ("", "pods/exec", &[]),
    ("events.k8s.io", "events", &[]),
    ("", "secrets", &[]),
    ("authentication.k8s.io", "tokenreviews", &[]),
];

const GATEWAY: &Rights = &[
    ("kodosumi.io", "agentjobs", &["get"]),
    ("kodosumi.io", "agentjobs/template", &[]),
    ("kodosumi.io", "agenttemplates", &[]),
    ("kodosumi.io", "agentjobs/status", &[]),
    ("kodosumi.io", "agentjobs/finalizers", &[]),
    ("kodosumi.io", "agentruns", &["get", "list", "watch"]),
    ("kodosumi.io", "agentruns/status", &["update"]),
    ("kodosumi.io", "agentruns/finalizers", &[]),
    ("", "pods", &[]),
    ("", "pods/exec", &[]),
    ("events.k8s.io", "events", &[]),
    ("", "secrets", &[]),
];

const VIEW: &Rights = &[
    ("kodosumi.io", "agentjobs", &READ),
    ("kodosumi.io", "agentjobs/template", &[]),
    ("kodosumi.io", "agenttemplates", &READ),
    ("kodosumi.io", "agentjobs/status", &READ),
    ("kodosumi.io", "agentruns", &READ),
    ("kodosumi.io", "agentruns/status", &READ),
    ("kodosumi.io", "agentruns/finalizers", &[]),
];

const EDIT: &Rights = &[
    ("kodosumi.io", "agentjobs", &ALL),
    ("kodosumi.io", "agentjobs/template", &[]),
    ("kodosumi.io", "agenttemplates", &ALL),
    ("kodosumi.io", "agentjobs/status", &READ),
    ("kodosumi.io", "agentruns", &READ),
    ("kodosumi.io", "agentruns/status", &READ),
    ("kodosumi.io", "agentruns/finalizers", &[]),
];

/// What `kubectl auth can-i` asks. `namespace` is empty for what is the cluster's.
async fn may(test: &Test, user: &str, verb: &str, group: &str, resource: &str, namespace: &str, name: &str) -> bool {
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    let some = |text: &str| Some(text.to_string()).filter(|t| !t.is_empty());
    let attributes = ResourceAttributes {
        verb: some(verb),
        group: some(group),
        resource: some(resource),
        subresource: some(subresource),
        namespace: some(namespace),
        name: some(name),
        ..ResourceAttributes::default()
    };
    let spec = SubjectAccessReviewSpec {
        user: some(user),
        resource_attributes: Some(attributes),
        ..SubjectAccessReviewSpec::default()
    };
    let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
    let api: Api<SubjectAccessReview> = Api::all(test.client.clone());
    let answer = api.create(&PostParams::default(), &review).await.expect("a review");
    answer.status.is_some_and(|s| s.allowed)
}

/// What a user may do that he should not, or the other way round.
async fn wrong(test: &Test, user: &str, rights: &Rights) -> Vec<String> {
    let mut wrong = Vec::new();
    for (group, resource, allowed) in rights {
        for verb in ALL {
            let got = may(test, user, verb, group, resource, &test.namespace, "").await;
            if got != allowed.contains(&verb) {
                wrong.push(format!("{user} {} {verb} {resource}", if got { "may" } else { "may not" }));
            }
        }
    }
    wrong
}

fn bind(test: &Test, user: &str, role: &str) {
    let (ns, name) = (test.namespace.as_str(), format!("{user}-{role}"));
    let (user, role) = (format!("--user={user}"), format!("--clusterrole={role}"));
    kubectl(&["create", "rolebinding", &name, "-n", ns, &role, &user]).expect("a binding");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_role_and_user_may_do_what_it_needs_and_nothing_else() {
    let test = Test::new().await;
    let chart = Chart::install(&test);
    for (user, role) in [(VIEWER, "view"), (EDITOR, "edit")] {
        bind(&test, user, role);
    }
    // Aggregation takes a moment; so does the API server to see a role.
    within(DEADLINE, "the users' rights", async || {
        let viewer = wrong(&test, VIEWER, VIEW).await;
        let editor = wrong(&test, EDITOR, EDIT).await;
        if viewer.is_empty() && editor.is_empty() { Ok(()) } else { Err((viewer, editor)) }
    })
    .await;
    let mut found = Vec::new();
    for (role, rights) in [("controller", CONTROLLER), ("temporal-worker", WORKER), ("gateway", GATEWAY)] {
        found.extend(wrong(&test, &chart.user(role), rights).await);
    }
    // Elsewhere, and of the cluster. The group, the resource, its namespace, its name, and whether.
    let ns = chart.namespace.as_str();
    let cases = [
        ("gateway", "create", "authentication.k8s.io", "tokenreviews", "", "", true),
        ("gateway", "update", "", "secrets", ns, "koco-gateway-tls", true),
        ("gateway", "get", "", "secrets", ns, "another", false),
        ("gateway", "update", "", "configmaps", ns, "koco-gateway-ca", true),
        ("gateway", "update", "coordination.k8s.io", "leases", ns, "koco-gateways", true),
        ("gateway", "update", "coordination.k8s.io", "leases", ns, "koco-controller", false),
        ("gateway", "list", "kodosumi.io", "agentruns", "default", "", false),
        ("controller", "watch", "", "configmaps", ns, "koco-gateway-ca", true),
        ("controller", "watch", "", "configmaps", ns, "", false),
        ("controller", "update", "", "configmaps", ns, "koco-gateway-ca", false),
        ("controller", "get", "", "namespaces", "", "kube-system", true),
        ("controller", "get", "", "namespaces", "", "default", false),
        ("controller", "update", "coordination.k8s.io", "leases", ns, "koco-controller", true),
        ("controller", "update", "coordination.k8s.io", "leases", ns, "another", false),
        ("controller", "get", "", "nodes", "", "", true),
        ("controller", "list", "", "nodes", "", "", false),
        ("controller", "create", "", "pods", "default", "", false),
        ("controller", "create", "", "pods", ns, "", false),
        ("temporal-worker", "watch", "", "configmaps", ns, "koco-gateway-ca", true),
        ("temporal-worker", "get", "", "nodes", "", "", true),
        ("temporal-worker", "list", "", "nodes", "", "", false),
        ("temporal-worker", "create", "", "pods", "default", "", false),
        ("temporal-worker", "create", "kodosumi.io", "agentruns", "default", "", false),
    ];
    for (role, verb, group, resource, namespace, name, wanted) in cases {
        if may(&test, &chart.user(role), verb, group, resource, namespace, name).await != wanted {
            found.push(format!("{role} {verb} {resource} {name} in {namespace}: not {wanted}"));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// A job's whole life in each mode: pause, resume, retry, cancel, deletion.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_roles_rights_are_enough() {
    let test = Test::new().await;
    let chart = Chart::install(&test);
    let _roles = chart.roles(Server::Shared).await;
    for mode in MODES {
        lives(&test, mode, async |job| _ = job.counts().await, async |job| job.nothing_runs().await).await;
    }
    nothing_was_forbidden(&test);
}

/// The second line: users who may create pods can't create one that looks like an agent's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_that_look_like_an_agents_are_kocos() {
    let test = Test::new().await;
    let _chart = Chart::install(&test);
    bind(&test, EDITOR, "edit");
    let ns = test.namespace.as_str();
    let as_editor = |args: &[&str], object: &serde_json::Value| {
        let all = [&["--as", EDITOR, "-n", ns], args].concat();
        feed(&test.cluster.dev, "kubectl", &all, object.to_string().as_bytes())
    };
    let pod = |name: &str, metadata: serde_json::Value| {
        let spec = json!({
            "containers": [{ "name": "a", "image": "localhost/busybox:dev", "command": ["sleep", "600"] }],
            "terminationGracePeriodSeconds": 0,
        });
        let named = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name }, "spec": spec });
        named.with(json!({ "metadata": metadata }))
    };
    let owner = json!([{ "apiVersion": "kodosumi.io/v1alpha1", "kind": "AgentRun", "name": "r", "uid": "1-2-3" }]);
    let marks = [
        ("component", json!({ "labels": { "app.kubernetes.io/component": "agent-runner" } })),
        ("uid", json!({ "labels": { "kodosumi.io/job-uid": "u" } })),
        ("owner", json!({ "ownerReferences": owner })),
    ];
    // The API server takes a moment to see a new policy, and a new binding.
    within(DEADLINE, "the policy", async || {
        let _ = as_editor(&["delete", "pod", "uid", "--ignore-not-found"], &json!(null));
        match as_editor(&["create", "-f", "-"], &pod("uid", marks[1].1.clone())) {
            Err(e) if e.contains("is for pods that koco creates") => Ok(()),
            other => Err(other),
        }
    })
    .await;
    as_editor(&["create", "-f", "-"], &pod("plain", json!({ "labels": { "a": "b" } }))).expect("any other pod");
    for (name, mark) in &marks {
        let refused = as_editor(&["create", "-f", "-"], &pod(name, mark.clone())).expect_err(name);
        assert!(refused.contains("pods that koco creates"), "{name}: {refused}");
        // Nor does a pod become one.
        let patch = json!({ "metadata": mark }).to_string();
        let refused =
            as_editor(&["patch", "pod", "plain", "--type=merge", "-p", &patch], &json!(null)).expect_err(name);
        assert!(refused.contains("pods that koco creates"), "{name}: {refused}");
    }
    // An administrator may, and others may still change such a pod otherwise.
    let agents = pod("agents", marks[0].1.clone().with(marks[1].1.clone()));
    feed(&test.cluster.dev, "kubectl", &["create", "-n", ns, "-f", "-"], agents.to_string().as_bytes()).expect("a pod");
    as_editor(&["label", "pod", "agents", "a=b"], &json!(null)).expect("another label");
    // And only koco may write runs.
    let run = json!({ "apiVersion": "kodosumi.io/v1alpha1", "kind": "AgentRun", "metadata": { "name": "r" } });
    let refused = as_editor(&["create", "-f", "-", "--validate=false"], &run).expect_err("a run");
    assert!(refused.contains("forbidden"), "{refused}");
}
