//! Whatever a client sends over TLS: the gateway answers, goes on, and records nothing of a run but what its runner may
//! say of it.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    sync::Arc,
    time::Duration,
};

use proptest::{prelude::*, test_runner::TestCaseError};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};

use super::*;
use crate::{
    fuzz::{check, json, nearly, text},
    protocol::runner::MAX_MESSAGE_BYTES,
};

/// A request, as bytes of any kind where HTTP has room for them.
#[derive(Clone, Debug)]
struct Sent {
    method: String,
    path: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
    /// What `Content-Length` says, if not how long the body is.
    length: Option<u64>,
    /// Whether it comes from the run's runner.
    runner: bool,
}

impl Sent {
    /// Whether nothing is odd about its framing.
    fn is_whole(&self) -> bool {
        self.headers.is_empty() && self.length.is_none()
    }
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    let end = json!({ "kind": "Succeeded", "started": true, "exitCode": 0, "result": { "n": 1 }, "activeMillis": 5,
        "error": { "type": "T", "message": "m" } });
    let end = nearly(end).prop_map(|end| json!({ "generation": 0, "end": end }));
    let end = (end, 0..4).prop_flat_map(|(end, rare)| if rare == 0 { nearly(end).boxed() } else { Just(end).boxed() });
    let heard = nearly(json!({ "state": "Frozen", "generation": 1, "problem": "p" }));
    let text = |value: Value| value.to_string().into_bytes();
    let large =
        (60_000_usize..70_000).prop_map(|n| json!({ "state": "Running", "generation": 0, "problem": "x".repeat(n) }));
    let deep = (0_usize..20_000).prop_map(|levels| "[".repeat(levels).into_bytes());
    prop_oneof![
        4 => end.prop_map(text),
        4 => heard.prop_map(text),
        1 => json().prop_map(text),
        1 => large.prop_map(text),
        1 => deep,
        1 => any::<Vec<u8>>(),
    ]
}

fn path() -> impl Strategy<Value = String> {
    let names = || prop_oneof![6 => Just(fixtures::run().name().to_string()), 1 => text(), 1 => "[-a-z0-9.%/?#]{0,20}"];
    let namespace = prop_oneof![6 => Just("a".to_string()), 1 => text(), 1 => "[-a-z0-9.%/]{0,20}"];
    let verb = prop::sample::select(vec![REGISTER, HEARTBEAT, CONFIRM, END, END, CONFIRM]).prop_map(str::to_string);
    let verb = prop_oneof![6 => verb, 1 => text()];
    let run = (namespace, names(), verb).prop_map(|(namespace, name, verb)| RunPath { namespace, name }.path(&verb));
    prop_oneof![8 => run, 1 => text(), 1 => "/[ -~]{0,300}"]
}

fn sent() -> impl Strategy<Value = Sent> {
    let method = prop_oneof![8 => Just("POST".to_string()), 1 => prop::sample::select(vec!["GET", "PUT", "OPTIONS", "CONNECT", "PRI", ""]).prop_map(str::to_string), 1 => text()];
    let known =
        ["authorization", "content-type", "expect", "transfer-encoding", "content-length", "host", "te", "upgrade"];
    let name = prop_oneof![4 => prop::sample::select(known.to_vec()).prop_map(str::to_string), 1 => "[!-~]{1,30}", 1 => text()];
    let meaning = ["Bearer good.to.ken", "Bearer a.b.c", "100-continue", "chunked", "5", "-1", "application/json"];
    let value = prop_oneof![
        4 => prop::sample::select(meaning.to_vec()).prop_map(|s| s.as_bytes().to_vec()),
        1 => any::<Vec<u8>>(),
        1 => (0_usize..70_000).prop_map(|n| vec![b'x'; n]),
    ];
    let headers = prop_oneof![3 => Just(vec![]), 1 => prop::collection::vec((name, value), 0..4)];
    let length = prop_oneof![12 => Just(None), 1 => any::<u64>().prop_map(Some), 1 => (0_u64..100).prop_map(Some)];
    (method, path(), headers, body(), length, prop::bool::weighted(0.8))
        .prop_map(|(method, path, headers, body, length, runner)| Sent { method, path, headers, body, length, runner })
}

/// A client's side of TLS, with a key or without.
fn tls(ca: &str, pair: Option<&rcgen::KeyPair>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots);
    Arc::new(match pair {
        None => config.with_no_client_auth(),
        Some(pair) => {
            let certificate = rcgen::CertificateParams::default().self_signed(pair).unwrap().der().clone();
            let key = PrivateKeyDer::try_from(pair.serialize_der()).unwrap();
            config.with_client_auth_cert(vec![certificate], key).unwrap()
        }
    })
}

