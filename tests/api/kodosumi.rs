//! What Kodosumi's clients read: one execution's status, events and result, and lists, by those alone who may.

use k8s_openapi::api::core::v1::Pod;
use koco::protocol::events::{Batch, Event, Kind};
use kube::api::DeleteParams;
use serde_json::{Value, json};

use crate::{
    archive::{Reader, account, fid, owner, token},
    events,
    harness::{
        ApiProxy, DEADLINE, Job, Kubelet, Phase, Roles, Runner, Server, Test, agent,
        by_hand::{started, succeeds},
        job::{With, pod_name},
        kubelet::End,
        runner::failed,
        within,
    },
};

const END: (Kind, &str) = (Kind::Debug, r#"{"koco":{"end":{"kind":"Succeeded"}}}"#);
const INPUTS: &str = r#"{"dict":{"text":"<b>"}}"#;
/// What a runner tells when its agent starts.
const BEGIN: [(Kind, &str); 3] = [(Kind::Status, "starting"), (Kind::Inputs, INPUTS), (Kind::Status, "running")];

/// Tells all events of a run, from the first on, until they are stored.
async fn tell(runner: &Runner, events: &[(Kind, &str)]) {
    let event = |(ts, (kind, payload)): (u32, &(Kind, &str))| Event {
        ts: f64::from(ts) + 0.5,
        kind: *kind,
        payload: payload.to_string(),
    };
    let events: Vec<Event> = (1..).zip(events).map(event).collect();
    within(DEADLINE, "events to be stored", async || {
        match runner.tell_events(&runner.run, Batch { from: 1, oldest: 1 }, &events).await {
            Ok((200, stored)) if stored == events.len() as u64 => Ok(()),
            other => Err(other),
        }
    })
    .await;
}

/// A stream's frames, to its end: id, event, and data without the time. Without those that only show that it is alive.
async fn frames(response: reqwest::Response) -> Vec<(i64, String, String)> {
    assert_eq!(response.status().as_u16(), 200);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let text = tokio::time::timeout(DEADLINE, response.text()).await.expect("its end in time").expect("a text");
    let mut all = Vec::new();
    for frame in text.split_terminator("\n\n") {
        let field = |name: &str| frame.lines().filter_map(|l| l.strip_prefix(name)).collect::<Vec<_>>().join("\n");
        let (id, event, data) = (field("id: "), field("event: "), field("data: "));
        let data = match (event.as_str(), data.split_once(':')) {
            ("alive", Some((_, "service alive"))) => continue,
            ("eof", None) => data,
            (_, Some((time, payload))) => {
                assert!(time.parse::<f64>().is_ok() && time.contains('.'), "{frame}");
                payload.into()
            }
            _ => panic!("{frame}"),
        };
        all.push((id.parse().expect("a number"), event, data));
    }
    all
}

/// The events of frames; of `status` with what it says.
fn kinds(frames: &[(i64, String, String)]) -> String {
    let kinds = frames.iter().map(|(_, event, data)| match event.as_str() {
        "status" => format!("{event}={data}"),
        event => event.to_string(),
    });
    kinds.collect::<Vec<_>>().join(" ")
}

struct Clients {
    reader: Reader,
    token: String,
}

impl Clients {
    async fn of(test: &Test, roles: &Roles) -> Self {
        Self { reader: Reader::of(test, roles).await, token: owner(test).await }
    }

    async fn ask(&self, path: &str) -> reqwest::Response {
        self.reader.ask(path, &[("KODOSUMI_API_KEY", &self.token)]).await
    }

    async fn json(&self, path: &str) -> Value {
        let answer = self.ask(path).await;
        let status = answer.status().as_u16();
        let body: Value = answer.json().await.expect("JSON");
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    async fn until(&self, fid: &str, phase: Phase) {
        self.reader.until(fid, &self.token, phase.as_str(), |found| found["phase"] == phase.as_str()).await;
    }
}

/// A job with inputs, whose first agent was started.
struct Started<'a> {
    roles: Roles,
    clients: Clients,
    kubelet: Kubelet,
    job: Job<'a>,
    pod: Pod,
    runner: Runner,
    fid: String,
}

impl<'a> Started<'a> {
    async fn of(test: &'a Test, attempts: i32) -> Self {
        let roles = events::roles(test, Server::None).await;
        let (clients, kubelet) = (Clients::of(test, &roles).await, Kubelet::of(test));
        let retry = json!({ "maximumAttempts": attempts, "initialInterval": "100ms" });
        let job = agent("anything").with(json!({ "inputs": { "text": "<b>" }, "retryPolicy": retry }));
        let job = test.apply(job).await;
        let (pod, runner) = started(&kubelet, &job, 1).await;
        let fid = fid(&job).await;
        Self { roles, clients, kubelet, job, pod, runner, fid }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_finished_execution_is_read_as_from_kodosumi() {
    let test = Test::new().await;
    let Started { roles: _roles, clients, kubelet, job, pod, runner, fid } = Started::of(&test, 1).await;
    let printed = "\u{1b}[31ma\u{1b}[0m <c>\nid: 9\n\nevent: eof";
    let result = r##"{"Markdown":{"body":"# A\n<script>x</script>"}}"##;
    let last = r#"{"HTML":{"body":"<b onclick=x>done</b>"}}"#;
    let forged = [(Kind::Status, "finished"), (Kind::Meta, r#"{"dict":{"username":"root"}}"#)];
    let told = [(Kind::Stdout, printed), (Kind::Result, result), (Kind::Final, last), END];
    tell(&runner, &[&BEGIN[..], &forged, &told].concat()).await;
    let running = clients.json(&format!("/outputs/status/{fid}")).await;
    assert_eq!(
        (&running["status"], &running["final"], &running["fid"]),
        (&json!("running"), &Value::Null, &json!(fid))
    );
    let raw = clients.json(&format!("/outputs/raw/{fid}")).await;
    assert_eq!(raw["Markdown"]["body"], "no result, yet. please be patient.");
    let open = clients.ask(&format!("/outputs/stream/{fid}")).await;
    succeeds(&kubelet, &job, &pod, &runner, json!("done")).await;
    clients.until(&fid, Phase::Succeeded).await;
    job.delete(DeleteParams::default()).await;
    job.gone(DEADLINE).await;

    let all = frames(open).await;
    let meta: Value = serde_json::from_str(&all[2].2).expect("JSON");
    assert_eq!((&meta["dict"]["fid"], &meta["dict"]["summary"]), (&json!(fid), &json!(job.name)));
    let expected = [
        (1, "status", "starting"),
        (2, "inputs", INPUTS),
        (2, "meta", &all[2].2),
        (3, "status", "running"),
        (6, "stdout", printed),
        (7, "result", result),
        (9, "debug", END.1),
        (9, "final", last),
        (9, "status", "finished"),
        (9, "eof", "end of stream"),
    ];
    let expected: Vec<_> = expected.map(|(id, event, data)| (id, event.to_string(), data.to_string())).into();
    assert_eq!(all, expected);
    // The same again, from the start and from where a client was, and in other forms.
    assert_eq!(frames(clients.ask(&format!("/outputs/stream/{fid}?raw")).await).await, expected);
    let key = [("KODOSUMI_API_KEY", clients.token.as_str()), ("last-event-id", "3")];
    let rest = clients.reader.ask(&format!("/outputs/stream/{fid}"), &key).await;
    assert_eq!(frames(rest).await, expected[4..]);
    let main = frames(clients.ask(&format!("/outputs/main/{fid}?raw")).await).await;
    assert_eq!(kinds(&main), "status=starting inputs meta status=running result final status=finished eof");
    assert_eq!((main[4].2.as_str(), main[5].2.as_str()), (result, last));
    let main = frames(clients.ask(&format!("/outputs/main/{fid}")).await).await;
    assert_eq!(
        (main[1].2.as_str(), main[4].2.as_str()),
        ("dict:\n  text: <b>\n".replace('<', "&lt;").replace('>', "&gt;").as_str(), "<h1>A</h1>\n")
    );
    assert_eq!(main[5].2, "<b>done</b>");
    let printed = frames(clients.ask(&format!("/outputs/stdio/{fid}")).await).await;
    assert_eq!(kinds(&printed), "stdout debug eof");
    assert_eq!(printed[0].2, "<span class=\"ansi31\">a</span> &lt;c&gt;\nid: 9\n\nevent: eof");

    let status = clients.json(&format!("/outputs/status/{fid}")).await;
    assert_eq!((&status["status"], &status["final"], &status["locks"]), (&json!("finished"), &json!(last), &json!([])));
    assert_eq!(clients.json(&format!("/outputs/raw/{fid}")).await, serde_json::from_str::<Value>(last).unwrap());
    let page = clients.ask(&format!("/outputs/html/{fid}")).await;
    let policy = page.headers()["content-security-policy"].to_str().expect("a policy").to_string();
    assert!(policy.starts_with("sandbox; default-src 'none'"), "{policy}");
    assert_eq!(page.headers()["content-type"], "text/html; charset=utf-8");
    let page = page.text().await.expect("a page");
    assert!(page.contains("<main>\n<b>done</b>\n</main>") && !page.contains("onclick"), "{page}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_ends_no_stream_of_kodosumis() {
    let test = Test::new().await;
    let Started { roles: _roles, clients, kubelet, job, pod, runner, fid } = Started::of(&test, 2).await;
    let error = "AgentFailed: exit code 1";
    let early = (Kind::Final, r#"{"str":"of an attempt that fails"}"#);
    tell(&runner, &[&BEGIN[..], &[early, (Kind::Error, error), END]].concat()).await;
    let stream = clients.ask(&format!("/outputs/main/{fid}?raw&extended=true")).await;
    runner.outcome(0, failed("AgentFailed", 1)).await.expect("204");
    kubelet.end(&pod_name(&pod), &End::exit(1, None)).await;
    let (pod, runner) = started(&kubelet, &job, 2).await;
    let again = |found: &Value| found["phase"] == "Running" && found["attempt"] == 2;
    clients.reader.until(&fid, &clients.token, "the second attempt", again).await;
    assert_eq!(clients.json(&format!("/outputs/status/{fid}")).await["status"], "running");
    tell(&runner, &[&BEGIN[..], &[END]].concat()).await;
    // An agent that sends no result has one.
    succeeds(&kubelet, &job, &pod, &runner, json!({ "a": 1.5 })).await;
    let all = frames(stream).await;
    let begin = "status=starting inputs meta status=running";
    assert_eq!(kinds(&all), format!("{begin} error {begin} final status=finished eof"));
    assert_eq!((all[4].2.as_str(), all[9].2.as_str()), (error, r#"{"dict":{"a":1.5}}"#));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_an_execution_without_events_is_told_by_its_job() {
    let test = Test::new().await;
    let Started { roles: _roles, clients, kubelet, job: _, pod, runner, fid } = Started::of(&test, 1).await;
    let stream = clients.ask(&format!("/outputs/main/{fid}?raw")).await;
    runner.outcome(0, failed("AgentFailed", 1)).await.expect("204");
    kubelet.end(&pod_name(&pod), &End::exit(1, None)).await;
    clients.until(&fid, Phase::Failed).await;
    let all = frames(stream).await;
    assert_eq!(kinds(&all), "status=starting inputs meta status=running error status=error eof");
    let error = "AgentFailed: attempt 1 of 1: exit code 1";
    let inputs = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");
    assert_eq!((inputs(&all[1].2), all[4].2.as_str()), (inputs(INPUTS), error));
    let text = json!({ "Text": { "body": error } });
    let status = clients.json(&format!("/outputs/status/{fid}")).await;
    assert_eq!((&status["status"], &status["final"]), (&json!("error"), &json!(text.to_string())));
    assert_eq!(clients.json(&format!("/outputs/raw/{fid}")).await, text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_kodosumis_is_read_without_the_right() {
    let test = Test::new().await;
    let mut roles = Roles::of(&test, Server::None, &["server"]);
    roles.start().await;
    let (clients, job) = (Clients::of(&test, &roles).await, test.apply(agent("anything")).await);
    let fid = fid(&job).await;
    clients.reader.until(&fid, &clients.token, "the job", |_| true).await;
    account(&test, &test.namespace, "stranger", &[], &[]).await;
    account(&test, &test.namespace, "writer", &["delete", "list", "watch"], &[]).await;
    account(&test, &test.namespace, "one", &["get"], &[&job.name]).await;
    let of_one = ["status", "stream", "main", "stdio", "raw", "html"].map(|name| format!("/outputs/{name}/{fid}"));
    let lists = ["/timeline/list", "/timeline/changes", "/timeline/list?namespace=koco-system"].map(String::from);
    for path in of_one.iter().chain(&lists).chain(["/health".to_string()].iter()) {
        let answer = clients.reader.ask(path, &[]).await;
        assert_eq!(answer.status().as_u16(), 401, "{path}");
        let body: Value = answer.json().await.expect("JSON");
        assert_eq!(body["error"], "NotAuthorizedException", "{body}");
    }
    // Some wait unless they are told not to.
    let now = |path: &str| if path.contains('?') { path.to_string() } else { format!("{path}?extended=false") };
    for name in ["stranger", "writer"] {
        let token = token(&test, name).await;
        let bearer = format!("Bearer {token}");
        let cookie = format!("kodosumi_jwt={token}");
        // All three are the same token.
        for path in of_one.iter().chain(&lists) {
            for (header, value) in [("KODOSUMI_API_KEY", &token), ("cookie", &cookie), ("authorization", &bearer)] {
                let answer = clients.reader.ask(&now(path), &[(header, value)]).await;
                assert_eq!(answer.status().as_u16(), 403, "{name} with {header}: {path}");
                let body: Value = answer.json().await.expect("JSON");
                let path = path.split('?').next().expect("a path");
                assert_eq!(
                    (&body["error"], &body["path"], &body["status_code"]),
                    (&json!("PermissionDeniedException"), &json!(path), &json!(403)),
                    "{body}"
                );
                assert!(body["detail"].as_str().is_some_and(|detail| detail.contains("agentjobs/events")), "{body}");
            }
        }
    }
    let one = token(&test, "one").await;
    for path in &of_one {
        assert_eq!(clients.reader.ask(path, &[("KODOSUMI_API_KEY", &one)]).await.status().as_u16(), 200, "{path}");
    }
    for path in &lists {
        assert_eq!(clients.reader.ask(path, &[("KODOSUMI_API_KEY", &one)]).await.status().as_u16(), 403, "{path}");
    }
    for path in
        ["/outputs/status/x", "/outputs/status/0?extended=maybe", "/timeline/list?pp=x", "/timeline/list?offset=x"]
    {
        assert_eq!(clients.ask(path).await.status().as_u16(), 400, "{path}");
    }
    assert_eq!(clients.json("/health").await["ray_status"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_execution_that_is_not_there_yet_is_waited_for() {
    let test = Test::new().await;
    let mut roles = Roles::of(&test, Server::None, &["server"]);
    let proxy = ApiProxy::before(&test, roles.role("server")).await;
    roles.start().await;
    let clients = Clients::of(&test, &roles).await;
    // The archive asks for the namespace before it writes the first job.
    let held = proxy.hold("get namespaces");
    let job = test.apply(agent("anything")).await;
    held.reached().await;
    let fid = fid(&job).await;
    let path = format!("/outputs/status/{fid}");
    assert_eq!(clients.ask(&path).await.status().as_u16(), 403, "no more is said of what is not there");
    let extended = [format!("{path}?extended=true"), format!("/outputs/main/{fid}")];
    let mut asked = Box::pin(futures::future::join_all(extended.iter().map(|path| clients.ask(path))));
    let early = tokio::time::timeout(std::time::Duration::from_secs(1), &mut asked).await;
    assert!(early.is_err(), "answered before it was there");
    held.release();
    for answer in asked.await {
        assert_eq!(answer.status().as_u16(), 200, "{}", answer.url());
    }
    assert_eq!(clients.json(&path).await["status"], "starting");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timelines_show_what_may_be_read() {
    let test = Test::new().await;
    let mut roles = Roles::of(&test, Server::None, &["server"]);
    roles.start().await;
    let clients = Clients::of(&test, &roles).await;
    let since = clients.json("/timeline/changes").await["timestamp"].as_f64().expect("a time");
    let mut fids = Vec::new();
    let mut jobs = Vec::new();
    for n in 0..3 {
        let job = test.apply(agent("anything").with(json!({ "inputs": { "needle": n } }))).await;
        fids.push(fid(&job).await);
        clients.reader.until(&fids[n], &clients.token, "the job", |_| true).await;
        jobs.push(job);
    }
    let newest_first = {
        let mut fids = fids.clone();
        fids.sort();
        fids.reverse();
        fids
    };
    let of = |list: &Value, name: &str| -> Vec<String> {
        let items = list[name].as_array().expect("items");
        items.iter().map(|item| item["fid"].as_str().unwrap_or_default().to_string()).collect()
    };
    // Of the account's own namespace, unless another is asked for.
    let list = clients.json("/timeline/list").await;
    assert_eq!(of(&list, "items"), newest_first);
    let item = list["items"].as_array().and_then(|items| items.iter().find(|item| item["fid"] == json!(fids[0])));
    let item = item.expect("the first job");
    assert_eq!((&item["inputs"], &item["status"]), (&json!({ "dict": { "needle": 0 } }), &json!("starting")));
    assert_eq!((&item["summary"], &item["finish"], &item["locks"]), (&json!(jobs[0].name), &Value::Null, &json!([])));
    let (mut seen, mut path) = (Vec::new(), "/timeline/list?pp=2".to_string());
    loop {
        let page = clients.json(&path).await;
        seen.extend(of(&page, "items"));
        let Some(offset) = page["offset"].as_str() else { break };
        path = format!("/timeline/list?pp=2&offset={offset}");
    }
    assert_eq!(seen, newest_first);
    let found = clients.json(&format!("/timeline/list?namespace={}&q=NEEDLE%22%3A1", test.namespace)).await;
    assert_eq!((of(&found, "items"), &found["query"]), (vec![fids[1].clone()], &json!("NEEDLE\":1")));

    let changes = format!("/timeline/changes?since={since}");
    assert_eq!(of(&clients.json(&changes).await, "update"), newest_first);
    jobs[0].delete(DeleteParams::default()).await;
    jobs[0].gone(DEADLINE).await;
    clients.reader.until(&fids[0], &clients.token, "its deletion", |found| found["deletionTime"].is_string()).await;
    let gone = clients.json(&changes).await;
    let gone = gone["update"].as_array().and_then(|all| all.iter().find(|item| item["fid"] == json!(fids[0])));
    assert_eq!(gone.expect("the one whose job is gone")["status"], "error");
    let later = clients.json(&format!("/timeline/changes?since={}", since + 1e6)).await;
    assert_eq!(of(&later, "update"), newest_first.iter().filter(|fid| **fid != fids[0]).cloned().collect::<Vec<_>>());
    let delete = clients.reader.send("DELETE", &format!("/api/v1/executions/{}", fids[0]), Some(&clients.token)).await;
    assert_eq!(delete.0, 204);
    let after = clients.json(&changes).await;
    assert_eq!((after["delete"].clone(), of(&after, "update").len()), (json!([fids[0]]), 2));
}
