//! Accepts connections, and tells each request who is at the other end. Clients that are not known yet have a limited
//! number of connections, and only so many from one address. With all taken, a new one ends the oldest of the address that
//! has the most, so that no number of addresses keeps others out. Used by the servers of the roles.

use std::{
    collections::{HashMap, VecDeque},
    future::Future,
    io,
    net::{IpAddr, Shutdown},
    os::fd::AsFd,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use axum::{Extension, Router};
use axum_server::{
    accept::{Accept, NoDelayAcceptor},
    tls_rustls::{RustlsAcceptor, RustlsConfig},
};
use parking_lot::Mutex;
use socket2::SockRef;
use tokio::net::TcpStream;

/// What accepts TLS.
pub type Tls = RustlsAcceptor<NoDelayAcceptor>;

/// The client's side of a connection; an extension of each of its requests.
#[derive(Clone)]
pub struct Connection {
    /// Its address.
    pub address: IpAddr,
    place: Arc<Mutex<Option<Place>>>,
}

impl Connection {
    /// The client is known: from now on its connection doesn't count among those of strangers.
    pub fn is_known(&self) {
        self.place.lock().take();
    }
}

#[cfg(test)]
impl From<[u8; 4]> for Connection {
    fn from(address: [u8; 4]) -> Self {
        Self { address: address.into(), place: Arc::default() }
    }
}

/// Connections of strangers, by address and age.
struct Strangers<C> {
    total: usize,
    each: usize,
    next: u64,
    held: HashMap<IpAddr, VecDeque<(u64, C)>>,
}

impl<C> Strangers<C> {
    fn new(total: usize, each: usize) -> Self {
        Self { total, each, next: 0, held: HashMap::new() }
    }

    /// Takes a connection in: its number, and the connection that loses its place for it. `None` if its address has as
    /// many as it may.
    fn enter(&mut self, address: IpAddr, connection: C) -> Option<(u64, Option<C>)> {
        if self.held.get(&address).is_some_and(|ours| ours.len() >= self.each) {
            return None;
        }
        let all: usize = self.held.values().map(VecDeque::len).sum();
        let loses = if all >= self.total { self.oldest_of_the_most() } else { None };
        self.next += 1;
        self.held.entry(address).or_default().push_back((self.next, connection));
        Some((self.next, loses))
    }

    fn oldest_of_the_most(&mut self) -> Option<C> {
        let oldest = |queue: &VecDeque<(u64, C)>| queue.front().map_or(0, |(number, _)| u64::MAX - number);
        let (address, _) = self.held.iter().max_by_key(|(_, queue)| (queue.len(), oldest(queue)))?;
        let address = *address;
        let (number, connection) = self.held.get_mut(&address)?.pop_front()?;
        self.leave(address, number);
        Some(connection)
    }

    /// A connection that has ended, or isn't a stranger's any more. It may have lost its place.
    fn leave(&mut self, address: IpAddr, number: u64) {
        let Some(queue) = self.held.get_mut(&address) else { return };
        queue.retain(|(other, _)| *other != number);
        if queue.is_empty() {
            self.held.remove(&address);
        }
    }
}

/// How long a client may leave what it is sent unread: then its connection ends, and all that it holds.
const UNREAD: Duration = Duration::from_secs(60);

/// A second handle of a connection, with which it can be ended.
type Socket = std::net::TcpStream;

/// A place among the strangers; dropping it gives it back.
struct Place {
    of: Arc<Mutex<Strangers<Socket>>>,
    address: IpAddr,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.of.lock().leave(self.address, self.number);
    }
}

/// The acceptor of a server, around one that limits nothing.
#[derive(Clone)]
pub struct Acceptor<I> {
    inner: I,
    strangers: Arc<Mutex<Strangers<Socket>>>,
    unread: Duration,
}

impl Acceptor<Tls> {
    /// With at most `total` connections of strangers, and `each` from one address.
    pub fn tls(config: RustlsConfig, total: usize, each: usize) -> Self {
        // Messages are a few bytes and must not wait for more.
        Self::new(RustlsAcceptor::new(config).acceptor(NoDelayAcceptor::new()), total, each)
    }
}

