//! `/healthz`, `/readyz` and `/metrics` over plain HTTP.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use tokio_util::sync::CancellationToken;

use super::metrics::Metrics;

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
            get(|State((metrics, _)): State<(Metrics, Ready)>| async move {
                metrics.encode().map_err(|e| (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))
            }),
        )
        .with_state((metrics, ready));
    let listener = tokio::net::TcpListener::bind(addr).await?;
    axum::serve(listener, app).with_graceful_shutdown(async move { stop.cancelled().await }).await
}