/// Sends it, and reads until the gateway closes the connection.
fn send(addr: SocketAddr, config: Arc<ClientConfig>, sent: &Sent) -> io::Result<Vec<u8>> {
    let stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let name = ServerName::try_from("koco-gateway").map_err(io::Error::other)?;
    let connection = ClientConnection::new(config, name).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(connection, stream);
    let mut head =
        format!("{} {} HTTP/1.1\r\nhost: koco-gateway\r\nconnection: close\r\n", sent.method, sent.path).into_bytes();
    for (name, value) in &sent.headers {
        head.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
    }
    let length = sent.length.unwrap_or(sent.body.len() as u64);
    head.extend(format!("content-length: {length}\r\n\r\n").into_bytes());
    let mut answer = Vec::new();
    // It may close the connection before it has read everything, or wait for more than there is.
    let written = stream.write_all(&[head, sent.body.clone()].concat()).and_then(|()| stream.flush());
    if written.is_ok() && !sent.is_whole() {
        stream.conn.send_close_notify();
        let _ = stream.flush();
    }
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(answer),
            Ok(n) => answer.extend(&buffer[..n]),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => return Err(e),
            Err(_) => return Ok(answer),
        }
    }
}

/// What any sequence of requests may have left of the run.
fn is_sound(before: &Value, status: &Value) -> Result<(), TestCaseError> {
    for key in ["publicKey", "podUID", "readyTime"] {
        prop_assert_eq!(&status[key], &before[key], "{}", key);
    }
    prop_assert!(status["acknowledged"]["generation"].as_i64().is_none_or(|g| (0..=1).contains(&g)), "{status}");
    prop_assert!(status["acknowledged"]["problem"].as_str().is_none_or(|p| p.len() <= MAX_MESSAGE_BYTES));
    let end = &status["termination"];
    let kinds = [json!(null), json!("Succeeded"), json!("Failed")];
    prop_assert!(kinds.contains(&end["type"]), "never commanded to evict or cancel: {end}");
    prop_assert!(end["error"]["message"].as_str().is_none_or(|m| m.len() <= MAX_MESSAGE_BYTES), "{end}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_sent_is_answered() {
    let world = World::granted().await;
    world.fake.change(|run| pause(run, 1));
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let key = PublicKey::from_spki(&rcgen::PublicKeyData::subject_public_key_info(&pair)).unwrap();
    world.fake.change(|run| run["status"]["publicKey"] = json!(key.to_string()));
    let before = world.fake.status();
    let (runner, stranger) = (tls(&world.ca, Some(&pair)), tls(&world.ca, None));
    let (fake, addr) = (world.fake.clone(), world.addr);
    let property = move |sent: Sent| {
        let config = if sent.runner { runner.clone() } else { stranger.clone() };
        let answer = send(addr, config, &sent).map_err(|e| TestCaseError::fail(format!("no answer: {e}")))?;
        let head = String::from_utf8_lossy(&answer[..answer.len().min(12)]).into_owned();
        // Nothing, where the client's own head or body ends too early.
        let known = [
            "200", "204", "400", "401", "403", "404", "405", "408", "409", "410", "413", "414", "417", "422", "429",
            "431", "503",
        ];
        let answered = head.strip_prefix("HTTP/1.1 ").is_some_and(|status| known.contains(&status.trim()));
        prop_assert!(answered || answer.is_empty() || head.starts_with("HTTP/1.1 100"), "{head}");
        let plain = sent.is_whole() && sent.method == "POST";
        let is_path = sent.path.starts_with('/') && sent.path.bytes().all(|b| b.is_ascii_graphic());
        // Of a large body that is not read, the end may reach the gateway after its answer, and cost the client that.
        let small = sent.body.len() < 10_000;
        prop_assert!(!(plain && is_path && small) || answered, "no answer to a proper request");
        let status = fake.status();
        is_sound(&before, &status)?;
        if !status["termination"].is_null() {
            fake.change(|run| run["status"] = before.clone());
        }
        Ok(())
    };
    tokio::task::spawn_blocking(move || check("requests", sent(), property)).await.unwrap();
    let pong = world.ask(http(&world.ca, world.addr, None), fixtures::run().name(), "", HEARTBEAT, waiting()).await;
    assert_eq!(answer(pong).await, (401, "NoKey".into()), "and it goes on");
    world.end().await;
}