impl Acceptor<NoDelayAcceptor> {
    /// Without TLS; no client is ever known.
    pub fn plain(total: usize, each: usize) -> Self {
        Self::new(NoDelayAcceptor::new(), total, each)
    }
}

impl<I: Accept<TcpStream, Router>> Acceptor<I> {
    fn new(inner: I, total: usize, each: usize) -> Self {
        Self { inner, strangers: Arc::new(Mutex::new(Strangers::new(total, each))), unread: UNREAD }
    }

    fn begin(&self, stream: TcpStream, router: Router) -> io::Result<I::Future> {
        let address = stream.peer_addr()?.ip().to_canonical();
        let socket = Socket::from(stream.as_fd().try_clone_to_owned()?);
        SockRef::from(&socket).set_tcp_user_timeout(Some(self.unread))?;
        let entered = self.strangers.lock().enter(address, socket);
        let (number, loses) = entered.ok_or_else(|| io::Error::other("too many connections from this address"))?;
        if let Some(socket) = loses {
            // It may have ended already.
            let _ = socket.shutdown(Shutdown::Both);
        }
        let place = Place { of: self.strangers.clone(), address, number };
        let connection = Connection { address, place: Arc::new(Mutex::new(Some(place))) };
        Ok(self.inner.accept(stream, router.layer(Extension(connection))))
    }
}

impl<I> Accept<TcpStream, Router> for Acceptor<I>
where
    I: Accept<TcpStream, Router, Future: Send + 'static>,
{
    type Stream = I::Stream;
    type Service = I::Service;
    type Future = Pin<Box<dyn Future<Output = io::Result<(Self::Stream, Self::Service)>> + Send>>;

    fn accept(&self, stream: TcpStream, router: Router) -> Self::Future {
        let begun = self.begin(stream, router);
        Box::pin(async { begun?.await })
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncWriteExt, net::TcpListener};

    use super::*;

    #[tokio::test]
    async fn a_client_that_reads_nothing_loses_its_connection() {
        let mut acceptor = Acceptor::plain(8, 8);
        assert_eq!(acceptor.unread, UNREAD);
        acceptor.unread = Duration::from_millis(200);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let (mut stream, _) = acceptor.accept(stream, Router::new()).await.unwrap();
        let written = async { while stream.write_all(&[0; 64 * 1024]).await.is_ok() {} };
        tokio::time::timeout(Duration::from_secs(120), written).await.expect("it ends");
    }

    fn address(n: u8) -> IpAddr {
        [10, 0, 0, n].into()
    }

    #[test]
    fn an_address_gets_only_its_share() {
        let mut strangers = Strangers::new(10, 2);
        let (first, _) = strangers.enter(address(1), "a").unwrap();
        assert_eq!(strangers.enter(address(1), "b"), Some((2, None)));
        assert_eq!(strangers.enter(address(1), "c"), None);
        strangers.leave(address(1), first);
        assert_eq!(strangers.enter(address(1), "d"), Some((3, None)));
    }

    #[test]
    fn with_all_places_taken_the_oldest_of_the_greediest_address_goes() {
        let mut strangers = Strangers::new(5, 2);
        for (n, connection) in [(1, "a"), (2, "b"), (2, "c"), (3, "d"), (3, "e")] {
            assert_eq!(strangers.enter(address(n), connection).unwrap().1, None);
        }
        assert_eq!(strangers.enter(address(4), "f").unwrap().1, Some("b"));
        assert_eq!(strangers.enter(address(5), "g").unwrap().1, Some("d"));
        // Now each has one.
        assert_eq!(strangers.enter(address(6), "h").unwrap().1, Some("a"));
        let all: usize = strangers.held.values().map(VecDeque::len).sum();
        assert_eq!((all, strangers.held.len()), (5, 5));
    }

    #[test]
    fn what_has_lost_its_place_leaves_nothing_behind() {
        let mut strangers = Strangers::new(1, 1);
        let (number, _) = strangers.enter(address(1), "a").unwrap();
        let (other, _) = strangers.enter(address(2), "b").unwrap();
        strangers.leave(address(1), number);
        assert_eq!(strangers.held.len(), 1);
        strangers.leave(address(2), other);
        assert!(strangers.held.is_empty());
    }
}
