//! The gateway: the only part of ours that runner pods talk to. It knows a runner from its pod's token, checks it against the
//! job's claim, and then gives it its job, passes orders on, heartbeats for it, and records and delivers its outcome.
//!
//! Stateless: what it remembers may be forgotten, and any number of gateways may run. Called by the command line alone.
//!
//! A request goes [`http`] → [`auth`] → [`requests`] → [`authorise`] and [`decide`] (pure) → [`jobs`] (status) and, in the
//! background, [`engine`] (Temporal).

mod auth;
mod authorise;
mod background;
mod certificate;
mod decide;
mod engine;
mod error;
#[cfg(test)]
mod fake;
#[cfg(test)]
mod fixtures;
mod http;
mod jobs;
mod orders;
mod requests;
mod sessions;
mod settings;
mod silence;
#[cfg(test)]
mod tests;
mod tls;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum_server::{Handle, accept::NoDelayAcceptor, tls_rustls::RustlsAcceptor};
use kube::Client;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub use self::settings::Settings;
use crate::{
    platform::{metrics::Metrics, settings::Common},
    temporal::Temporal,
};

/// How many requests are worked on at a time; streams count only until they begin.
const REQUESTS: usize = 1024;
/// How many streams of orders are open at a time: one for each running agent.
const STREAMS: usize = 20_000;
/// How long a new connection may take to its first request.
const FIRST_REQUEST: Duration = Duration::from_secs(15);
/// How long the head of a request may take. It counts while a connection is idle, too, so it is longer than the longest wait
/// between two heartbeats: they share a connection.
const HEAD: Duration = Duration::from_secs(75);
/// How long connections and background work may take to end.
const DRAIN: Duration = Duration::from_secs(10);

/// Why the gateway can't run.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The address can't be listened on.
    #[error("the gateway can't listen on {0}: {1}")]
    Listen(std::net::SocketAddr, std::io::Error),
    /// The server ended.
    #[error("the gateway's server ended: {0}")]
    Serve(std::io::Error),
}

impl GatewayError {
    /// One stable word.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Listen(..) => "Listen",
            Self::Serve(_) => "Serve",
        }
    }
}

/// One gateway.
struct Gateway {
    jobs: jobs::Jobs,
    auth: auth::Authenticator,
    sessions: sessions::Sessions,
    temporal: Temporal,
    metrics: Metrics,
    background: background::Background,
    identity: String,
    namespaces: Vec<Option<String>>,
    requests: Semaphore,
    streams: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Gateway {
    fn new(client: Client, common: &Common, temporal: Temporal, metrics: Metrics, stop: CancellationToken) -> Self {
        Self {
            jobs: jobs::Jobs::new(client.clone()),
            auth: auth::Authenticator::new(client),
            sessions: Default::default(),
            temporal,
            metrics,
            background: background::Background::new(),
            identity: common.identity.clone(),
            namespaces: common.namespaces(),
            requests: Semaphore::new(REQUESTS),
            streams: Arc::new(Semaphore::new(STREAMS)),
            stop,
        }
    }

    /// Follows the jobs of all watched namespaces; `ready` once it has seen them all.
    fn follow(self: &Arc<Self>, ready: Arc<AtomicBool>) {
        let missing = Arc::new(AtomicUsize::new(self.namespaces.len()));
        for namespace in self.namespaces.clone() {
            let (gateway, ready, missing) = (self.clone(), ready.clone(), missing.clone());
            tokio::spawn(async move {
                let first = AtomicBool::new(true);
                let synced = || {
                    if first.swap(false, Ordering::Relaxed) && missing.fetch_sub(1, Ordering::AcqRel) == 1 {
                        ready.store(!gateway.stop.is_cancelled(), Ordering::Relaxed);
                    }
                };
                gateway.jobs.follow(namespace.as_deref(), synced, &gateway.stop).await;
            });
        }
    }
}

/// Runs a gateway until `stop`; then it turns unready, takes no new connection, ends its streams so that runners connect to
/// another, and finishes what it has begun.
pub async fn run(
    client: Client,
    common: &Common,
    settings: &Settings,
    temporal: Temporal,
    metrics: Metrics,
    ready: Arc<AtomicBool>,
    stop: CancellationToken,
) -> Result<(), GatewayError> {
    let addr = settings.gateway_addr;
    let listen = |e| GatewayError::Listen(addr, e);
    // First of all, so that a port that is taken is said at once.
    let listener = std::net::TcpListener::bind(addr).map_err(listen)?;
    let mut keeper = tls::Keeper::new(client.clone(), &common.namespace, &settings.gateway_tls_secret);
    let Some(config) = keeper.first(&stop).await else { return Ok(()) };
    tokio::spawn(keeper.keep(config.clone(), stop.clone()));

    let gateway = Arc::new(Gateway::new(client, common, temporal, metrics, stop.clone()));
    gateway.follow(ready.clone());
    tokio::spawn(gateway.clone().listen_for_silence());

    let handle = Handle::new();
    // Orders are a few bytes and must not wait for more.
    let acceptor = RustlsAcceptor::new(config).acceptor(NoDelayAcceptor::new());
    let server = axum_server::from_tcp(listener).map_err(listen)?.handle(handle.clone());
    let mut server = server.acceptor(acceptor).http1_only().first_request_timeout(FIRST_REQUEST);
    server.http_builder().http1().header_read_timeout(HEAD).max_buf_size(64 * 1024);
    tracing::info!(%addr, identity = gateway.identity, "the gateway listens");

    let draining = async {
        stop.cancelled().await;
        ready.store(false, Ordering::Relaxed);
        handle.graceful_shutdown(Some(DRAIN));
    };
    let serving = server.serve(http::router(gateway.clone()).into_make_service());
    let (served, ()) = tokio::join!(
        async {
            let served = serving.await;
            // A server that ends by itself must not leave us waiting.
            stop.cancel();
            served
        },
        draining
    );
    let left = gateway.background.finish(DRAIN).await;
    if left > 0 {
        tracing::warn!(left, "deliveries to Temporal that others will have to repeat");
    }
    served.map_err(GatewayError::Serve)
}
