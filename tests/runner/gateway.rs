//! A fake gateway that sends what a test sets and records its requests. It can be stopped and started.

use std::{
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use axum::{
    Extension, Json, Router,
    body::{Body, Bytes},
    extract::{Request, State},
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
        key::PublicKey,
        runner::{Confirm, ControlMessage, EndReport, Heartbeat, Job, Register, RunPath, verb},
    },
};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::json;
use tokio::sync::mpsc;

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
    answer(heard.answer_outcome)
}
