//! Serves a role's paths over TLS until the process is to end.

use std::{
    io,
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use axum::Router;
use axum_server::{Handle, Server, tls_rustls::RustlsConfig};
use tokio_util::sync::CancellationToken;

use super::Acceptor;

/// How long a new connection may take to its first request.
const FIRST_REQUEST: Duration = Duration::from_secs(15);
/// How long the head of a request may take. It counts while a connection is idle, too, so it is longer than the longest
/// wait between two heartbeats of a runner: they share a connection.
const HEAD: Duration = Duration::from_secs(75);
/// The most bytes of a head.
const MAX_HEAD: usize = 64 * 1024;
/// How long connections may take to end.
pub const DRAIN: Duration = Duration::from_secs(10);

/// Serves until `stop`; then it is no longer `ready`, takes no new connection, and finishes what it has begun. At most
/// so many connections of strangers, in all and from one address. If the server ends by itself, all that depends on
/// `stop` ends, too.
pub async fn serve(
    server: Server<SocketAddr>,
    config: RustlsConfig,
    (strangers, each): (usize, usize),
    router: Router,
    ready: &AtomicBool,
    stop: &CancellationToken,
) -> io::Result<()> {
    let handle = Handle::new();
    let serving = server.handle(handle.clone()).acceptor(Acceptor::tls(config, strangers, each));
    let mut serving = serving.http1_only().first_request_timeout(FIRST_REQUEST);
    serving.http_builder().http1().header_read_timeout(HEAD).max_buf_size(MAX_HEAD);
    let draining = async {
        stop.cancelled().await;
        ready.store(false, Ordering::Relaxed);
        handle.graceful_shutdown(Some(DRAIN));
    };
    let serving = serving.serve(router.into_make_service());
    let (served, ()) = tokio::join!(
        async {
            let served = serving.await;
            // The draining must not wait then.
            stop.cancel();
            served
        },
        draining
    );
    served
}
