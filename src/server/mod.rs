//! The server: keeps what became of AgentJobs after they are gone, and lets those read it who may. The only role with a
//! database, [`crate::database`]. Jobs never depend on it: without it, or while it is down, they start, run and end.
//!
//! - [`archive`] follows the AgentJobs and writes each change to the database. Any number of servers may do so at once:
//!   the database keeps the newest version, in whatever order they come.
//! - [`http`] answers requests, and takes events from gateways. [`access`] asks the API server who sends one and what they
//!   may read. [`live`] wakes streams of events.
//!
//! Of the cluster it writes one thing: an annotation on a job that has ended and has a time to live, which says that it
//! is in the archive. Called by the command line alone.

mod access;
mod archive;
mod http;
mod live;
mod settings;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use k8s_openapi::api::authentication::v1::UserInfo;
use kube::Client;
use tokio_util::sync::CancellationToken;

pub use self::settings::Settings;
use crate::{
    api::names,
    database::{Database, DatabaseError},
    platform::{
        clock,
        http::{Authenticator, CertificateManager, ServerNames, serve},
        kubernetes,
        settings::Common,
    },
};

/// How many connections there may be, and from one address, which may be that of a proxy.
const CONNECTIONS: (usize, usize) = (1024, 256);
/// How often a database is tried that can't be used.
const RETRY: Duration = Duration::from_secs(1);
/// How often what is old is removed.
const EXPIRE: Duration = Duration::from_secs(600);

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
    /// Who may append events.
    gateways: Option<String>,
    stop: CancellationToken,
}

/// Runs a server until `stop`; then it turns unready, takes no new connection, and finishes what it has begun.
pub async fn run(parts: Parts, stop: CancellationToken) -> Result<(), ServerError> {
    let Parts { client, common, settings, ready } = parts;
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
        gateways: settings.gateways(),
        stop: stop.clone(),
        client,
        database: database.clone(),
    });
    tokio::spawn({
        let server = server.clone();
        async move { server.live.ask(&server.database, &server.stop).await }
    });
    follow(&server, &common, &ready, &stop);
    tokio::spawn(expire(database.clone(), settings, stop.clone()));

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

/// Follows the jobs of all watched namespaces; ready once all that there are have been written.
fn follow(server: &Arc<Server>, common: &Common, ready: &Arc<AtomicBool>, stop: &CancellationToken) {
    let namespaces = common.namespaces();
    let missing = Arc::new(AtomicUsize::new(namespaces.len()));
    for namespace in namespaces {
        let (missing, ready, stop) = (missing.clone(), ready.clone(), stop.clone());
        let archive = archive::Archive::new(server.client.clone(), server.database.clone(), namespace);
        tokio::spawn(async move {
            let ended = stop.clone();
            let synced = move || {
                if missing.fetch_sub(1, Ordering::AcqRel) == 1 {
                    ready.store(!stop.is_cancelled(), Ordering::Relaxed);
                }
            };
            tokio::select! { () = ended.cancelled() => {}, () = archive.follow(synced) => {} }
        });
    }
}

/// Removes what is old, now and then.
async fn expire(database: Database, settings: Settings, stop: CancellationToken) {
    let retention = settings.retention();
    loop {
        match database.expire(&retention, clock::now().as_millisecond()).await {
            Ok(expired) if expired == Default::default() => {}
            Ok(expired) => tracing::info!(?expired, "what was old was removed"),
            Err(DatabaseError::Closed) => return,
            Err(error) => tracing::warn!(%error, reason = error.reason(), "removing what is old"),
        }
        tokio::select! { () = stop.cancelled() => return, () = tokio::time::sleep(EXPIRE) => {} }
    }
}
