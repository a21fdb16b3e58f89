//! The gateway: the only role that runner pods talk to. It knows a runner by its key, which the AgentRun records, sends
//! it its job and control messages, forwards its heartbeats, and records and delivers its end.
//!
//! Stateless: its memory is only a cache, and any number of gateways may run. Called by the command line alone.
//!
//! How a request flows:
//! 1. [`server`]: paths, time-outs, the size of bodies.
//! 2. [`requests`]: `admit` finds the run in [`runs`], the cache of open AgentRuns, or live, and refuses everybody but its
//!    runner; only then is the body read. One function a path.
//! 3. `requests::updates` (pure): from the run's status and the request to the new status. Changes are written
//!    through [`runs`], bound to the version that was read: before the answer, or a little later by `requests::writer`.
//! 4. [`temporal_bridge`]: calls to Temporal, in the background.
//!
//! The other way, a change of an AgentRun goes from the watch in [`runs`] to the run's own channel, and from there to
//! the stream of [`sessions::messages`]. [`sessions`] holds a runner's limits and the time of the last contact.
//!
//! Agents' events take a way of their own, through [`archive`] to the server, and hold up nothing else.
//!
//! It writes the status of AgentRuns and nothing else; AgentJobs are only read, one at a time, when a runner reports
//! in.

mod archive;
mod background;
#[cfg(test)]
mod fake;
#[cfg(test)]
mod fixtures;
mod requests;
mod runs;
mod server;
mod sessions;
mod settings;
mod temporal_bridge;
#[cfg(test)]
mod tests;

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use kube::Client;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub use self::settings::Settings;
use crate::{
    api::names,
    platform::{
        http::{Authenticator, CertificateManager, DRAIN, Pod, ServerNames, serve},
        metrics::Metrics,
        settings::Common,
    },
    temporal::Temporal,
};

/// How many connections there may be of clients that no run knows yet, and of them from one address.
const STRANGERS: (usize, usize) = (1024, 128);
/// How many streams are open at a time: one for each running agent.
const STREAMS: usize = 20_000;

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

/// The dependencies of a gateway.
pub struct Parts {
    /// The cluster.
    pub client: Client,
    /// The settings of every role.
    pub common: Common,
    /// The gateway's own settings.
    pub settings: Settings,
    /// Temporal.
    pub temporal: Temporal,
    /// Metrics.
    pub metrics: Metrics,
    /// Readiness.
    pub ready: Arc<AtomicBool>,
}

/// One gateway.
struct Gateway {
    client: Client,
    runs: runs::RunCache,
    archive: archive::Archive,
    authenticator: Authenticator<Pod>,
    sessions: sessions::Sessions,
    peers: sessions::peers::Peers,
    temporal: Temporal,
    metrics: Metrics,
    background: background::Background,
    identity: String,
    namespaces: Vec<Option<String>>,
    limits: requests::Limits,
    agent_otlp_endpoint: Option<String>,
    streams: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Gateway {
    fn new(parts: Parts, stop: CancellationToken) -> Self {
        let Parts { client, common, settings, temporal, metrics, .. } = parts;
        let streams = Arc::new(Semaphore::new(STREAMS));
        let (free, open) = (streams.clone(), metrics.streams.of([]));
        metrics.before_scrapes(move || {
            open.set(i64::try_from(STREAMS.saturating_sub(free.available_permits())).unwrap_or(i64::MAX));
        });
        let archive = archive::Archive::new(client.clone(), &common.namespace, &settings);
        if archive.is_configured() {
            metrics.keeps_events.of([]).set(1);
        }
        Self {
            runs: runs::RunCache::new(client.clone()),
            archive,
            authenticator: Authenticator::new(client.clone(), names::GATEWAY_AUDIENCE),
            peers: sessions::peers::Peers::new(client.clone(), &common.namespace, &common.identity),
            client,
            sessions: Default::default(),
            temporal,
            metrics,
            background: background::Background::default(),
            namespaces: common.namespaces(),
            identity: common.identity,
            limits: Default::default(),
            agent_otlp_endpoint: settings.agent_otlp_endpoint,
            streams,
            stop,
        }
    }

    /// Follows the runs of all watched namespaces; `ready` once it has seen them all.
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
                gateway.runs.follow(namespace.as_deref(), synced, &gateway.stop).await;
            });
        }
    }
}

/// Runs a gateway until `stop`; then it turns unready, takes no new connection, ends its streams so that runners
/// connect to another, and finishes what it has begun.
pub async fn run(parts: Parts, stop: CancellationToken) -> Result<(), GatewayError> {
    let addr = parts.settings.gateway_addr;
    let listen = |e| GatewayError::Listen(addr, e);
    // First, so that a port in use is reported immediately.
    let listener = std::net::TcpListener::bind(addr).map_err(listen)?;
    let mut certificates = CertificateManager::new(
        parts.client.clone(),
        ServerNames {
            namespace: parts.common.namespace.clone(),
            server: names::GATEWAY_TLS_NAME,
            secret: parts.settings.gateway_tls_secret.clone(),
            config_map: names::GATEWAY_CA,
            asks_for_keys: true,
        },
    );
    let Some(config) = certificates.first(&stop).await else { return Ok(()) };
    tokio::spawn(certificates.keep(config.clone(), stop.clone()));

    let ready = parts.ready.clone();
    let gateway = Arc::new(Gateway::new(parts, stop.clone()));
    gateway.follow(ready.clone());
    tokio::spawn(gateway.clone().watch_liveness());
    tokio::spawn({
        let gateway = gateway.clone();
        async move { gateway.archive.keep(&gateway.stop).await }
    });

    let serving = axum_server::from_tcp(listener).map_err(listen)?;
    tracing::info!(%addr, identity = gateway.identity, "the gateway listens");
    let router = server::router(gateway.clone());
    let served = serve(serving, config, STRANGERS, router, &ready, &stop).await;
    let left = gateway.background.finish(DRAIN).await;
    if left > 0 {
        tracing::warn!(left, "deliveries to Temporal that others will have to repeat");
    }
    served.map_err(GatewayError::Serve)
}
