//! Accepts TLS connections: only so many at a time from one address, and tells each request who is at the other end. A
//! connection stops counting once its client turns out to be known. Used by the servers of the roles.

use std::{future::Future, io, net::IpAddr, pin::Pin, sync::Arc};

use axum::{Extension, Router};
use axum_server::{
    accept::{Accept, NoDelayAcceptor},
    tls_rustls::{RustlsAcceptor, RustlsConfig},
};
use parking_lot::Mutex;
use tokio::net::TcpStream;

use super::limits::{Place, Shares};

type Tls = RustlsAcceptor<NoDelayAcceptor>;
type TlsAccept = <Tls as Accept<TcpStream, Router>>::Future;

/// The client's side of a connection; an extension of each of its requests.
#[derive(Clone)]
pub struct Connection {
    /// Its address.
    pub address: IpAddr,
    place: Arc<Mutex<Option<Place<IpAddr>>>>,
}

impl Connection {
    /// The client is known: from now on its connection doesn't count among those of strangers.
    pub fn is_known(&self) {
        self.place.lock().take();
    }
}

/// The acceptor of a server.
#[derive(Clone)]
pub struct Acceptor {
    tls: Tls,
    strangers: Arc<Shares<IpAddr>>,
}

impl Acceptor {
    /// With at most `total` connections of strangers, and `each` from one address.
    pub fn new(config: RustlsConfig, total: usize, each: usize) -> Self {
        // Messages are a few bytes and must not wait for more.
        let tls = RustlsAcceptor::new(config).acceptor(NoDelayAcceptor::new());
        Self { tls, strangers: Shares::new(total, each) }
    }

    fn begin(&self, stream: TcpStream, router: Router) -> io::Result<TlsAccept> {
        let address = stream.peer_addr()?.ip().to_canonical();
        let place = self.strangers.enter(address);
        let place = place.ok_or_else(|| io::Error::other("too many connections from this address"))?;
        let connection = Connection { address, place: Arc::new(Mutex::new(Some(place))) };
        Ok(self.tls.accept(stream, router.layer(Extension(connection))))
    }
}

impl Accept<TcpStream, Router> for Acceptor {
    type Stream = <Tls as Accept<TcpStream, Router>>::Stream;
    type Service = <Tls as Accept<TcpStream, Router>>::Service;
    type Future = Pin<Box<dyn Future<Output = io::Result<(Self::Stream, Self::Service)>> + Send>>;

    fn accept(&self, stream: TcpStream, router: Router) -> Self::Future {
        let begun = self.begin(stream, router);
        Box::pin(async { begun?.await })
    }
}
