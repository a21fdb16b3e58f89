//! The whole gateway over TLS, as a runner sees it, against [`super::fake`].

use std::{net::SocketAddr, sync::atomic::AtomicBool, time::Instant};

use clap::Parser;
use reqwest::{Client as Http, Response, StatusCode};
use serde_json::{Value, json};

use super::{fake::Fake, *};
use crate::protocol::runner::{
    Job, Order, PATH_CONFIRM, PATH_HEARTBEAT, PATH_HELLO, PATH_ORDERS, PATH_OUTCOME, Problem,
};

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
        let (client, m, r, s) = (fake.client(), metrics.clone(), ready.clone(), stop.clone());
        let running =
            tokio::spawn(async move { run(client, &line.common, &line.gateway, Temporal::new(None), m, r, s).await });
        within("ready", || ready.load(Ordering::Relaxed)).await;
        let ca = fake.get("configmaps/koco-gateway-ca")["data"]["ca.crt"].as_str().unwrap().to_owned();
        let http = http(&ca, addr);
        Self { fake, http, url: format!("https://koco-gateway:{}", addr.port()), metrics, stop, running }
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
        (status, response.json::<Problem>().await.map(|p| p.reason).unwrap_or_default())
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

async fn order(stream: &mut Response) -> Option<Order> {
    let chunk = tokio::time::timeout(Duration::from_secs(5), stream.chunk()).await.expect("an order").unwrap()?;
    Some(serde_json::from_slice(chunk.trim_ascii_end()).unwrap())
}

fn waiting() -> Value {
    json!({ "state": "Waiting", "seq": 0 })
}

#[tokio::test]
async fn a_job_from_hello_to_outcome() {
    let world = World::start().await;
    let told: Job = world.post("good.to.ken", PATH_HELLO, waiting()).await.json().await.unwrap();
    assert_eq!(told.inputs["topic"], "octopuses");
    assert_eq!(world.fake.status()["runner"]["gateway"], "g");
    assert_eq!(world.fake.status()["control"]["confirmed"]["state"], "Waiting");

    let mut stream = world.post("good.to.ken", PATH_ORDERS, json!({})).await;
    assert_eq!(stream.status(), StatusCode::OK);
    world.fake.change(|s| s["claim"]["permit"] = json!({ "time": "2024-11-22T10:00:00Z", "offer": 0 }));
    assert_eq!(order(&mut stream).await, Some(Order::Permit { attempt: 1 }));
    world.fake.change(|s| {
        s["control"]["command"] = json!({ "state": "Paused", "seq": 1, "time": "2024-11-22T10:00:00Z" });
    });
    assert!(matches!(order(&mut stream).await, Some(Order::Command { seq: 1, .. })));

    let running = json!({ "state": "Running", "seq": 0 });
    assert_eq!(world.status_of(PATH_HEARTBEAT, running.clone()).await, StatusCode::NO_CONTENT);
    within("the offer is answered", || world.fake.status()["runner"]["answered"] == 0).await;
    assert!(world.fake.status()["runner"]["startedTime"].is_string());
    let writes = world.fake.writes();
    assert_eq!(world.status_of(PATH_HEARTBEAT, running).await, StatusCode::NO_CONTENT);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(world.fake.writes(), writes, "a heartbeat without news writes nothing");

    let frozen = json!({ "state": "Frozen", "seq": 1 });
    assert_eq!(world.status_of(PATH_CONFIRM, frozen).await, StatusCode::NO_CONTENT);
    assert_eq!(world.fake.status()["control"]["confirmed"]["state"], "Frozen");

    let ending = json!({ "kind": "Succeeded", "started": true, "exitCode": 0, "result": { "n": 1 } });
    assert_eq!(world.status_of(PATH_OUTCOME, ending.clone()).await, StatusCode::NO_CONTENT);
    assert_eq!(world.fake.status()["outcome"]["result"]["n"], 1);
    assert_eq!(world.status_of(PATH_OUTCOME, ending).await, StatusCode::NO_CONTENT);
    let other = json!({ "kind": "Failed", "started": true });
    assert_eq!(world.reason("good.to.ken", PATH_OUTCOME, other).await, (409, "OtherOutcome".into()));

    world.fake.change(|s| s["phase"] = json!("Succeeded"));
    assert!(matches!(order(&mut stream).await, Some(Order::Stop { .. })));
    assert_eq!(order(&mut stream).await, None);
    assert_eq!(world.reason("good.to.ken", PATH_HEARTBEAT, waiting()).await, (410, "JobOver".into()));
    world.end().await;
}

