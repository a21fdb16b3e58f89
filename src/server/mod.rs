//! The server: keeps what became of AgentJobs after they are gone, and lets those read it who may. The only role with a
//! database, [`crate::database`]. Jobs never depend on it: without it, or while it is down, they start, run and end.
//!
//! - [`archive`] follows the AgentJobs and writes each change to the database. Any number of servers may do so at once:
//!   the database keeps the newest version, in whatever order they come.
//! - [`http`] answers requests, and takes events from gateways. [`access`] asks the API server who sends one and what they
//!   may read. [`live`] wakes streams of events.
//! - [`lost`] has events marked that never came. [`retention`] removes what is old. [`copy`] copies the database, as a command of its own.
//!
//! Of the cluster it writes one thing: an annotation on a job that has ended and has a time to live, which says that it
//! is in the archive. Called by the command line alone.

mod access;
mod archive;
mod copy;
mod http;
mod live;
mod lost;
mod retention;
mod settings;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::http::HeaderValue;
use k8s_openapi::api::authentication::v1::UserInfo;
use kube::Client;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub use self::{
    copy::{CopyCommand, CopyError},
    http::document as openapi,
    settings::Settings,
};
use crate::{
    api::names,
    database::Database,
    platform::{
        clock,
        http::{Authenticator, CertificateManager, ServerNames, serve},
        kubernetes,
        metrics::{Metrics, ServerMetrics},
        settings::Common,
    },
    temporal::Codec,
};

/// How many connections there may be, and from one address, which may be that of a proxy.
const CONNECTIONS: (usize, usize) = (2560, 256);
/// How often a database is tried that can't be used.
const RETRY: Duration = Duration::from_secs(1);

/// Why the server can't run.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address can't be listened on.
    #[error("the server can't listen on {0}: {1}")]
    Listen(std::net::SocketAddr, std::io::Error),
    /// The API server doesn't say which cluster this is.
    #[error("the cluster's id: {0}")]
    Cluster(kube::Error),
    /// The server ended.
    #[error("the server ended: {0}")]
    Serve(std::io::Error),
}

impl ServerError {
    /// One stable word.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Listen(..) => "Listen",
            Self::Cluster(_) => "ApiServer",
            Self::Serve(_) => "Serve",
        }
    }
}

/// The dependencies of a server.
pub struct Parts {
    /// The cluster.
    pub client: Client,
    /// The settings of every role.
    pub common: Common,
    /// The server's own settings.
    pub settings: Settings,
    /// What it counts in.
    pub metrics: Metrics,
    /// What decrypts payloads that Temporal has, for those who may read them.
    pub codec: Option<Codec>,
    /// Readiness.
    pub ready: Arc<AtomicBool>,
}

/// One server.
struct Server {
    client: Client,
    database: Database,
    authenticator: Authenticator<UserInfo>,
    access: access::Access,
    limits: http::Limits,
    namespaces: http::Namespaces,
    live: live::Live,
    metrics: ServerMetrics,
    /// Told that the database is full.
    full: Notify,
    codec: Option<Codec>,
    /// Whose pages may ask for decoded payloads.
    origins: Vec<HeaderValue>,
    /// Who may append events.
    gateways: Option<String>,
    stop: CancellationToken,
}

/// Runs a server until `stop`; then it turns unready, takes no new connection, and finishes what it has begun.
pub async fn run(parts: Parts, stop: CancellationToken) -> Result<(), ServerError> {
    let Parts { client, common, settings, metrics, codec, ready } = parts;
    let addr = settings.server_addr;
    let listen = |e| ServerError::Listen(addr, e);
    // First, so that a port in use is reported immediately.
    let listener = std::net::TcpListener::bind(addr).map_err(listen)?;
    let Some(database) = open(&client, &common, &settings, &stop).await? else { return Ok(()) };
    let mut certificates = CertificateManager::new(
        client.clone(),
        ServerNames {
            namespace: common.namespace.clone(),
            server: names::SERVER_TLS_NAME,
            secret: settings.server_tls_secret.clone(),
            config_map: names::SERVER_CA,
            asks_for_keys: false,
        },
    );
    let Some(config) = certificates.first(&stop).await else { return Ok(()) };
    tokio::spawn(certificates.keep(config.clone(), stop.clone()));

    let server = Arc::new(Server {
        authenticator: Authenticator::new(client.clone(), names::SERVER_AUDIENCE),
        access: access::Access::new(client.clone()),
        limits: http::Limits::default(),
        namespaces: http::namespaces(),
        live: live::Live::default(),
        metrics: metrics.server.clone(),
        full: Notify::new(),
        codec,
        origins: settings.server_codec_origins.iter().filter(|origin| !origin.is_empty()).cloned().collect(),
        gateways: settings.gateways(),
        stop: stop.clone(),
        client,
        database: database.clone(),
    });
    tokio::spawn({
        let server = server.clone();
        async move { server.live.ask(&server.database, &server.stop).await }
    });
    let writing = follow(&server, &common, &ready, &stop);
    count(&server, &metrics, writing);
    tokio::spawn(retention::keep(server.clone(), settings));
    tokio::spawn(lost::mark(server.clone()));

    let serving = axum_server::from_tcp(listener).map_err(listen)?;
    tracing::info!(%addr, "the server listens");
    let served = serve(serving, config, CONNECTIONS, http::router(server), &ready, &stop).await;
    database.close().await;
    served.map_err(ServerError::Serve)
}

