//! A fake gateway that sends what a test sets and records its requests. It can be stopped and started.

use std::{
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use axum::{
    Extension, Json, Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, Request, State},
    http::{HeaderMap, StatusCode},
    middleware::Next,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use axum_server::{tls::TlsInfo, tls_rustls::RustlsConfig};
use futures::StreamExt;
use koco::{
    platform::http::{any_key, client_key},
    protocol::{
        events::{Event, Kind, MAX_BODY_BYTES, Stored, decode},
        key::PublicKey,
        runner::{Confirm, ControlMessage, EndReport, Heartbeat, Job, Register, RunPath, verb},
    },
};
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::json;
use tokio::sync::mpsc;

impl Heard {
    /// The payloads of the stored events of a kind.
    pub fn payloads(&self, kind: Kind) -> Vec<&str> {
        self.events.iter().filter(|event| event.kind == kind).map(|event| event.payload.as_str()).collect()
    }
}

/// The recorded requests, and the responses to send.
pub struct Heard {
    pub job: Job,
    pub hellos: Vec<Register>,
    pub heartbeats: Vec<(Instant, Heartbeat)>,
    pub confirms: Vec<Confirm>,
    pub outcomes: Vec<EndReport>,
    pub tokens: Vec<String>,
    /// The keys of all requests, in their order.
    pub keys: Vec<PublicKey>,
    /// The first messages of every new stream.
    pub replay: Vec<ControlMessage>,
    pub answer_hello: StatusCode,
    pub answer_heartbeat: StatusCode,
    pub hang_heartbeats: bool,
    pub answer_confirm: StatusCode,
    pub answer_outcome: StatusCode,
    /// What is stored of the agent's events, in its order.
    pub events: Vec<Event>,
    /// How many were, when each end was reported.
    pub events_before_outcome: Vec<usize>,
    /// How many batches came.
    pub batches: usize,
    pub answer_events: StatusCode,
    pub hang_events: bool,
    /// Two of three batches get no answer, of which every second is stored.
    pub events_fail_at_random: bool,
    random: Pcg64Mcg,
    streams: Vec<mpsc::UnboundedSender<ControlMessage>>,
}

type Shared = Arc<Mutex<Heard>>;

pub struct Gateway {
    pub address: SocketAddr,
    pub ca: String,
    heard: Shared,
    tls: RustlsConfig,
    handle: axum_server::Handle<SocketAddr>,
}

impl Gateway {
    /// Serves, with a certificate for this name.
    pub fn start(job: Job, name: &str) -> Self {
        let ca_key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = rcgen::CertifiedIssuer::self_signed(params, ca_key).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let cert = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &ca).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(any_key())
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let heard = Heard {
            job,
            hellos: vec![],
            heartbeats: vec![],
            confirms: vec![],
            outcomes: vec![],
            tokens: vec![],
            keys: vec![],
            replay: vec![],
            answer_hello: StatusCode::OK,
            answer_heartbeat: StatusCode::NO_CONTENT,
            hang_heartbeats: false,
            answer_confirm: StatusCode::NO_CONTENT,
            answer_outcome: StatusCode::NO_CONTENT,
            events: vec![],
            events_before_outcome: vec![],
            batches: 0,
            answer_events: StatusCode::OK,
            hang_events: false,
            events_fail_at_random: false,
            random: Pcg64Mcg::seed_from_u64(1),
            streams: vec![],
        };
        let mut gateway = Self {
            address: ([127, 0, 0, 1], 0).into(),
            ca: ca.pem(),
            heard: Arc::new(Mutex::new(heard)),
            tls: RustlsConfig::from_config(Arc::new(config)),
            handle: axum_server::Handle::new(),
        };
        gateway.come_back();
        gateway
    }

    pub fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap()
    }

    /// Sends it on every stream, also on later ones.
    pub fn say(&self, order: ControlMessage) {
        let mut heard = self.heard();
        heard.streams.retain(|stream| stream.send(order.clone()).is_ok());
        heard.replay.push(order);
    }

    /// Closes all connections and stops listening.
    pub async fn go_away(&mut self) {
        self.handle.shutdown();
        self.heard().streams.clear();
        // Until the port refuses.
        while tokio::net::TcpStream::connect(self.address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Listens, at the same address if there was one.
    pub fn come_back(&mut self) {
        let listener = TcpListener::bind(self.address).unwrap();
        listener.set_nonblocking(true).unwrap();
        self.address = listener.local_addr().unwrap();
        self.handle = axum_server::Handle::new();
        let router = Router::new()
            .route(&RunPath::pattern(verb::REGISTER), post(hello))
            .route(&RunPath::pattern(verb::MESSAGES), get(orders))
            .route(&RunPath::pattern(verb::HEARTBEAT), post(heartbeat))
            .route(&RunPath::pattern(verb::CONFIRM), post(confirm))
            .route(&RunPath::pattern(verb::END), post(outcome))
            .route(&RunPath::pattern(verb::EVENTS), post(events).layer(DefaultBodyLimit::max(MAX_BODY_BYTES)))
            .layer(axum::middleware::from_fn_with_state(self.heard.clone(), note_key))
            .with_state(self.heard.clone());
        let server = axum_server::from_tcp_rustls(listener, self.tls.clone()).unwrap().handle(self.handle.clone());
        tokio::spawn(server.serve(router.into_make_service()));
    }
}

async fn note_key(
    State(heard): State<Shared>,
    Extension(tls): Extension<Arc<TlsInfo>>,
    request: Request,
    next: Next,
) -> Response {
    let key = client_key(&tls).and_then(|spki| PublicKey::from_spki(&spki)).expect("a client certificate");
    heard.lock().unwrap().keys.push(key);
    next.run(request).await
}

fn answer(status: StatusCode) -> Response {
    if status.is_success() {
        return status.into_response();
    }
    (status, Json(json!({ "reason": "Test", "message": "as the test wants it" }))).into_response()
}

async fn hello(State(heard): State<Shared>, headers: HeaderMap, Json(body): Json<Register>) -> Response {
    let mut heard = heard.lock().unwrap();
    let token = headers.get("authorization").map(|v| v.to_str().unwrap().to_owned());
    heard.tokens.push(token.unwrap_or_default());
    let has_job = body.has_job;
    heard.hellos.push(body);
    match heard.answer_hello {
        StatusCode::OK => Json((!has_job).then(|| heard.job.clone())).into_response(),
        other => answer(other),
    }
}

async fn orders(State(heard): State<Shared>) -> Response {
    let mut heard = heard.lock().unwrap();
    let (to, from) = mpsc::unbounded_channel();
    for order in &heard.replay {
        to.send(order.clone()).unwrap();
    }
    heard.streams.push(to);
    let lines = futures::stream::unfold(from, async |mut from| {
        let order = from.recv().await?;
        Some((order, from))
    })
    .map(|order| Ok::<_, std::convert::Infallible>(Bytes::from(format!("{}\n", json!(order)))));
    Body::from_stream(lines).into_response()
}

async fn heartbeat(State(heard): State<Shared>, Json(body): Json<Heartbeat>) -> Response {
    let (status, hang) = {
        let mut heard = heard.lock().unwrap();
        heard.heartbeats.push((Instant::now(), body));
        (heard.answer_heartbeat, heard.hang_heartbeats)
    };
    if hang {
        std::future::pending::<()>().await;
    }
    answer(status)
}

async fn confirm(State(heard): State<Shared>, Json(body): Json<Confirm>) -> Response {
    let mut heard = heard.lock().unwrap();
    heard.confirms.push(body);
    answer(heard.answer_confirm)
}

async fn outcome(State(heard): State<Shared>, Json(body): Json<EndReport>) -> Response {
    let mut heard = heard.lock().unwrap();
    heard.outcomes.push(body);
    let stored = heard.events.len();
    heard.events_before_outcome.push(stored);
    answer(heard.answer_outcome)
}

/// Stores what continues what is stored. A random number decides over the rest.
async fn events(State(heard): State<Shared>, body: Bytes) -> Response {
    let (batch, events) = decode(&body).expect("a batch");
    let (status, stored, hang) = {
        let mut heard = heard.lock().unwrap();
        heard.batches += 1;
        let random = if heard.events_fail_at_random { heard.random.next_u32() % 3 } else { 0 };
        let stored = heard.events.len() as u64;
        let takes = heard.answer_events.is_success() && random != 1 && batch.from <= stored + 1;
        let known = (stored + 1).saturating_sub(batch.from) as usize;
        if takes {
            heard.events.extend(events.into_iter().skip(known));
        }
        let status = match random {
            _ if batch.from > stored + 1 => StatusCode::CONFLICT,
            0 => heard.answer_events,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        (status, heard.events.len() as u64, heard.hang_events)
    };
    if hang {
        std::future::pending::<()>().await;
    }
    match status {
        StatusCode::OK | StatusCode::CONFLICT => (status, Json(Stored { stored })).into_response(),
        other => answer(other),
    }
}
