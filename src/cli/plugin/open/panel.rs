//! The panel at an address of this machine. A browser can't be given a token, and doesn't know the server's certificate
//! authority: what it reads here is asked of the server over a connection that is checked, with the token of the account
//! that all other commands ask as. Used by [`super`].
//!
//! Any program on this machine reaches the address, and any page in its browser can lead there. So nothing is answered
//! without a key, which is in the address that is printed, and then in a cookie; and nothing is passed on but reading.

use std::{convert::Infallible, net::Ipv4Addr, sync::Arc};

use anyhow::Context;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header, request::Parts};
use http_body_util::{Either, Full};
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Mutex,
};
use url::Url;

use super::super::server::Server;

/// The parameter that has the key.
const PARAMETER: &str = "koco-key=";
/// What a browser says that the server is to know.
const ASKED: [HeaderName; 4] =
    [header::ACCEPT, header::ACCEPT_LANGUAGE, header::CACHE_CONTROL, HeaderName::from_static("last-event-id")];
/// What is of the server's connection, and not of its answer.
const HOPS: [HeaderName; 4] =
    [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE, HeaderName::from_static("keep-alive")];

type Answer = Response<Either<Incoming, Full<Bytes>>>;

/// What becomes of a request.
#[derive(Debug, PartialEq)]
enum Verdict {
    /// The server answers it.
    Pass,
    /// It has the key, and is sent on to this page with a cookie.
    Enter(String),
    Refuse(StatusCode, &'static str),
}

/// The address, and the key to it.
pub(super) struct Gate {
    listener: TcpListener,
    lock: Lock,
}

struct Lock {
    port: u16,
    key: String,
}

impl Gate {
    /// Takes a port of the loopback interface.
    pub async fn bind(port: u16) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
        let listener = listener.with_context(|| format!("the port {port} of this machine: see --port"))?;
        let mut key = [0; 16];
        getrandom::fill(&mut key).context("random numbers")?;
        let port = listener.local_addr()?.port();
        Ok(Self { listener, lock: Lock { port, key: hex::encode(key) } })
    }

    /// The address of an execution's page, with the key.
    pub fn address(&self, fid: &str) -> anyhow::Result<Url> {
        let Lock { port, key } = &self.lock;
        Ok(Url::parse(&format!("http://127.0.0.1:{port}/jobs/{fid}?{PARAMETER}{key}"))?)
    }

    /// Answers until the process ends.
    pub async fn serve(self, server: Server) -> anyhow::Result<()> {
        let shared = Arc::new((self.lock, Mutex::new(server)));
        loop {
            let (stream, _) = self.listener.accept().await.context("a connection of a browser")?;
            tokio::spawn(connection(stream, shared.clone()));
        }
    }
}

async fn connection(stream: TcpStream, shared: Arc<(Lock, Mutex<Server>)>) {
    let serve = service_fn(move |request: Request<Incoming>| {
        let shared = shared.clone();
        async move { Ok::<_, Infallible>(answer(&shared.0, &shared.1, &request.into_parts().0).await) }
    });
    // That a browser closes its connection is no error.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), serve).await;
}

async fn answer(lock: &Lock, server: &Mutex<Server>, request: &Parts) -> Answer {
    let Parts { method, uri, headers, .. } = request;
    match lock.judge(method, uri, headers) {
        Verdict::Pass => {
            let target = uri.path_and_query().map_or("/", |target| target.as_str());
            let answered = server.lock().await.pass(method, target, &asked(headers)).await;
            answered.map_or_else(|trouble| text(StatusCode::BAD_GATEWAY, trouble.to_string()), passed)
        }
        Verdict::Enter(page) => {
            let mut answer = text(StatusCode::SEE_OTHER, String::new());
            let headers = answer.headers_mut();
            headers.extend(HeaderValue::try_from(page).ok().map(|page| (header::LOCATION, page)));
            headers.extend(HeaderValue::try_from(lock.cookie()).ok().map(|cookie| (header::SET_COOKIE, cookie)));
            answer
        }
        Verdict::Refuse(status, why) => text(status, why.into()),
    }
}

impl Lock {
    fn judge(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Verdict {
        let said = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        // A page of another name could be anybody's that leads here.
        let ours = ["127.0.0.1", "localhost"].map(|name| format!("{name}:{}", self.port));
        if !ours.iter().any(|host| host == said(header::HOST)) {
            return Verdict::Refuse(
                StatusCode::FORBIDDEN,
                "this address has another name than the one that was printed",
            );
        }
        if ![Method::GET, Method::HEAD].contains(method) {
            return Verdict::Refuse(StatusCode::METHOD_NOT_ALLOWED, "the panel is read here, and nothing else");
        }
        if uri.query().and_then(|query| query.strip_prefix(PARAMETER)) == Some(self.key.as_str()) {
            return Verdict::Enter(uri.path().into());
        }
        let cookie = self.cookie();
        let wanted = cookie.split(';').next();
        match said(header::COOKIE).split(';').any(|pair| Some(pair.trim()) == wanted) {
            true => Verdict::Pass,
            false => {
                Verdict::Refuse(StatusCode::FORBIDDEN, "open the whole address that `kubectl koco open` has printed")
            }
        }
    }

    /// Browsers send a cookie to each port of a host: each command's has a name of its own.
    fn cookie(&self) -> String {
        let Self { port, key } = self;
        format!("koco-panel-{port}={key}; Path=/; HttpOnly; SameSite=Lax")
    }
}

/// Those headers of a request that are passed on.
fn asked(headers: &HeaderMap) -> HeaderMap {
    headers.iter().filter(|(name, _)| ASKED.contains(name)).map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// The server's answer for the browser.
fn passed(answered: Response<Incoming>) -> Answer {
    let (mut parts, body) = answered.into_parts();
    for hop in HOPS {
        parts.headers.remove(hop);
    }
    Response::from_parts(parts, Either::Left(body))
}

fn text(status: StatusCode, text: String) -> Answer {
    let mut answer = Response::new(Either::Right(Full::from(text)));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // The address has the key in it.
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    answer
}

#[cfg(test)]
#[path = "panel_tests.rs"]
mod tests;
