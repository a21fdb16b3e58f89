//! Whose a job is: what its annotation says, which admission holds to be true, and the archive lists by.

use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use koco::api::{AgentJob, names};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::{
    archive::{Reader, fid, owner},
    harness::{DEADLINE, Roles, Server, Test, agent, job::With, within},
    rights::{client_as, refusal},
};

/// A job of this owner, or of none.
fn job(name: &str, owner: Option<&str>) -> AgentJob {
    let annotations = owner.map(|owner| json!({ names::ANNOTATION_OWNER: owner }));
    let job = crate::harness::job::manifest(name, agent("anything"));
    let job = job.with(json!({ "metadata": { "annotations": annotations } }));
    serde_json::from_value(job).expect("a job")
}

/// A user who may write the jobs of the test's namespace.
pub async fn writer(test: &Test, user: &str) -> String {
    rights(test, &[user], user).await;
    user.into()
}

/// Lets users write the jobs of the test's namespace, and one of them impersonate others.
async fn rights(test: &Test, users: &[&str], impersonator: &str) {
    let meta = json!({ "name": format!("{}-writers", test.namespace) });
    let rules = json!([{ "apiGroups": ["kodosumi.io"], "resources": ["agentjobs"], "verbs": ["*"] }]);
    let user = |name: &&str| json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name });
    let subjects: Vec<Value> = users.iter().map(user).collect();
    let to = |kind: &str| json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": meta["name"] });
    let role: Role = serde_json::from_value(json!({ "metadata": meta, "rules": rules })).expect("a role");
    let binding = json!({ "metadata": meta, "roleRef": to("Role"), "subjects": subjects });
    let binding: RoleBinding = serde_json::from_value(binding).expect("a binding");
    let params = PostParams::default();
    Api::namespaced(test.client.clone(), &test.namespace).create(&params, &role).await.expect("a role");
    Api::namespaced(test.client.clone(), &test.namespace).create(&params, &binding).await.expect("a binding");
    let rules = json!([
        { "apiGroups": [""], "resources": ["users"], "resourceNames": ["owner-ann"], "verbs": ["impersonate"] },
        { "apiGroups": [""], "resources": ["serviceaccounts"], "verbs": ["impersonate"] },
    ]);
    let role: ClusterRole = serde_json::from_value(json!({ "metadata": meta, "rules": rules })).expect("a role");
    let binding = json!({ "metadata": meta, "roleRef": to("ClusterRole"), "subjects": [user(&impersonator)] });
    let binding: ClusterRoleBinding = serde_json::from_value(binding).expect("a binding");
    Api::all(test.client.clone()).create(&params, &role).await.expect("a role");
    Api::all(test.client.clone()).create(&params, &binding).await.expect("a binding");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_belongs_to_who_created_it_or_to_nobody() {
    let test = Test::new().await;
    let [ann, bob, proxy] = ["owner-ann", "owner-bob", "owner-proxy"];
    rights(&test, &[ann, bob, proxy], proxy).await;
    let of = async |user: &str| Api::<AgentJob>::namespaced(client_as(user).await, &test.namespace);
    let (as_ann, as_bob, as_proxy) = (of(ann).await, of(bob).await, of(proxy).await);
    let params = PostParams::default();

    // The API server takes a moment to see new rights.
    let words = within(DEADLINE, "a refusal by the policy", async || {
        match refusal(as_bob.create(&params, &job("forged", Some(ann))).await) {
            Ok(words) if words.contains("metadata.annotations[kodosumi.io/owner]") => Ok(words),
            other => Err(other),
        }
    });
    words.await;
    as_ann.create(&params, &job("anns", Some(ann))).await.expect("her own");
    as_bob.create(&params, &job("bobs", Some(bob))).await.expect("his own");
    as_bob.create(&params, &job("nobodys", None)).await.expect("nobody's");
    as_bob.create(&params, &job("empty", Some(""))).await.expect("nobody's");
    // Who may impersonate somebody may name them, and no others.
    let account = "system:serviceaccount:default:default";
    within(DEADLINE, "the right to impersonate", async || {
        refusal(as_proxy.create(&params, &job("for-ann", Some(ann))).await).map_or_else(|_| Ok(()), Err)
    })
    .await;
    as_proxy.create(&params, &job("for-an-account", Some(account))).await.expect("an account that it may impersonate");
    for (api, name) in [(&as_proxy, bob), (&as_bob, account), (&as_bob, "system:serviceaccount:x"), (&as_ann, "x")] {
        let words = refusal(api.create(&params, &job("forged", Some(name))).await).expect("a refusal");
        assert!(words.contains("kodosumi.io/owner"), "{words}");
    }

    // What is said once, others don't change, nor take away; all else they do.
    let set = |owner: Value| json!({ "metadata": { "annotations": { names::ANNOTATION_OWNER: owner } } });
    let change = async |api: &Api<AgentJob>, name: &str, patch: Value| {
        refusal(api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await)
    };
    for owner in [json!(bob), Value::Null, json!("")] {
        assert!(change(&as_bob, "anns", set(owner.clone())).await.is_ok(), "bob sets {owner}");
    }
    assert!(change(&as_ann, "anns", set(json!(bob))).await.is_ok(), "ann gives it to bob");
    let other = json!({ "metadata": { "annotations": { "a": "b" } }, "spec": { "desiredState": "Cancelled" } });
    assert!(change(&as_bob, "anns", other).await.is_err(), "bob may cancel it");
    assert!(change(&as_ann, "nobodys", set(json!(ann))).await.is_err(), "ann takes what is nobody's");
    assert!(change(&as_ann, "anns", set(Value::Null)).await.is_err(), "ann leaves it");
    for name in ["for-ann", "for-an-account"] {
        as_bob.delete(name, &DeleteParams::default()).await.expect("who may delete it may");
    }
    for name in [format!("{}-writers", test.namespace)] {
        let params = DeleteParams::default();
        Api::<ClusterRole>::all(test.client.clone()).delete(&name, &params).await.expect("deleted");
        Api::<ClusterRoleBinding>::all(test.client.clone()).delete(&name, &params).await.expect("deleted");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_archive_lists_by_owner() {
    let test = Test::new().await;
    let mut roles = Roles::of(&test, Server::None, &["server"]);
    roles.start().await;
    let reader = Reader::of(&test, &roles).await;
    let token = owner(&test).await;
    let annotation = |owner: &str| json!({ "metadata": { "annotations": { names::ANNOTATION_OWNER: owner } } });
    // An administrator may name anybody.
    let anns = test.apply(agent("anything")).await;
    anns.patch(annotation("ann")).await;
    let nobodys = test.apply(agent("anything")).await;
    let (anns, nobodys) = (fid(&anns).await, fid(&nobodys).await);
    reader.until(&anns, &token, "its owner", |found| found["owner"] == "ann").await;
    reader.until(&nobodys, &token, "the job", |found| found.get("owner").is_none()).await;
    for (owner, expected) in [("ann", vec![json!(anns)]), ("bob", vec![])] {
        let path = format!("/api/v1/executions?namespace={}&owner={owner}", test.namespace);
        let (status, list) = reader.get(&path, &token).await;
        let fids: Vec<_> = list["items"].as_array().expect("items").iter().map(|item| item["fid"].clone()).collect();
        assert_eq!((status, fids), (200, expected), "{owner}");
    }
}
