//! The archive: what became of jobs is read when they are gone, by those who may, and jobs don't depend on it.

use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use koco::api::names;
use kube::{
    Api,
    api::{DeleteParams, PostParams},
};
use serde_json::{Value, json};

pub use crate::harness::archive::{Reader, account, fid, owner, token};
use crate::harness::{
    DEADLINE, Job, MODES, Node, Phase, Roles, Server, Test, agent,
    by_hand::{event, logged, patch_status},
    cluster::NODE_IP,
    gateway_client::token_of,
    job::With,
    within,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_became_of_a_job_is_read_when_it_is_gone() {
    let test = Test::new().await;
    let mut roles = Roles::of(&test, Server::Shared, &["operator", "server"]);
    roles.start().await;
    let _node = Node::automatic(&test);
    let (reader, token) = (Reader::of(&test, &roles).await, owner(&test).await);
    for mode in MODES {
        let secret = json!([{ "name": "agent", "env": [{ "name": "TOKEN", "value": "s3cret" }],
            "image": "localhost/agent:none", "command": ["/test-agent", "s3cret"] }]);
        let spec = json!({ "inputs": { "text": "a needle" }, "extra": { "key": "s3cret" },
            "template": { "spec": { "containers": secret } } });
        let job = test.apply(agent("succeed").mode(mode).with(spec)).await;
        job.phase(Phase::Succeeded).await;
        let fid = fid(&job).await;
        job.delete(DeleteParams::default()).await;
        job.gone(DEADLINE).await;
        let found = reader.until(&fid, &token, "its deletion", |found| found["deletionTime"].is_string()).await;
        assert_eq!((&found["phase"], &found["attempt"]), (&json!("Succeeded"), &json!(1)), "{found}");
        assert_eq!((&found["name"], &found["executionMode"]), (&json!(job.name), &json!(mode.as_str())));
        assert_eq!(found["job"]["status"]["result"], json!({ "inputs": { "text": "a needle" } }));
        assert_eq!(found["job"]["spec"]["inputs"], json!({ "text": "a needle" }));
        assert_eq!(found["job"]["spec"]["containers"][0]["env"], json!(["TOKEN"]));
        assert!(!found.to_string().contains("s3cret"), "{found}");
        let [run] = found["runs"].as_array().expect("runs").as_slice() else { panic!("one run: {found}") };
        assert_eq!((&run["number"], &run["attempt"], &run["outcome"]), (&json!(1), &json!(1), &json!("Succeeded")));
        for field in ["pod", "podUID", "startTime", "completionTime"] {
            assert!(run[field].is_string(), "{field}: {run}");
        }
    }
    let failed =
        test.apply(agent("fail-until?attempt=9").with(json!({ "retryPolicy": { "maximumAttempts": 1 } }))).await;
    failed.phase(Phase::Failed).await;
    let failed_fid = fid(&failed).await;
    let found = reader.until(&failed_fid, &token, "its end", |found| found["phase"] == "Failed").await;
    assert_eq!(found["job"]["status"]["error"]["type"], found["errorType"], "{found}");
    let ended = |found: &Value| found["runs"][0]["outcome"].is_string();
    let found = reader.until(&failed_fid, &token, "its run's end", ended).await;
    let run = &found["runs"][0];
    assert_eq!((&run["error"]["type"], &run["outcome"]), (&found["errorType"], &json!("Failed")), "{run}");
    let ns = &test.namespace;
    for (parameters, count) in [
        ("", 3),
        ("&phase=Succeeded", 2),
        ("&phase=Failed", 1),
        ("&search=A%20NEEDLE", 2),
        ("&search=absent", 0),
        ("&entryPoint=fail-until%3Fattempt%3D9", 1),
        ("&owner=nobody", 0),
        ("&since=2100-01-01T00:00:00Z", 0),
        ("&until=2100-01-01T00:00:00Z", 3),
    ] {
        let (status, list) = reader.get(&format!("/api/v1/executions?namespace={ns}{parameters}"), &token).await;
        assert_eq!((status, list["items"].as_array().map(Vec::len)), (200, Some(count)), "{parameters}: {list}");
    }
    // By pages, the newest first.
    let mut seen = Vec::new();
    let mut next = String::new();
    for _ in 0..3 {
        let path = format!("/api/v1/executions?namespace={ns}&limit=1{next}");
        let (status, list) = reader.get(&path, &token).await;
        assert_eq!(status, 200, "{list}");
        seen.push(list["items"][0]["fid"].as_str().expect("a fid").to_string());
        next = list["continue"].as_str().map(|next| format!("&continue={next}")).unwrap_or_default();
    }
    assert!(seen.is_sorted_by(|a, b| a > b) && seen.contains(&failed_fid) && next.is_empty(), "{seen:?}");
    assert_eq!(reader.get(&format!("/api/v1/executions?namespace={ns}&phase=x"), &token).await.0, 400);
}

/// A server, and a job that nothing runs.
async fn with_a_job(test: &Test) -> (Roles, Reader, Job<'_>, String) {
    let mut roles = Roles::of(test, Server::None, &["server"]);
    roles.start().await;
    let job = test.apply(agent("anything")).await;
    let fid = fid(&job).await;
    let reader = Reader::of(test, &roles).await;
    reader.until(&fid, &owner(test).await, "the job", |_| true).await;
    (roles, reader, job, fid)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_read_without_the_right() {
    let test = Test::new().await;
    let (_roles, reader, job, fid) = with_a_job(&test).await;
    account(&test, &test.namespace, "stranger", &[], &[]).await;
    account(&test, &test.namespace, "writer", &["delete", "list", "watch"], &[]).await;
    account(&test, &test.namespace, "other", &["get", "delete"], &["another-job"]).await;
    account(&test, &test.namespace, "one", &["get"], &[&job.name]).await;
    account(&test, &test.namespace, "reader", &["get"], &[]).await;
    let one = format!("/api/v1/executions/{fid}");
    let unknown = "/api/v1/executions/000000000000000000000000".to_string();
    let here = format!("/api/v1/executions?namespace={}", test.namespace);
    let all = "/api/v1/executions".to_string();
    let elsewhere = "/api/v1/executions?namespace=koco-system".to_string();
    let paths = [("GET", &one), ("GET", &unknown), ("GET", &here), ("GET", &all), ("GET", &elsewhere)];
    let deletes = [("DELETE", &one), ("DELETE", &unknown)];

    // Who asks is not known: not even which paths there are is said.
    let api_server = token_of(&test.client, &test.namespace, "reader", None, None).await;
    let gateway = token_of(&test.client, &test.namespace, "reader", Some(names::GATEWAY_AUDIENCE), None).await;
    let [health, nowhere, api] = ["/health", "/nowhere", "/openapi.json"].map(String::from);
    let others = [("GET", &health), ("GET", &nowhere), ("GET", &api)];
    for (method, path) in paths.iter().chain(&deletes).copied().chain(others) {
        for token in [None, Some("a.b.c"), Some(api_server.as_str()), Some(gateway.as_str())] {
            let (status, body) = reader.send(method, path, token).await;
            assert_eq!(status, 401, "{method} {path}: {body}");
        }
    }

    // It is, and may not.
    for account in ["stranger", "other"] {
        let token = token(&test, account).await;
        for (method, path) in paths.iter().chain(&deletes) {
            let (status, body) = reader.send(method, path, Some(&token)).await;
            assert_eq!((status, &body["reason"]), (403, &json!("Forbidden")), "{account}: {method} {path}: {body}");
        }
        let (status, health) = reader.get("/health", &token).await;
        assert_eq!((status, &health["status"]), (200, &json!("ok")), "{health}");
        assert_eq!(reader.get("/nowhere", &token).await.0, 404);
        assert_eq!(reader.get("/openapi.json", &token).await.1["openapi"], "3.1.0");
    }

    // Each right is for its part alone.
    let rights = [("reader", [200, 403, 200, 403, 403], [403, 403]), ("one", [200, 403, 403, 403, 403], [403, 403])];
    for (account, gets, removes) in rights {
        let token = token(&test, account).await;
        for ((method, path), expected) in paths.iter().zip(gets).chain(deletes.iter().zip(removes)) {
            let (status, body) = reader.send(method, path, Some(&token)).await;
            assert_eq!(status, expected, "{account}: {method} {path}: {body}");
        }
    }
    let writer = token(&test, "writer").await;
    for (method, path) in paths {
        assert_eq!(reader.send(method, path, Some(&writer)).await.0, 403, "{method} {path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_became_of_a_job_that_is_gone_is_deleted() {
    let test = Test::new().await;
    let (mut roles, reader, job, fid) = with_a_job(&test).await;
    let (path, token) = (format!("/api/v1/executions/{fid}"), token(&test, "owner").await);
    assert_eq!(reader.send("DELETE", &path, Some(&token)).await.0, 409, "the job exists");
    // What is deleted while no server looks is noticed.
    roles.role("server").kill();
    job.delete(DeleteParams::default()).await;
    job.gone(DEADLINE).await;
    roles.start_again().await;
    reader.until(&fid, &token, "its deletion", |found| found["deletionTime"].is_string()).await;
    assert_eq!(reader.send("DELETE", &path, Some(&token)).await.0, 204);
    assert_eq!(reader.get(&path, &token).await.0, 403, "no more is said of it than of what never was");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_that_was_created_anew_reads_nothing_of_the_one_before() {
    let test = Test::new().await;
    let name = format!("{}-b", test.namespace);
    let namespaces: Api<Namespace> = Api::all(test.client.clone());
    let object: Namespace = serde_json::from_value(json!({ "metadata": { "name": name } })).expect("a namespace");
    namespaces.create(&PostParams::default(), &object).await.expect("a namespace");
    let mut roles = Roles::of(&test, Server::None, &["server"]);
    roles.set("KOCO_WATCH_NAMESPACES", &format!("{},{name}", test.namespace));
    roles.start().await;
    let reader = Reader::of(&test, &roles).await;
    account(&test, &name, "tenant", &["get"], &[]).await;
    let tenant = token(&test, "tenant").await;
    let jobs: Api<koco::api::AgentJob> = Api::namespaced(test.client.clone(), &name);
    let job = async || {
        let job = serde_json::from_value(crate::harness::job::manifest("job", agent("anything"))).expect("a job");
        let made = jobs.create(&PostParams::default(), &job).await.expect("a job");
        koco::api::fid(made.metadata.creation_timestamp.as_ref().expect("a time").0.as_second(), made.uid())
    };
    let before = job().await;
    reader.until(&before, &tenant, "the job", |_| true).await;
    namespaces.delete(&name, &DeleteParams::default()).await.expect("delete");
    within(Duration::from_secs(120), "the namespace to be gone", async || {
        namespaces.get_opt(&name).await.expect("get").map_or(Ok(()), |found| Err(found.status))
    })
    .await;
    namespaces.create(&PostParams::default(), &object).await.expect("a namespace");
    account(&test, &name, "tenant", &["get"], &[]).await;
    let after = job().await;
    reader.until(&after, &tenant, "the new job", |_| true).await;
    assert_eq!(reader.get(&format!("/api/v1/executions/{before}"), &tenant).await.0, 403);
    let (status, list) = reader.get(&format!("/api/v1/executions?namespace={name}"), &tenant).await;
    let fids: Vec<_> = list["items"].as_array().expect("items").iter().map(|item| item["fid"].clone()).collect();
    assert_eq!((status, fids), (200, vec![json!(after)]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_run_and_end_without_the_server() {
    let test = Test::new().await;
    let mut roles = Roles::of(&test, Server::Shared, &["operator", "server"]);
    roles.set("KOCO_ARCHIVE_PATIENCE", "2s");
    // Its server is down.
    let operator = roles.role("operator");
    operator.process.start();
    operator.ready().await;
    let _node = Node::automatic(&test);
    for mode in MODES {
        let job = test.apply(agent("succeed").mode(mode)).await;
        job.phase(Phase::Succeeded).await;
        let expiring = test.apply(agent("succeed").mode(mode).with(json!({ "ttlSecondsAfterFinished": 0 }))).await;
        expiring.gone(DEADLINE).await;
        let told = event(&test, &expiring.name, "NotArchived").await;
        assert!(told.message.is_some_and(|m| m.contains("2 s")), "it waited for the archive");
        // What there still is, is archived later.
        roles.role("server").process.start();
        roles.role("server").ready().await;
        let (reader, fid) = (Reader::of(&test, &roles).await, fid(&job).await);
        account(&test, &test.namespace, &format!("of-{}", job.name), &["get"], &[]).await;
        let token = token(&test, &format!("of-{}", job.name)).await;
        reader.until(&fid, &token, "its end", |found| found["phase"] == "Succeeded").await;
        roles.role("server").kill();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_deleted_by_its_time_to_live_when_it_is_in_the_archive() {
    let test = Test::new().await;
    let mut roles = Roles::of(&test, Server::None, &["operator", "server"]);
    roles.set("KOCO_ARCHIVE_PATIENCE", "10m");
    let operator = roles.role("operator");
    operator.process.start();
    operator.ready().await;
    let _node = Node::automatic(&test);
    let ttl = || agent("succeed").with(json!({ "ttlSecondsAfterFinished": 0 }));
    let (job, told) = (test.apply(ttl()).await, test.apply(ttl()).await);
    job.phase(Phase::Succeeded).await;
    let fid = fid(&job).await;
    // As if the server had said so of one of them: by the time that one is gone, the other would be, too.
    told.phase(Phase::Succeeded).await;
    told.patch(json!({ "metadata": { "annotations": { names::ANNOTATION_ARCHIVED: "now" } } })).await;
    told.gone(DEADLINE).await;
    assert!(job.find().await.is_some(), "it waits");
    roles.role("server").start().await;
    job.gone(DEADLINE).await;
    let (reader, token) = (Reader::of(&test, &roles).await, owner(&test).await);
    let found = reader.until(&fid, &token, "its deletion", |found| found["deletionTime"].is_string()).await;
    assert_eq!(found["phase"], "Succeeded");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_server_waits_until_the_first_leaves_its_folder() {
    let test = Test::new().await;
    let (mut roles, reader, _job, fid) = with_a_job(&test).await;
    let second = roles.add(&test, Server::None, "server");
    // At an address of its own.
    roles.list[second].process.set("KOCO_SERVER_ADDR", Some(format!("{NODE_IP}:0")));
    roles.list[second].process.start();
    within(DEADLINE, "the second to say why it waits", async || {
        logged(&test, &["another process has this folder"]).pop().ok_or("nothing")
    })
    .await;
    assert!(!roles.list[second].is_ready().await);
    assert_eq!(reader.get(&format!("/api/v1/executions/{fid}"), &token(&test, "owner").await).await.0, 200);
    roles.list[0].kill();
    roles.list[second].ready().await;
}

/// What comes later through one watch may be known through another already.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_changes_often_is_kept_as_it_was_last() {
    let test = Test::new().await;
    let (mut roles, reader, job, fid) = with_a_job(&test).await;
    let token = token(&test, "owner").await;
    for attempt in 1..=30 {
        patch_status(&test, "AgentJob", &job.name, json!({ "phase": "Running", "attempt": attempt })).await;
        if attempt % 10 == 0 {
            roles.role("server").kill();
            roles.start_again().await;
        }
    }
    reader.until(&fid, &token, "the last attempt", |found| found["attempt"] == 30).await;
    // A list is no news.
    roles.role("server").kill();
    roles.start_again().await;
    assert_eq!(reader.get(&format!("/api/v1/executions/{fid}"), &token).await.1["attempt"], 30);
}
