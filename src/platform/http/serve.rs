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

/// How long clients may take.
struct Limits {
    /// A new connection to its first request.
    first_request: Duration,
    /// The head of a request. It counts while a connection is idle, too, so it is longer than the longest wait between two
    /// heartbeats of a runner: they share a connection.
    head: Duration,
}

const LIMITS: Limits = Limits { first_request: Duration::from_secs(15), head: Duration::from_secs(75) };
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
    strangers: (usize, usize),
    router: Router,
    ready: &AtomicBool,
    stop: &CancellationToken,
) -> io::Result<()> {
    serve_within(LIMITS, server, config, strangers, router, ready, stop).await
}

async fn serve_within(
    limits: Limits,
    server: Server<SocketAddr>,
    config: RustlsConfig,
    (strangers, each): (usize, usize),
    router: Router,
    ready: &AtomicBool,
    stop: &CancellationToken,
) -> io::Result<()> {
    let handle = Handle::new();
    let serving = server.handle(handle.clone()).acceptor(Acceptor::tls(config, strangers, each));
    let mut serving = serving.http1_only().first_request_timeout(limits.first_request);
    serving.http_builder().http1().header_read_timeout(limits.head).max_buf_size(MAX_HEAD);
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

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{TcpListener, TcpStream},
        sync::Arc,
    };

    use axum::routing::get;
    use rustls::{ClientConfig, ClientConnection, StreamOwned, crypto::ring, version::TLS13};

    use super::*;
    use crate::{
        platform::{clock, http::certificate::Authority},
        protocol::tls::FixedName,
    };

    const HOUR: Duration = Duration::from_secs(3600);
    const SHORT: Duration = Duration::from_millis(200);
    /// Long after the limit of a test.
    const NEVER: Duration = Duration::from_secs(120);

    /// Whether a connection ends on which a client has sent these requests, has had an answer to each and is then silent.
    async fn ends(limits: Limits, requests: usize) -> bool {
        let authority = Authority::generate(clock::now()).unwrap();
        let identity = authority.issue("koco", "n", clock::now()).unwrap();
        let config = identity.server("koco", &authority.certificate, false, clock::now()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let ended = stop.clone();
        let serving = tokio::spawn(async move {
            let (server, ready) = (axum_server::from_tcp(listener).unwrap(), AtomicBool::new(true));
            let router = Router::new().route("/", get(|| async { "fine" }));
            let config = RustlsConfig::from_config(config);
            serve_within(limits, server, config, (8, 8), router, &ready, &ended).await
        });
        let client = tokio::task::spawn_blocking(move || {
            let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_protocol_versions(&[&TLS13])
                .unwrap()
                .dangerous()
                .with_custom_certificate_verifier(FixedName::new(&authority.certificate, "koco").unwrap())
                .with_no_client_auth();
            let tcp = TcpStream::connect(address).unwrap();
            tcp.set_read_timeout(Some(NEVER)).unwrap();
            let connection = ClientConnection::new(Arc::new(tls), "koco".try_into().unwrap()).unwrap();
            let mut client = StreamOwned::new(connection, tcp);
            while client.conn.is_handshaking() {
                client.conn.complete_io(&mut client.sock).unwrap();
            }
            let mut buffer = [0; 1024];
            for _ in 0..requests {
                client.write_all(b"GET / HTTP/1.1\r\nhost: koco\r\n\r\n").unwrap();
                let mut answer = Vec::new();
                while !answer.ends_with(b"fine") {
                    let read = client.read(&mut buffer).unwrap();
                    assert!(read > 0, "an answer");
                    answer.extend_from_slice(&buffer[..read]);
                }
            }
            match client.read(&mut buffer) {
                Ok(read) => read == 0,
                Err(error) => error.kind() != io::ErrorKind::WouldBlock,
            }
        });
        let answer = client.await.unwrap();
        stop.cancel();
        serving.await.unwrap().unwrap();
        answer
    }

    #[tokio::test]
    async fn a_connection_without_a_request_ends() {
        assert!(ends(Limits { first_request: SHORT, head: HOUR }, 0).await);
    }

    #[tokio::test]
    async fn a_connection_that_asks_no_more_ends() {
        assert!(ends(Limits { first_request: HOUR, head: SHORT }, 2).await);
    }
}
