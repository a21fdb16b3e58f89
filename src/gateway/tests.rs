//! The whole gateway over TLS, as a runner sees it, against [`super::fake`].

use std::{net::SocketAddr, sync::atomic::AtomicBool, time::Instant};

use clap::Parser;
use reqwest::{Client as Http, Response, StatusCode};
use serde_json::{Value, json};

use super::{fake::Fake, *};
use crate::protocol::runner::{
    ControlMessage, ErrorResponse, Job, PATH_CONFIRM, PATH_END, PATH_HEARTBEAT, PATH_MESSAGES, PATH_REGISTER,
};

const TIME: &str = "2024-11-22T10:00:00Z";

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    gateway: Settings,
}

struct World {
    fake: Fake,
    http: Http,
    url: String,
    metrics: Metrics,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<Result<(), GatewayError>>,
}

impl World {
    async fn start() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let fake = Fake::start().await;
        let addr = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let addr_text = addr.to_string();
        let line = Line::parse_from(["koco", "--identity", "g", "--gateway-addr", &addr_text]);
        let (metrics, stop, ready) = (Metrics::default(), CancellationToken::new(), Arc::new(AtomicBool::new(false)));
        let parts = Parts {
            client: fake.client(),
            common: line.common,
            settings: line.gateway,
            temporal: Temporal::new(None),
            metrics: metrics.clone(),
            ready: ready.clone(),
        };
        let running = tokio::spawn(run(parts, stop.clone()));
        within("ready", || ready.load(Ordering::Relaxed)).await;
        let ca = fake.get("configmaps/koco-gateway-ca")["data"]["ca.crt"].as_str().unwrap().to_owned();
        let http = http(&ca, addr);
        Self { fake, http, url: format!("https://koco-gateway:{}", addr.port()), metrics, stop, running }
    }

    /// One whose runner is ready and granted.
    async fn granted() -> Self {
        let world = Self::start().await;
        assert_eq!(world.status_of(PATH_REGISTER, waiting()).await, StatusCode::OK);
        world.fake.change(|run| run["spec"]["grant"] = json!({ "time": TIME, "binding": 0 }));
        world
    }

    async fn post(&self, token: &str, path: &str, body: Value) -> Response {
        let mut whole = json!({ "namespace": "a", "name": "x", "uid": "u", "epoch": 2 });
        whole.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
        let request = self.http.post(format!("{}{path}", self.url)).bearer_auth(token).json(&whole);
        request.send().await.unwrap()
    }

    async fn reason(&self, token: &str, path: &str, body: Value) -> (u16, String) {
        let response = self.post(token, path, body).await;
        let status = response.status().as_u16();
        (status, response.json::<ErrorResponse>().await.map(|p| p.reason).unwrap_or_default())
    }

    async fn good(&self, path: &str, body: Value) -> (u16, String) {
        self.reason("good.to.ken", path, body).await
    }

    async fn status_of(&self, path: &str, body: Value) -> StatusCode {
        self.post("good.to.ken", path, body).await.status()
    }

    async fn end(self) {
        self.stop.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(12), self.running).await;
        ended.expect("ends in time").unwrap().unwrap();
    }
}

fn http(ca: &str, addr: SocketAddr) -> Http {
    let ca = reqwest::Certificate::from_pem(ca.as_bytes()).unwrap();
    let builder = Http::builder().tls_certs_only([ca]).no_proxy().resolve("koco-gateway", addr);
    builder.timeout(Duration::from_secs(30)).build().unwrap()
}

async fn within(what: &str, done: impl Fn() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < Duration::from_secs(10), "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn order(stream: &mut Response) -> Option<ControlMessage> {
    let chunk = tokio::time::timeout(Duration::from_secs(5), stream.chunk()).await.expect("an order").unwrap()?;
    Some(serde_json::from_slice(chunk.trim_ascii_end()).unwrap())
}

fn state(state: &str, generation: i64) -> Value {
    json!({ "state": state, "seq": generation })
}

fn waiting() -> Value {
    state("Waiting", 0)
}

fn pause(run: &mut Value, generation: i64) {
    run["spec"]["command"] = json!({ "state": "Paused", "generation": generation, "time": TIME });
}

fn ended(kind: &str) -> Value {
    json!({ "kind": kind, "started": true, "exitCode": 0, "result": { "n": 1 } })
}

