//! Between a role and the API server, to be in the way: plain HTTP on loopback, passed on by the test's own client. It
//! can spoil answers ([`Fault`]), hold a request until the test lets it through ([`Hold`]), and tell what was written.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{Method, StatusCode, request::Parts},
    response::{IntoResponse, Response},
};
use futures::{StreamExt, stream};
use serde_json::json;
use tokio::{
    net::TcpListener,
    task::JoinHandle,
    time::{Instant, sleep_until},
};

use super::{
    Role, Test,
    hold::{Asked, Hold, Traps},
};

/// What happens to a request.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    None,
    /// The API server does it, and the client gets a time-out.
    Unanswered,
    /// The API server does it, and the connection breaks in the middle of the answer.
    Broken,
    /// The streamed response is delayed.
    Late(Duration),
}

type Choice = dyn Fn(&Parts) -> Fault + Send + Sync;

struct Shared {
    client: kube::Client,
    choose: Box<Choice>,
    faults: AtomicUsize,
    traps: Traps,
    written: Mutex<Vec<(Asked, u16)>>,
}

/// The proxy, while it is kept.
pub struct ApiProxy {
    /// A kubeconfig that leads through it.
    pub kubeconfig: PathBuf,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl ApiProxy {
    /// In the way of one role, from its next start on; passes on everything until it is told otherwise.
    pub async fn before(test: &Test, role: &mut Role) -> Self {
        let proxy = Self::start(test, |_| Fault::None).await;
        role.process.set("KUBECONFIG", Some(proxy.kubeconfig.display().to_string()));
        proxy
    }

    /// Asks `choose` about each request.
    pub async fn start(test: &Test, choose: impl Fn(&Parts) -> Fault + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let kubeconfig = test.cluster.dev.join(format!("data/tests/kubeconfig-{}-{}", test.namespace, address.port()));
        std::fs::create_dir_all(kubeconfig.parent().expect("a folder")).expect("a folder");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "proxy",
            "clusters": [{ "name": "proxy", "cluster": { "server": format!("http://{address}") } }],
            "contexts": [{ "name": "proxy", "context": { "cluster": "proxy", "user": "nobody" } }],
            "users": [{ "name": "nobody", "user": {} }],
        });
        std::fs::write(&kubeconfig, config.to_string()).expect("a kubeconfig");
        let shared = Arc::new(Shared {
            client: test.client.clone(),
            choose: Box::new(choose),
            faults: AtomicUsize::new(0),
            traps: Traps::default(),
            written: Mutex::default(),
        });
        let app = Router::new().fallback(pass).with_state(shared.clone());
        let task = tokio::spawn(async move { axum::serve(listener, app).await.expect("the proxy") });
        Self { kubeconfig, shared, task }
    }

    /// Holds the next request of these words, such as `create pods` or `patch agentjobs/status`.
    pub fn hold(&self, words: &str) -> Hold {
        self.hold_nth(0, words)
    }

    /// Lets so many of them through first.
    pub fn hold_nth(&self, skip: usize, words: &str) -> Hold {
        let words = words.to_string();
        self.shared.traps.set(skip, move |asked| asked.words() == words)
    }

    /// Holds the next request that is so; its body says what it writes.
    pub fn hold_where(&self, wanted: impl Fn(&Asked) -> bool + Send + Sync + 'static) -> Hold {
        self.shared.traps.set(0, wanted)
    }

    /// What was written this way so far, and the API server's answers, in their order.
    pub fn written(&self) -> Vec<(Asked, u16)> {
        self.shared.written.lock().expect("the list").clone()
    }

    /// How many requests it was in the way of.
    pub fn faults(&self) -> usize {
        self.shared.faults.load(Ordering::Relaxed)
    }
}

impl Drop for ApiProxy {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_file(&self.kubeconfig);
    }
}

async fn pass(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (mut parts, body) = request.into_parts();
    let fault = (shared.choose)(&parts);
    if !matches!(fault, Fault::None) {
        shared.faults.fetch_add(1, Ordering::Relaxed);
    }
    let Ok(body) = axum::body::to_bytes(body, usize::MAX).await else { return StatusCode::BAD_REQUEST.into_response() };
    let asked = Asked::of(&parts, &body);
    // The client knows where the API server is.
    parts.headers.remove("host");
    let request = axum::http::Request::from_parts(parts, kube::client::Body::from(body.to_vec()));
    let answer = match shared.traps.spring(&asked) {
        None => shared.client.send(request).await,
        Some(trap) => {
            let client = shared.client.clone();
            // It is on its way, whatever becomes of its sender meanwhile.
            let sent = tokio::spawn(async move {
                trap.released().await;
                let answer = client.send(request).await;
                trap.answered(answer.as_ref().map_or(0, |a| a.status().as_u16()));
                answer
            });
            sent.await.expect("no panic")
        }
    };
    let answer = match answer {
        Ok(answer) => answer,
        Err(e) => return (StatusCode::BAD_GATEWAY, e.to_string()).into_response(),
    };
    let (parts, body) = answer.into_parts();
    if asked.writes() {
        shared.written.lock().expect("the list").push((asked, parts.status.as_u16()));
    }
    let body = match fault {
        Fault::None => Body::new(body),
        Fault::Unanswered => return StatusCode::GATEWAY_TIMEOUT.into_response(),
        Fault::Broken => {
            let broken = std::io::Error::other("as the test wants it");
            Body::from_stream(stream::iter([Ok(Bytes::from_static(b"{")), Err(broken)]))
        }
        Fault::Late(delay) => late(Body::new(body), delay),
    };
    let mut answer = Response::new(body);
    (*answer.status_mut(), *answer.headers_mut()) = (parts.status, parts.headers);
    answer.headers_mut().remove("content-length");
    answer
}

/// Each piece as long after it came.
fn late(body: Body, delay: Duration) -> Body {
    let (tell, pieces) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut stream = body.into_data_stream();
        while let Some(piece) = stream.next().await {
            if tell.send((Instant::now() + delay, piece)).is_err() {
                return;
            }
        }
    });
    Body::from_stream(stream::unfold(pieces, |mut pieces| async move {
        let (at, piece) = pieces.recv().await?;
        sleep_until(at).await;
        Some((piece, pieces))
    }))
}

/// Whether it is the creation of a pod.
pub fn creates_pod(request: &Parts) -> bool {
    request.method == Method::POST && request.uri.path().ends_with("/pods")
}

/// Whether it watches objects of this kind.
pub fn watches(request: &Parts, plural: &str) -> bool {
    let path = request.uri.path();
    path.ends_with(&format!("/{plural}")) && request.uri.query().is_some_and(|q| q.contains("watch=true"))
}