/// Opens the database: waits until it can be used, or for `stop`, and logs each new reason why not.
async fn open(
    client: &Client,
    common: &Common,
    settings: &Settings,
    stop: &CancellationToken,
) -> Result<Option<Database>, ServerError> {
    let cluster = kubernetes::cluster_unless_stopped(client, common, stop).await.map_err(ServerError::Cluster)?;
    let Some(cluster) = cluster else { return Ok(None) };
    let location = settings.location();
    let mut said = None;
    loop {
        match Database::open(&location, &cluster).await {
            Ok(database) => return Ok(Some(database)),
            Err(error) => {
                let words = error.to_string();
                if said.as_ref() != Some(&words) {
                    tracing::error!(reason = error.reason(), ?location, "{words}");
                    said = Some(words);
                }
            }
        }
        tokio::select! { () = stop.cancelled() => return Ok(None), () = tokio::time::sleep(RETRY) => {} }
    }
}

/// Has commits counted, and streams and what waits for the database at each scrape.
fn count(server: &Arc<Server>, metrics: &Metrics, writing: Vec<archive::Writing>) {
    let ours = server.metrics.clone();
    server.database.observe(move |committed| {
        for (kind, count) in [("output", committed.output), ("agent", committed.agent), ("koco", committed.koco)] {
            ours.events.of([kind]).inc_by(count);
        }
        ours.event_bytes.inc_by(committed.bytes);
        ours.lost.inc_by(committed.lost);
        ours.full.inc_by(committed.full);
        if let Some(oldest) = committed.oldest {
            ours.event_lag.observe((clock::now().as_millisecond() as f64 / 1000.0 - oldest).max(0.0));
        }
        ours.commit_seconds.observe(committed.took.as_secs_f64());
        ours.commit_events.observe((committed.output + committed.agent + committed.koco) as f64);
    });
    let server = server.clone();
    metrics.before_scrapes(move || {
        server.metrics.streams.of([]).set(i64::try_from(server.limits.streams()).unwrap_or(i64::MAX));
        let longest = writing.iter().map(archive::Writing::took).max().unwrap_or_default();
        server.metrics.waiting.of([]).set(longest.as_secs_f64());
    });
}

/// Follows the jobs and runs of all watched namespaces; ready once all that there are have been written. Returns since when each
/// waits for the database.
fn follow(
    server: &Arc<Server>,
    common: &Common,
    ready: &Arc<AtomicBool>,
    stop: &CancellationToken,
) -> Vec<archive::Writing> {
    let mut writing = Vec::new();
    let namespaces = common.namespaces();
    let missing = Arc::new(AtomicUsize::new(2 * namespaces.len()));
    let synced = || {
        let (missing, ready, stop) = (missing.clone(), ready.clone(), stop.clone());
        move || {
            if missing.fetch_sub(1, Ordering::AcqRel) == 1 {
                ready.store(!stop.is_cancelled(), Ordering::Relaxed);
            }
        }
    };
    for namespace in namespaces {
        let (client, database) = (server.client.clone(), server.database.clone());
        let archive =
            archive::Archive::new(client.clone(), database.clone(), namespace.clone(), server.metrics.clone());
        writing.push(archive.writing());
        let jobs = archive.follow(synced());
        let runs = archive::runs::follow(client, database, namespace, synced());
        let ended = stop.clone();
        tokio::spawn(async move {
            let both = async { tokio::join!(jobs, runs) };
            tokio::select! { () = ended.cancelled() => {}, _ = both => {} }
        });
    }
    writing
}