#[tokio::test]
async fn a_run_from_hello_to_outcome() {
    let world = World::start().await;
    let told: Job = world.post("good.to.ken", PATH_REGISTER, waiting()).await.json().await.unwrap();
    assert_eq!(told.inputs.get(), r#"{"topic":"octopuses"}"#);
    let status = world.fake.status();
    assert_eq!((&status["podUID"], &status["gateway"]), (&json!("p"), &json!("g")));
    assert!(status["readyTime"].is_string());
    assert_eq!((&status["acknowledged"]["state"], &status["acknowledged"]["binding"]), (&json!("Waiting"), &json!(-1)));

    let mut stream = world.post("good.to.ken", PATH_MESSAGES, json!({})).await;
    assert_eq!(stream.status(), StatusCode::OK);
    world.fake.change(|run| run["spec"]["grant"] = json!({ "time": TIME, "binding": 0 }));
    assert_eq!(order(&mut stream).await, Some(ControlMessage::Grant { attempt: 1 }));
    assert_eq!(world.status_of(PATH_CONFIRM, state("Running", 0)).await, StatusCode::NO_CONTENT);
    assert_eq!(world.status_of(PATH_HEARTBEAT, state("Running", 0)).await, StatusCode::NO_CONTENT);
    assert_eq!(world.fake.writes(), 1, "the hello's; neither a start nor a heartbeat without news is written");

    world.fake.change(|run| pause(run, 1));
    assert!(matches!(order(&mut stream).await, Some(ControlMessage::Command { generation: 1, .. })));
    assert_eq!(world.status_of(PATH_CONFIRM, state("Frozen", 1)).await, StatusCode::NO_CONTENT);
    let acknowledged = world.fake.status()["acknowledged"].clone();
    assert_eq!((&acknowledged["state"], &acknowledged["binding"]), (&json!("Frozen"), &json!(0)));

    assert_eq!(world.status_of(PATH_END, ended("Succeeded")).await, StatusCode::NO_CONTENT);
    let termination = world.fake.status()["termination"].clone();
    assert_eq!((&termination["result"]["n"], &termination["source"]), (&json!(1), &json!("Runner")));
    assert_eq!(world.fake.writes(), 3);
    assert_eq!(world.status_of(PATH_END, ended("Succeeded")).await, StatusCode::NO_CONTENT);
    assert_eq!(world.good(PATH_END, ended("Failed")).await, (409, "OtherOutcome".into()));
    assert_eq!(world.fake.writes(), 3);
    assert!(matches!(order(&mut stream).await, Some(ControlMessage::Stop { .. })));
    assert_eq!(order(&mut stream).await, None);
    assert_eq!(world.good(PATH_HEARTBEAT, waiting()).await, (410, "RunClosed".into()));
    world.end().await;
}

#[tokio::test]
async fn others_are_refused() {
    let world = World::start().await;
    let refused = async |token: &'static str, body: Value| world.reason(token, PATH_REGISTER, body).await;
    assert_eq!(refused("nonsense", waiting()).await, (401, "NoToken".into()));
    assert_eq!(refused("bad.to.ken", waiting()).await, (401, "BadToken".into()));
    assert_eq!(refused("other.to.ken", waiting()).await, (403, "NotTheRunner".into()));
    assert_eq!(refused("foreign.to.ken", waiting()).await, (403, "ForeignNamespace".into()));
    let number = |n: i32| json!({ "epoch": n, "state": "Waiting", "seq": 0 });
    assert_eq!(refused("good.to.ken", number(3)).await, (410, "Gone".into()), "a run comes before its pod");
    let gone = json!({ "uid": "older", "state": "Waiting", "seq": 0 });
    assert_eq!(refused("good.to.ken", gone).await, (410, "Gone".into()));
    assert_eq!(refused("good.to.ken", json!({})).await, (400, "Malformed".into()));
    let large = json!({ "state": "Waiting", "seq": 0, "pad": "x".repeat(70_000) });
    assert_eq!(refused("good.to.ken", large.clone()).await, (413, "TooLarge".into()));
    assert_eq!(world.reason("bad.to.ken", PATH_END, large).await, (401, "BadToken".into()));
    let huge = json!({ "kind": "Succeeded", "started": true, "result": "x".repeat(2 << 20) });
    assert_eq!(world.good(PATH_END, huge).await, (413, "TooLarge".into()));
    assert_eq!(world.good("/v2/hello", json!({})).await, (404, "NoSuchPath".into()));
    assert_eq!(world.fake.writes(), 0, "and nothing was written");
    let metrics = world.metrics.encode().unwrap();
    assert!(metrics.contains(r#"koco_gateway_refused_total{reason="NotTheRunner"} 1"#), "{metrics}");
    world.end().await;
}

#[tokio::test]
async fn a_run_that_is_not_wanted_any_more_is_refused_at_hello() {
    let world = World::start().await;
    world.fake.change_job(|job| job["spec"]["desiredState"] = json!("Cancelled"));
    assert_eq!(world.good(PATH_REGISTER, waiting()).await, (410, "JobCancelled".into()));
    world.fake.change_job(|job| job["spec"]["desiredState"] = json!("Running"));
    world.fake.change_job(|job| job["status"]["activeRun"] = json!(3));
    assert_eq!(world.good(PATH_REGISTER, waiting()).await, (410, "Superseded".into()));
    world.fake.change_job(|job| job["status"] = json!({}));
    assert_eq!(world.good(PATH_REGISTER, waiting()).await, (503, "NotAccepted".into()));
    world.fake.change_job(|job| job["metadata"]["uid"] = json!("another"));
    assert_eq!(world.good(PATH_REGISTER, waiting()).await, (410, "Gone".into()));
    assert_eq!(world.fake.writes(), 0);
    world.end().await;
}

#[tokio::test]
async fn a_pause_that_stands_comes_before_the_grant() {
    let world = World::granted().await;
    world.fake.change(|run| pause(run, 1));
    let mut stream = world.post("good.to.ken", PATH_MESSAGES, json!({})).await;
    let mut text = String::new();
    while text.lines().count() < 2 {
        text.push_str(std::str::from_utf8(&stream.chunk().await.unwrap().unwrap()).unwrap());
    }
    let orders: Vec<ControlMessage> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(
        matches!(orders[..], [ControlMessage::Command { generation: 1, .. }, ControlMessage::Grant { .. }]),
        "{orders:?}"
    );
    world.end().await;
}

#[tokio::test]
async fn a_command_that_was_never_given_is_not_confirmed() {
    let world = World::granted().await;
    assert_eq!(world.good(PATH_CONFIRM, state("Frozen", 7)).await, (409, "UnknownCommand".into()));
    world.fake.hold_watch(true);
    world.fake.change(|run| pause(run, 7));
    assert_eq!(world.status_of(PATH_CONFIRM, state("Frozen", 7)).await, StatusCode::NO_CONTENT, "the copy is old");
    assert_eq!(world.fake.status()["acknowledged"]["generation"], 7);
    world.end().await;
}

#[tokio::test]
async fn confirmations_are_written_only_so_often_and_the_newest_in_the_end() {
    let world = World::granted().await;
    world.fake.change(|run| pause(run, 100));
    let before = world.fake.writes();
    for generation in 1..=100 {
        assert_eq!(world.status_of(PATH_CONFIRM, state("Frozen", generation)).await, StatusCode::NO_CONTENT);
    }
    within("the newest is written", || world.fake.status()["acknowledged"]["generation"] == 100).await;
    let writes = world.fake.writes() - before;
    assert!(writes < 20, "{writes}");
    world.end().await;
}

#[tokio::test]
async fn a_runner_that_reports_in_too_often_is_told_so() {
    let world = World::start().await;
    let mut refused = 0;
    for _ in 0..20 {
        refused += usize::from(world.good(PATH_REGISTER, waiting()).await == (429, "TooOften".into()));
    }
    assert!(refused > 0);
    assert_eq!(world.fake.writes(), 1);
    world.end().await;
}

#[tokio::test]
async fn a_new_binding_is_acknowledged_by_a_heartbeat() {
    let world = World::granted().await;
    world.fake.change(|run| run["spec"]["grant"]["binding"] = json!(1));
    let started = Instant::now();
    while world.fake.status()["acknowledged"]["binding"] != 1 {
        assert!(started.elapsed() < Duration::from_secs(10), "a heartbeat acknowledges it");
        assert_eq!(world.status_of(PATH_HEARTBEAT, state("Running", 0)).await, StatusCode::NO_CONTENT);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    world.end().await;
}

#[tokio::test]
async fn a_run_that_learns_of_its_pod_is_found_although_the_watch_is_late() {
    let world = World::start().await;
    world.fake.hold_watch(true);
    world.fake.change(|run| run["status"] = json!({ "podUID": "q", "readyTime": TIME }));
    assert_eq!(world.reason("other.to.ken", PATH_HEARTBEAT, waiting()).await.0, 204);
    world.end().await;
}

#[tokio::test]
async fn the_stream_of_another_gateways_runner_makes_it_ours() {
    let world = World::granted().await;
    let mut stream = world.post("good.to.ken", PATH_MESSAGES, json!({})).await;
    assert_eq!(order(&mut stream).await, Some(ControlMessage::Grant { attempt: 1 }));
    world.fake.change(|run| {
        run["status"]["gateway"] = json!("h");
        pause(run, 1);
    });
    assert!(matches!(order(&mut stream).await, Some(ControlMessage::Command { .. })), "our copy has it");
    let stream = world.post("good.to.ken", PATH_MESSAGES, json!({})).await;
    assert_eq!(stream.status(), StatusCode::OK);
    within("it is named", || world.fake.status()["gateway"] == "g").await;
    let writes = world.fake.writes();
    drop(world.post("good.to.ken", PATH_MESSAGES, json!({})).await);
    assert_eq!(world.fake.writes(), writes, "once");
    world.end().await;
}

#[tokio::test]
async fn a_gateway_that_ends_lets_its_runners_go() {
    let world = World::start().await;
    let mut older = world.post("good.to.ken", PATH_MESSAGES, json!({})).await;
    let mut newer = world.post("good.to.ken", PATH_MESSAGES, json!({})).await;
    assert_eq!(order(&mut older).await, None, "one stream for each runner");
    world.stop.cancel();
    assert_eq!(order(&mut newer).await, None, "and no order to stop");
    world.end().await;
}

#[tokio::test]
async fn a_run_that_somebody_closes_stops_its_runner() {
    let world = World::granted().await;
    let mut stream = world.post("good.to.ken", PATH_MESSAGES, json!({})).await;
    assert_eq!(order(&mut stream).await, Some(ControlMessage::Grant { attempt: 1 }));
    world.fake.change(|run| {
        run["status"]["termination"] = json!({ "type": "Cancelled", "source": "Koco", "time": TIME, "started": true });
    });
    assert!(matches!(order(&mut stream).await, Some(ControlMessage::Stop { .. })));
    assert_eq!(world.good(PATH_END, ended("Succeeded")).await, (409, "OtherOutcome".into()));
    assert_eq!(world.good(PATH_REGISTER, waiting()).await, (410, "RunClosed".into()));
    world.end().await;
}

#[tokio::test]
async fn an_outage_of_the_api_server_is_no_refusal() {
    let world = World::start().await;
    world.fake.fail(true);
    let answer = world.good(PATH_HEARTBEAT, waiting()).await;
    assert_eq!(answer, (503, "ApiServer".into()));
    world.fake.fail(false);
    assert_eq!(world.status_of(PATH_HEARTBEAT, waiting()).await, StatusCode::NO_CONTENT);
    world.end().await;
}

#[tokio::test]
async fn silence_is_noted_once_and_ends_with_a_heartbeat() {
    let world = World::start().await;
    world.fake.change(|run| {
        run["spec"]["identity"]["heartbeat"] = json!("1s");
        run["spec"]["grant"] = json!({ "time": TIME, "binding": 0 });
    });
    assert_eq!(world.status_of(PATH_REGISTER, state("Running", 0)).await, StatusCode::OK);
    within("silence is noted", || world.fake.status()["unresponsiveSince"].is_string()).await;
    let writes = world.fake.writes();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(world.fake.writes(), writes);
    assert_eq!(world.status_of(PATH_HEARTBEAT, state("Running", 0)).await, StatusCode::NO_CONTENT);
    within("it is over", || world.fake.status()["unresponsiveSince"].is_null()).await;
    world.end().await;
}

#[tokio::test]
async fn two_gateways_at_their_first_start_share_one_authority() {
    for existing in [true, false] {
        let fake = Fake::start().await;
        if existing {
            fake.put("secrets/s", json!({ "metadata": { "name": "s" } }));
            fake.put("configmaps/koco-gateway-ca", json!({ "metadata": { "name": "koco-gateway-ca" } }));
        }
        let stop = CancellationToken::new();
        let manager = || server::CertificateManager::new(fake.client(), "koco-system", "s");
        let mut managers: Vec<_> = (0..3).map(|_| manager()).collect();
        let firsts = managers.iter_mut().map(|m| m.first(&stop));
        assert!(futures::future::join_all(firsts).await.iter().all(Option::is_some));
        let authority = fake.get("secrets/s")["data"]["ca.crt"].clone();
        let published = fake.get("configmaps/koco-gateway-ca")["data"]["ca.crt"].clone();
        use base64::{Engine, engine::general_purpose::STANDARD};
        assert_eq!(authority, STANDARD.encode(published.as_str().unwrap()));
    }
}
