//! The whole gateway over TLS, as a runner sees it, against [`super::fake`].

mod fuzz;

use std::{
    collections::HashMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use reqwest::{Client as Http, Response, StatusCode};
use serde_json::{Value, json};

use super::{fake::Fake, *};
use crate::{
    gateway::fixtures,
    protocol::key::PublicKey,
    protocol::runner::{
        ControlMessage, ErrorResponse, Job, RunPath,
        verb::{CONFIRM, END, HEARTBEAT, MESSAGES, REGISTER},
    },
};

const TIME: &str = "2024-11-22T10:00:00Z";

struct World {
    fake: Fake,
    ca: String,
    addr: SocketAddr,
    /// One for each token, with a key of its own.
    clients: Mutex<HashMap<String, Http>>,
    metrics: Metrics,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<Result<(), GatewayError>>,
}

impl World {
    async fn start() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let fake = Fake::start().await;
        let addr = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let parts = fixtures::parts(fake.client(), &addr.to_string());
        let (metrics, stop, ready) = (parts.metrics.clone(), CancellationToken::new(), parts.ready.clone());
        let running = tokio::spawn(run(parts, stop.clone()));
        within("ready", || ready.load(Ordering::Relaxed)).await;
        let ca = fake.get("configmaps/koco-gateway-ca")["data"]["ca.crt"].as_str().unwrap().to_owned();
        Self { fake, ca, addr, clients: Mutex::default(), metrics, stop, running }
    }

    /// One whose runner is ready and granted.
    async fn granted() -> Self {
        let world = Self::start().await;
        assert_eq!(world.status_of(REGISTER, waiting()).await, StatusCode::OK);
        world.fake.change(|run| run["spec"]["grant"] = json!({ "time": TIME, "binding": 0 }));
        world
    }

    /// A client with the key of this token's runner.
    fn client(&self, token: &str) -> Http {
        let mut clients = self.clients.lock();
        clients.entry(token.into()).or_insert_with(|| http(&self.ca, self.addr, Some(key().0))).clone()
    }

    async fn ask(&self, client: Http, run: &str, token: &str, verb: &str, body: Value) -> Response {
        let path = RunPath { namespace: "a".into(), name: run.into() }.path(verb);
        let url = format!("https://koco-gateway:{}{path}", self.addr.port());
        let request = if verb == MESSAGES { client.get(url) } else { client.post(url).json(&body) };
        request.bearer_auth(token).send().await.unwrap()
    }

    async fn post(&self, token: &str, verb: &str, body: Value) -> Response {
        self.ask(self.client(token), fixtures::run().name(), token, verb, body).await
    }

    async fn reason(&self, token: &str, path: &str, body: Value) -> (u16, String) {
        answer(self.post(token, path, body).await).await
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

/// A client's certificate and its key.
fn key() -> (reqwest::Identity, PublicKey) {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let certificate = rcgen::CertificateParams::default().self_signed(&pair).unwrap();
    let identity = reqwest::Identity::from_pem((certificate.pem() + &pair.serialize_pem()).as_bytes());
    (identity.unwrap(), PublicKey::from_spki(&rcgen::PublicKeyData::subject_public_key_info(&pair)).unwrap())
}

fn http(ca: &str, addr: SocketAddr, key: Option<reqwest::Identity>) -> Http {
    let ca = reqwest::Certificate::from_pem(ca.as_bytes()).unwrap();
    let builder = Http::builder().tls_certs_only([ca]).no_proxy().resolve("koco-gateway", addr);
    let builder = key.into_iter().fold(builder, reqwest::ClientBuilder::identity);
    builder.timeout(Duration::from_secs(30)).build().unwrap()
}

async fn answer(response: Response) -> (u16, String) {
    let status = response.status().as_u16();
    (status, response.json::<ErrorResponse>().await.map(|p| p.reason).unwrap_or_default())
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
    json!({ "state": state, "generation": generation })
}

fn waiting() -> Value {
    state("Waiting", 0)
}

fn pause(run: &mut Value, generation: i64) {
    run["spec"]["command"] = json!({ "state": "Paused", "generation": generation, "time": TIME });
}

fn ended(kind: &str) -> Value {
    json!({ "generation": 0, "end": { "kind": kind, "started": true, "exitCode": 0, "result": { "n": 1 } } })
}

#[tokio::test]
async fn a_run_from_its_registration_to_its_end() {
    let world = World::start().await;
    let told: Job = world.post("good.to.ken", REGISTER, waiting()).await.json().await.unwrap();
    assert_eq!(told.inputs.get(), r#"{"topic":"octopuses"}"#);
    let status = world.fake.status();
    assert_eq!((&status["podUID"], &status["gateway"]), (&json!("p"), &json!("g")));
    assert!(status["readyTime"].is_string());
    assert_eq!((&status["acknowledged"]["state"], &status["acknowledged"]["binding"]), (&json!("Waiting"), &json!(-1)));

    let mut stream = world.post("good.to.ken", MESSAGES, json!({})).await;
    assert_eq!(stream.status(), StatusCode::OK);
    world.fake.change(|run| run["spec"]["grant"] = json!({ "time": TIME, "binding": 0 }));
    assert_eq!(order(&mut stream).await, Some(ControlMessage::Grant { attempt: 1 }));
    assert_eq!(world.status_of(CONFIRM, state("Running", 0)).await, StatusCode::NO_CONTENT);
    assert_eq!(world.status_of(HEARTBEAT, state("Running", 0)).await, StatusCode::NO_CONTENT);
    assert_eq!(world.fake.writes(), 1, "the registration's; neither a start nor a heartbeat without news is written");

    world.fake.change(|run| pause(run, 1));
    assert!(matches!(order(&mut stream).await, Some(ControlMessage::Command { generation: 1, .. })));
    assert_eq!(world.status_of(CONFIRM, state("Frozen", 1)).await, StatusCode::NO_CONTENT);
    let acknowledged = world.fake.status()["acknowledged"].clone();
    assert_eq!((&acknowledged["state"], &acknowledged["binding"]), (&json!("Frozen"), &json!(0)));

    assert_eq!(world.status_of(END, ended("Succeeded")).await, StatusCode::NO_CONTENT);
    let termination = world.fake.status()["termination"].clone();
    assert_eq!((&termination["result"]["n"], &termination["source"]), (&json!(1), &json!("Runner")));
    assert_eq!(world.fake.writes(), 3);
    assert_eq!(world.status_of(END, ended("Succeeded")).await, StatusCode::NO_CONTENT);
    assert_eq!(world.good(END, ended("Failed")).await, (409, "OtherOutcome".into()));
    assert_eq!(world.fake.writes(), 3);
    assert!(matches!(order(&mut stream).await, Some(ControlMessage::Stop { .. })));
    assert_eq!(order(&mut stream).await, None);
    assert_eq!(world.good(HEARTBEAT, waiting()).await, (410, "RunClosed".into()));
    world.end().await;
}

#[tokio::test]
async fn others_are_refused() {
    let world = World::start().await;
    let refused = async |token: &'static str, body: Value| world.reason(token, REGISTER, body).await;
    let (run, without_key) = (fixtures::run(), http(&world.ca, world.addr, None));
    let response = world.ask(without_key, run.name(), "good.to.ken", REGISTER, waiting()).await;
    assert_eq!(answer(response).await, (401, "NoKey".into()));
    assert_eq!(refused("nonsense", waiting()).await, (401, "NoToken".into()));
    assert_eq!(refused("bad.to.ken", waiting()).await, (401, "BadToken".into()));
    assert_eq!(refused("other.to.ken", waiting()).await, (403, "NotTheRunner".into()));
    assert_eq!(refused("foreign.to.ken", waiting()).await, (403, "ForeignNamespace".into()));
    let to =
        async |run: &str| answer(world.ask(world.client("x"), run, "good.to.ken", REGISTER, waiting()).await).await;
    assert_eq!(to("x-0000000-3").await, (410, "Gone".into()), "a run comes before its pod");
    assert_eq!(to("..").await.0, 404);
    assert_eq!(to("X").await, (400, "Malformed".into()));
    for verb in [HEARTBEAT, CONFIRM, END, MESSAGES] {
        assert_eq!(world.good(verb, waiting()).await, (401, "NotRegistered".into()), "{verb}");
    }
    assert_eq!(refused("good.to.ken", json!({})).await, (400, "Malformed".into()));
    let large = json!({ "state": "Waiting", "generation": 0, "pad": "x".repeat(70_000) });
    assert_eq!(refused("bad.to.ken", large.clone()).await, (401, "BadToken".into()), "before the body is read");
    assert_eq!(refused("good.to.ken", large).await, (413, "TooLarge".into()));
    assert_eq!(world.good("hello", json!({})).await, (404, "NoSuchPath".into()));
    assert_eq!(world.fake.writes(), 0, "and nothing was written");
    let metrics = world.metrics.encode(crate::platform::metrics::Format::OpenMetrics).unwrap();
    assert!(metrics.contains(r#"koco_gateway_refused_total{reason="NotTheRunner"} 1"#), "{metrics}");
    world.end().await;
}

#[tokio::test]
async fn a_run_registers_one_key() {
    let world = World::start().await;
    assert_eq!(world.status_of(REGISTER, waiting()).await, StatusCode::OK);
    let recorded = world.fake.status();
    assert!(recorded["publicKey"].as_str().unwrap().starts_with("ed25519:"));
    let reviews = world.fake.reviews();
    assert_eq!(world.reason("nonsense.to.ken", HEARTBEAT, waiting()).await, (403, "NotTheRunner".into()));
    // The pod's own token, with another key: as an agent would have it that got hold of one.
    let thief = http(&world.ca, world.addr, Some(key().0));
    for verb in [REGISTER, HEARTBEAT, CONFIRM, END, MESSAGES] {
        let response = world.ask(thief.clone(), fixtures::run().name(), "good.to.ken", verb, waiting()).await;
        assert_eq!(answer(response).await, (403, "NotTheRunner".into()), "{verb}");
    }
    assert_eq!(world.fake.status(), recorded);
    // Its own key needs no token any more: the answer may have been lost.
    let again = world.ask(world.client("good.to.ken"), fixtures::run().name(), "", REGISTER, waiting()).await;
    assert_eq!(again.status(), StatusCode::OK);
    assert_eq!(world.fake.reviews(), reviews, "one review for a pod");
    world.end().await;
}

/// Each with a connection and a key of its own.
#[tokio::test]
async fn however_many_strangers_come_the_api_server_is_asked_about_few_tokens() {
    let world = World::start().await;
    let (mut refused, started) = (0, Instant::now());
    for n in 0..600 {
        let stranger = http(&world.ca, world.addr, Some(key().0));
        let token = format!("{n}.to.ken");
        let response = world.ask(stranger, fixtures::run().name(), &token, REGISTER, waiting()).await;
        match answer(response).await {
            (401, _) => {}
            answer => assert_eq!((answer, refused += 1), ((429, "TooOften".into()), ())),
        }
    }
    let (reviews, limit) = (world.fake.reviews(), 128 + 1 + (32.0 * started.elapsed().as_secs_f64()) as usize);
    assert!(reviews <= limit && reviews + refused == 600, "{reviews} of {limit}, and {refused} refused");
    world.end().await;
}

#[tokio::test]
async fn a_run_that_is_not_wanted_any_more_is_refused_when_it_registers() {
    let world = World::start().await;
    world.fake.change_job(|job| job["spec"]["desiredState"] = json!("Cancelled"));
    assert_eq!(world.good(REGISTER, waiting()).await, (410, "JobCancelled".into()));
    world.fake.change_job(|job| job["spec"]["desiredState"] = json!("Running"));
    world.fake.change_job(|job| job["status"]["activeRun"] = json!(3));
    assert_eq!(world.good(REGISTER, waiting()).await, (410, "Superseded".into()));
    world.fake.change_job(|job| job["status"] = json!({}));
    assert_eq!(world.good(REGISTER, waiting()).await, (503, "NotAccepted".into()));
    world.fake.change_job(|job| job["metadata"]["uid"] = json!("another"));
    assert_eq!(world.good(REGISTER, waiting()).await, (410, "Gone".into()));
    assert_eq!(world.fake.writes(), 0);
    world.end().await;
}

#[tokio::test]
async fn a_pause_that_stands_comes_before_the_grant() {
    let world = World::granted().await;
    world.fake.change(|run| pause(run, 1));
    let mut stream = world.post("good.to.ken", MESSAGES, json!({})).await;
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
    assert_eq!(world.good(CONFIRM, state("Frozen", 7)).await, (409, "UnknownCommand".into()));
    world.fake.hold_watch(true);
    world.fake.change(|run| pause(run, 7));
    assert_eq!(world.status_of(CONFIRM, state("Frozen", 7)).await, StatusCode::NO_CONTENT, "the copy is old");
    assert_eq!(world.fake.status()["acknowledged"]["generation"], 7);
    world.end().await;
}

#[tokio::test]
async fn confirmations_are_written_only_so_often_and_the_newest_in_the_end() {
    let world = World::granted().await;
    world.fake.change(|run| pause(run, 100));
    let before = world.fake.writes();
    for generation in 1..=100 {
        assert_eq!(world.status_of(CONFIRM, state("Frozen", generation)).await, StatusCode::NO_CONTENT);
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
        refused += usize::from(world.good(REGISTER, waiting()).await == (429, "TooOften".into()));
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
        assert_eq!(world.status_of(HEARTBEAT, state("Running", 0)).await, StatusCode::NO_CONTENT);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    world.end().await;
}

#[tokio::test]
async fn progress_is_written_once_a_minute_and_with_the_end() {
    let world = World::granted().await;
    let told = |percent: i32| json!({ "percent": percent, "usage": { "inputTokens": percent } });
    let between = |percent| json!({ "state": "Running", "generation": 0, "between": true, "progress": told(percent) });
    assert_eq!(world.status_of(HEARTBEAT, between(1)).await, StatusCode::NO_CONTENT);
    within("progress", || world.fake.status()["progress"]["percent"] == 1).await;
    let writes = world.fake.writes();
    for percent in 2..5 {
        assert_eq!(world.status_of(HEARTBEAT, between(percent)).await, StatusCode::NO_CONTENT);
    }
    let mut end = ended("Failed");
    end["progress"] = told(7);
    assert_eq!(world.status_of(END, end).await, StatusCode::NO_CONTENT);
    let progress = world.fake.status()["progress"].clone();
    assert_eq!((&progress["percent"], &progress["usage"]["inputTokens"]), (&json!(7), &json!(7)));
    assert_eq!(world.fake.writes(), writes + 1, "the end's");
    world.end().await;
}

#[tokio::test]
async fn a_run_that_another_gateway_registered_is_found_although_the_watch_is_late() {
    let world = World::start().await;
    world.fake.hold_watch(true);
    let (identity, key) = key();
    world.clients.lock().insert("good.to.ken".into(), http(&world.ca, world.addr, Some(identity)));
    world.fake.change(|run| {
        run["status"] = json!({ "podUID": "p", "readyTime": TIME, "publicKey": key.to_string() });
    });
    assert_eq!(world.good(HEARTBEAT, waiting()).await.0, 204);
    world.end().await;
}

#[tokio::test]
async fn the_stream_of_another_gateways_runner_makes_it_ours() {
    let world = World::granted().await;
    let mut stream = world.post("good.to.ken", MESSAGES, json!({})).await;
    assert_eq!(order(&mut stream).await, Some(ControlMessage::Grant { attempt: 1 }));
    world.fake.change(|run| {
        run["status"]["gateway"] = json!("h");
        pause(run, 1);
    });
    assert!(matches!(order(&mut stream).await, Some(ControlMessage::Command { .. })), "our copy has it");
    let stream = world.post("good.to.ken", MESSAGES, json!({})).await;
    assert_eq!(stream.status(), StatusCode::OK);
    within("it is named", || world.fake.status()["gateway"] == "g").await;
    let writes = world.fake.writes();
    drop(world.post("good.to.ken", MESSAGES, json!({})).await);
    assert_eq!(world.fake.writes(), writes, "once");
    world.end().await;
}

#[tokio::test]
async fn a_gateway_that_ends_lets_its_runners_go() {
    let world = World::start().await;
    assert_eq!(world.status_of(REGISTER, waiting()).await, StatusCode::OK);
    let mut older = world.post("good.to.ken", MESSAGES, json!({})).await;
    let mut newer = world.post("good.to.ken", MESSAGES, json!({})).await;
    assert_eq!(order(&mut older).await, None, "one stream for each runner");
    world.stop.cancel();
    assert_eq!(order(&mut newer).await, None, "and no order to stop");
    world.end().await;
}

#[tokio::test]
async fn a_run_that_somebody_closes_stops_its_runner() {
    let world = World::granted().await;
    let mut stream = world.post("good.to.ken", MESSAGES, json!({})).await;
    assert_eq!(order(&mut stream).await, Some(ControlMessage::Grant { attempt: 1 }));
    world.fake.change(|run| {
        run["status"]["termination"] = json!({ "type": "Cancelled", "source": "Koco", "time": TIME, "started": true });
    });
    assert!(matches!(order(&mut stream).await, Some(ControlMessage::Stop { .. })));
    assert_eq!(world.good(END, ended("Succeeded")).await, (409, "OtherOutcome".into()));
    assert_eq!(world.good(REGISTER, waiting()).await, (410, "RunClosed".into()));
    world.end().await;
}

#[tokio::test]
async fn an_outage_of_the_api_server_is_no_refusal() {
    let world = World::start().await;
    world.fake.fail(true);
    assert_eq!(world.good(REGISTER, waiting()).await, (503, "ApiServer".into()));
    world.fake.fail(false);
    assert_eq!(world.status_of(REGISTER, waiting()).await, StatusCode::OK);
    world.fake.fail(true);
    assert_eq!(world.status_of(HEARTBEAT, waiting()).await, StatusCode::NO_CONTENT, "nothing is asked at rest");
    world.fake.fail(false);
    world.end().await;
}

#[tokio::test]
async fn silence_is_noted_once_and_ends_with_a_heartbeat() {
    let world = World::start().await;
    world.fake.change(|run| {
        run["spec"]["identity"]["heartbeat"] = json!("1s");
        run["spec"]["grant"] = json!({ "time": TIME, "binding": 0 });
    });
    assert_eq!(world.status_of(REGISTER, state("Running", 0)).await, StatusCode::OK);
    within("silence is noted", || world.fake.status()["unresponsiveSince"].is_string()).await;
    let writes = world.fake.writes();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(world.fake.writes(), writes);
    assert_eq!(world.status_of(HEARTBEAT, state("Running", 0)).await, StatusCode::NO_CONTENT);
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
        let names = ServerNames {
            namespace: "koco-system".into(),
            server: names::GATEWAY_TLS_NAME,
            secret: "s".into(),
            config_map: names::GATEWAY_CA,
            asks_for_keys: true,
        };
        let manager = || CertificateManager::new(fake.client(), names.clone());
        let mut managers: Vec<_> = (0..3).map(|_| manager()).collect();
        let firsts = managers.iter_mut().map(|m| m.first(&stop));
        assert!(futures::future::join_all(firsts).await.iter().all(Option::is_some));
        let authority = fake.get("secrets/s")["data"]["ca.crt"].clone();
        let published = fake.get("configmaps/koco-gateway-ca")["data"]["ca.crt"].clone();
        use base64::{Engine, engine::general_purpose::STANDARD};
        assert_eq!(authority, STANDARD.encode(published.as_str().unwrap()));
    }
}