#[tokio::test]
async fn nobody_else_is_answered() {
    let world = World::start().await;
    let refused = async |token: &'static str, body: Value| world.reason(token, PATH_HELLO, body).await;
    assert_eq!(refused("nonsense", waiting()).await, (401, "NoToken".into()));
    assert_eq!(refused("bad.to.ken", waiting()).await, (401, "BadToken".into()));
    assert_eq!(refused("other.to.ken", waiting()).await, (403, "NotTheRunner".into()));
    assert_eq!(refused("foreign.to.ken", waiting()).await, (403, "ForeignNamespace".into()));
    let epoch = |n: i32| json!({ "epoch": n, "state": "Waiting", "seq": 0 });
    assert_eq!(refused("good.to.ken", epoch(1)).await, (410, "Superseded".into()));
    assert_eq!(refused("good.to.ken", epoch(3)).await, (409, "NotClaimed".into()));
    let gone = json!({ "uid": "older", "state": "Waiting", "seq": 0 });
    assert_eq!(refused("good.to.ken", gone).await, (410, "JobGone".into()));
    assert_eq!(refused("good.to.ken", json!({})).await, (400, "Malformed".into()));
    let large = json!({ "state": "Waiting", "seq": 0, "pad": "x".repeat(70_000) });
    assert_eq!(refused("good.to.ken", large.clone()).await, (413, "TooLarge".into()));
    assert_eq!(world.reason("bad.to.ken", PATH_OUTCOME, large).await, (401, "BadToken".into()));
    let huge = json!({ "kind": "Succeeded", "started": true, "result": "x".repeat(2 << 20) });
    assert_eq!(world.reason("good.to.ken", PATH_OUTCOME, huge).await, (413, "TooLarge".into()));
    assert_eq!(world.reason("good.to.ken", "/v2/hello", json!({})).await, (404, "NoSuchPath".into()));
    assert_eq!(world.fake.writes(), 0, "and nothing was written");
    let metrics = world.metrics.encode().unwrap();
    assert!(metrics.contains(r#"koco_gateway_refused_total{reason="NotTheRunner"} 1"#), "{metrics}");
    world.end().await;
}

#[tokio::test]
async fn a_claim_that_learns_of_its_pod_is_found_although_the_watch_is_late() {
    let world = World::start().await;
    world.fake.hold_watch(true);
    world.fake.change(|s| s["claim"] = json!({ "epoch": 3, "attempt": 2, "podName": "x-3", "podUID": "q" }));
    let third = json!({ "epoch": 3, "state": "Waiting", "seq": 0 });
    assert_eq!(world.post("other.to.ken", PATH_HEARTBEAT, third).await.status(), StatusCode::NO_CONTENT);
    assert_eq!(world.reason("good.to.ken", PATH_HELLO, waiting()).await, (410, "Superseded".into()));
    world.end().await;
}

#[tokio::test]
async fn a_gateway_that_ends_lets_its_runners_go() {
    let world = World::start().await;
    let mut older = world.post("good.to.ken", PATH_ORDERS, json!({})).await;
    let mut newer = world.post("good.to.ken", PATH_ORDERS, json!({})).await;
    assert_eq!(order(&mut older).await, None, "one stream for each runner");
    world.stop.cancel();
    assert_eq!(order(&mut newer).await, None, "and no order to stop");
    world.end().await;
}

#[tokio::test]
async fn an_outage_of_the_api_server_is_no_refusal() {
    let world = World::start().await;
    world.fake.fail(true);
    let answer = world.reason("good.to.ken", PATH_HEARTBEAT, waiting()).await;
    assert_eq!(answer, (503, "ApiServer".into()));
    world.fake.fail(false);
    assert_eq!(world.status_of(PATH_HEARTBEAT, waiting()).await, StatusCode::NO_CONTENT);
    world.end().await;
}

#[tokio::test]
async fn silence_is_noted_once_and_ends_with_a_heartbeat() {
    let world = World::start().await;
    world.fake.change(|s| {
        s["resolved"]["timeouts"]["heartbeat"] = json!("1s");
        s["claim"]["permit"] = json!({ "time": "2024-11-22T10:00:00Z", "offer": 0 });
    });
    let running = json!({ "state": "Running", "seq": 0 });
    assert_eq!(world.status_of(PATH_HELLO, running.clone()).await, StatusCode::OK);
    within("silence is noted", || world.fake.status()["runner"]["silentSince"].is_string()).await;
    let writes = world.fake.writes();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(world.fake.writes(), writes);
    assert_eq!(world.status_of(PATH_HEARTBEAT, running).await, StatusCode::NO_CONTENT);
    within("it is over", || world.fake.status()["runner"]["silentSince"].is_null()).await;
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
        let mut keepers: Vec<_> = (0..3).map(|_| tls::Keeper::new(fake.client(), "koco-system", "s")).collect();
        let firsts = keepers.iter_mut().map(|k| k.first(&stop));
        assert!(futures::future::join_all(firsts).await.iter().all(Option::is_some));
        let authority = fake.get("secrets/s")["data"]["ca.crt"].clone();
        let published = fake.get("configmaps/koco-gateway-ca")["data"]["ca.crt"].clone();
        use base64::{Engine, engine::general_purpose::STANDARD};
        assert_eq!(authority, STANDARD.encode(published.as_str().unwrap()));
    }
}
