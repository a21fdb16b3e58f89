//! Tests of [`super`].

use std::time::Duration;

use clap::Parser;
use http_body_util::StreamBody;
use hyper::body::Frame;
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use super::{
    super::{super::server::Access, fixtures::Folder},
    *,
};

const FID: &str = "6740c100aabbccddeeff0011";

fn lock() -> Lock {
    Lock { port: 4242, key: "abc".into() }
}

fn judged(method: &str, target: &str, host: &str, cookie: &str) -> Verdict {
    let headers = [(header::HOST, host), (header::COOKIE, cookie)];
    let headers = headers.map(|(name, value)| (name, HeaderValue::from_str(value).unwrap())).into_iter().collect();
    lock().judge(&method.parse().unwrap(), &target.parse().unwrap(), &headers)
}

#[test]
fn who_has_no_key_reads_nothing() {
    let (host, cookie) = ("127.0.0.1:4242", "a=b; koco-panel-4242=abc");
    assert_eq!(judged("GET", "/jobs?phase=Failed", host, cookie), Verdict::Pass);
    assert_eq!(judged("HEAD", "/jobs", "localhost:4242", cookie), Verdict::Pass);
    assert_eq!(judged("GET", &format!("/jobs/{FID}?koco-key=abc"), host, ""), Verdict::Enter(format!("/jobs/{FID}")));
    let status = |verdict| match verdict {
        Verdict::Refuse(status, _) => status.as_u16(),
        verdict => panic!("{verdict:?}"),
    };
    for cookie in ["", "koco-panel-4242=", "koco-panel-4242=abcd", "koco-panel-4243=abc", "xkoco-panel-4242=abc"] {
        assert_eq!(status(judged("GET", "/jobs", host, cookie)), 403, "{cookie}");
    }
    for target in
        ["/jobs?koco-key=ab", "/jobs?koco-key=abcd", "/jobs?koco-key=", "/jobs?a=b&koco-key=abc", "/koco-key=abc"]
    {
        assert_eq!(status(judged("GET", target, host, "")), 403, "{target}");
    }
    for other in ["evil.example.com", "127.0.0.1", "127.0.0.1:4243", "evil.example.com:4242", ""] {
        assert_eq!(status(judged("GET", "/jobs?koco-key=abc", other, cookie)), 403, "{other}");
    }
    for method in ["POST", "DELETE", "PUT", "PATCH", "OPTIONS"] {
        assert_eq!(status(judged(method, "/jobs", host, cookie)), 405, "{method}");
    }
}

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    access: Access,
}

type Part = Result<Frame<Bytes>, Infallible>;

/// A server with TLS: it answers with the headers that it was sent, and at `/stream` with what comes of a channel.
/// Returns its port and its certificate.
async fn upstream(parts: mpsc::Receiver<Part>) -> (u16, String) {
    let made = rcgen::generate_simple_self_signed(["koco-server".to_string()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key);
    let (acceptor, parts) = (TlsAcceptor::from(Arc::new(config.unwrap())), Arc::new(Mutex::new(Some(parts))));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, parts) = (acceptor.clone(), parts.clone());
            let serve = service_fn(move |request: Request<Incoming>| {
                let parts = parts.clone();
                async move {
                    let streamed = if request.uri().path() == "/stream" { parts.lock().await.take() } else { None };
                    let said = format!("{} {:?}", request.uri(), request.headers());
                    let answer = Response::builder().header("x-answer", "server").header("connection", "close");
                    let body = match streamed {
                        Some(parts) => {
                            Either::Left(StreamBody::new(futures::stream::unfold(parts, async |mut parts| {
                                let part = parts.recv().await?;
                                Some((part, parts))
                            })))
                        }
                        None => Either::Right(Full::<Bytes>::from(said)),
                    };
                    answer.body(body)
                }
            });
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), serve).await;
            });
        }
    });
    (port, made.cert.pem())
}

#[tokio::test]
async fn a_browser_reads_with_the_accounts_token_and_never_sees_it() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (parts, streamed) = mpsc::channel(1);
    let (port, ca) = upstream(streamed).await;
    let folder = Folder::new("panel");
    let session = folder.session("http://127.0.0.1:9").await;
    let (ca, token) = (folder.file("ca", &ca), folder.file("token", "the-token"));
    let url = format!("https://127.0.0.1:{port}");
    let flags = ["x", "--server", &url, "--server-ca", &ca, "--server-name", "koco-server", "--token-file", &token];
    let access = Line::try_parse_from(flags).unwrap_or_else(|e| panic!("{e}")).access;
    let server = Server::find(&session, &access).await.unwrap();
    let gate = Gate::bind(0).await.unwrap();
    let address = gate.address(FID).unwrap();
    tokio::spawn(gate.serve(server));

    let browser = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let page = address.as_str().split('?').next().unwrap();
    assert_eq!(browser.get(page).send().await.unwrap().status(), 403);
    let entered = browser.get(address.clone()).send().await.unwrap();
    let header = |name: &str| entered.headers()[name].to_str().unwrap().to_string();
    assert_eq!((entered.status().as_u16(), header("location")), (303, format!("/jobs/{FID}")));
    let cookie = header("set-cookie");
    assert!(cookie.ends_with("; Path=/; HttpOnly; SameSite=Lax") && !cookie.contains("the-token"), "{cookie}");
    let cookie = cookie.split(';').next().unwrap();

    let ask = |target: &str| browser.get(address.join(target).unwrap()).header("cookie", cookie);
    let read =
        ask("/jobs?a=b").header("authorization", "Bearer mine").header("accept", "text/html").send().await.unwrap();
    assert_eq!((read.status().as_u16(), &read.headers()["x-answer"]), (200, &HeaderValue::from_static("server")));
    let said = read.text().await.unwrap();
    assert!(
        said.starts_with("/jobs?a=b ") && said.contains("Bearer the-token") && said.contains("text/html"),
        "{said}"
    );
    assert!(!said.contains("mine") && !said.contains("cookie"), "{said}");
    assert_eq!(browser.post(page).header("cookie", cookie).send().await.unwrap().status(), 405);

    // A stream is passed on as it comes, and others are answered meanwhile.
    let mut stream = ask("/stream").send().await.unwrap();
    for word in ["one", "two"] {
        parts.send(Ok(Frame::data(word.into()))).await.unwrap();
        let part = tokio::time::timeout(Duration::from_secs(10), stream.chunk()).await.unwrap().unwrap();
        assert_eq!(part.as_deref(), Some(word.as_bytes()));
        assert_eq!(ask("/jobs").send().await.unwrap().status(), 200);
    }
    drop(parts);
    assert_eq!(stream.chunk().await.unwrap(), None);
}
