//! `/healthz`, `/readyz` and `/metrics` over plain HTTP.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    routing::get,
};
use axum_server::Handle;
use tokio_util::sync::CancellationToken;

use super::{
    http::Acceptor,
    metrics::{Format, Metrics},
};

/// How many connections there may be, and from one address: probes and scrapers are few.
const CONNECTIONS: (usize, usize) = (128, 32);
/// How long a new connection may take to its first request.
const REQUEST: Duration = Duration::from_secs(5);
/// How long the head of a request may take, or a connection be idle: longer than scrapers wait between two scrapes.
const HEAD: Duration = Duration::from_secs(75);

/// Whether each role of this process is ready. A role is not ready while it starts and while it drains.
#[derive(Clone, Default)]
pub struct Ready {
    roles: Arc<parking_lot::Mutex<Vec<Arc<AtomicBool>>>>,
}

impl Ready {
    /// Adds a role, not ready yet.
    pub fn role(&self) -> Arc<AtomicBool> {
        let flag = Arc::new(AtomicBool::new(false));
        self.roles.lock().push(flag.clone());
        flag
    }

    fn all(&self) -> bool {
        let roles = self.roles.lock();
        !roles.is_empty() && roles.iter().all(|flag| flag.load(Ordering::Relaxed))
    }
}

/// Serves until the token is cancelled.
pub async fn serve(addr: SocketAddr, metrics: Metrics, ready: Ready, stop: CancellationToken) -> std::io::Result<()> {
    let app = Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route(
            "/readyz",
            get(|State((_, ready)): State<(Metrics, Ready)>| async move {
                if ready.all() { (StatusCode::OK, "ok") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready") }
            }),
        )
        .route(
            "/metrics",
            get(|State((metrics, _)): State<(Metrics, Ready)>, headers: HeaderMap| async move {
                let accept = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
                let format = Format::accepted(&accept.collect::<Vec<_>>().join(","));
                let text = metrics.encode(format).map_err(|e| (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))?;
                Ok::<_, (StatusCode, String)>(([(header::CONTENT_TYPE, format.content_type())], text))
            }),
        )
        .with_state((metrics, ready));
    let handle = Handle::new();
    let mut server = axum_server::bind(addr)
        .handle(handle.clone())
        .acceptor(Acceptor::plain(CONNECTIONS.0, CONNECTIONS.1))
        .http1_only()
        .first_request_timeout(REQUEST);
    server.http_builder().http1().header_read_timeout(HEAD);
    let ended = async {
        stop.cancelled().await;
        handle.graceful_shutdown(Some(REQUEST));
    };
    let serving = server.serve(app.into_make_service());
    tokio::pin!(serving);
    tokio::select! {
        served = &mut serving => served,
        () = ended => serving.await,
    }
}
