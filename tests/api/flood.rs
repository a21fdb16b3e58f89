//! One pod can't take the gateway from the others: large bodies and slow requests, with a valid token of another
//! namespace's pod and a key that no run knows.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt, future::join_all, stream};
use koco::{
    api::{RunnerState, names},
    protocol::runner::verb,
};
use reqwest::{Body, Client};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use crate::{
    harness::{
        ApiProxy, DEADLINE, Kubelet, Phase, Roles, Server, Test, agent,
        api_proxy::Fault,
        by_hand::{Heart, bare_pod, in_hand, started, succeeds},
        cluster::NODE_IP,
        gateway_client::{self, run_path, token},
        job::{With, error_type, pod_name},
        within,
    },
    memory::peak,
};

/// What a gateway may take in the chart is 512 MiB; a quarter of it is left to everybody else.
const MEMORY_KIB: u64 = 128 * 1024;
const LARGE: usize = 40;
const SLOW: usize = 1030;
/// Another address than the runner's, as another pod has.
const ATTACKER: [u8; 4] = [127, 0, 0, 2];

/// A body that begins, and then doesn't go on.
fn stalls() -> Body {
    let begin = stream::iter([Ok::<_, std::io::Error>("{")]);
    Body::wrap_stream(begin.chain(stream::pending()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_large_and_slow_requests_reaches_no_other_runner() {
    let (test, elsewhere) = (Test::new().await, Test::new().await);
    let mut roles = Roles::of(&test, Server::None, &["gateway", "controller"]);
    roles.start().await;
    let (kubelet, job) = (Kubelet::of(&test), test.apply(agent("anything")).await);
    let (_pod, runner) = started(&kubelet, &job, 1).await;

    bare_pod(&elsewhere, "attacker", serde_json::json!({})).await;
    let token = token(&test.client, &elsewhere.namespace, Some(names::GATEWAY_AUDIENCE), Some("attacker")).await;
    let attacker: Client = gateway_client::client(&test, &roles, Some(IpAddr::from(ATTACKER))).await;
    let (port, gateway) = (roles.gateway_port, roles.role("gateway").process.pid());
    let url = |verb: &str| format!("https://{}:{port}{}", names::GATEWAY_TLS_NAME, run_path(&job, 1).path(verb));
    let flood = |count: usize, verb: &'static str, body: fn() -> Body| {
        let requests = (0..count).map(|_| attacker.post(url(verb)).bearer_auth(&token).body(body()).send());
        tokio::spawn(futures::future::join_all(requests.collect::<Vec<_>>()))
    };
    let large = flood(LARGE, verb::END, || Body::from(vec![b'['; 1 << 20]));
    let slow = [flood(SLOW / 2, verb::REGISTER, stalls), flood(SLOW / 2, verb::HEARTBEAT, stalls)];
    for _ in 0..20 {
        runner.heartbeat(RunnerState::Running, 0).await.expect("an answer to a heartbeat");
        // A connection of its own.
        drop(runner.messages().await.expect("a stream"));
    }
    let refused = large.await.expect("the large requests");
    assert!(refused.iter().flatten().all(|answer| answer.status().is_client_error() || answer.status() == 503));
    let used = peak(gateway);
    assert!(used < MEMORY_KIB, "{used} KiB");
    slow.iter().for_each(tokio::task::JoinHandle::abort);
    // Those who left hold nothing.
    within(DEADLINE, "a stranger to be answered", async || {
        let answer = attacker.post(url(verb::HEARTBEAT)).body("{}").send().await.map_err(|e| e.to_string())?;
        if answer.status() == 403 { Ok(()) } else { Err(answer.status().to_string()) }
    })
    .await;
    runner.heartbeat(RunnerState::Running, 0).await.expect("204");
}

/// Waits for an answer and writes down its code.
async fn asks(request: reqwest::RequestBuilder, codes: &Mutex<BTreeSet<u16>>) {
    if let Ok(answer) = request.send().await {
        codes.lock().expect("the codes").insert(answer.status().as_u16());
    }
}

/// What strangers make go wrong says nothing of a runner: one without a key, one whose token the API server is slow to
/// review, and one whose body doesn't come.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_hold_up_no_verdict_and_bring_none_about() {
    let test = Test::new().await;
    let mut roles = Roles::of(&test, Server::None, &["gateway", "controller"]);
    let hangs = Arc::new(AtomicBool::new(false));
    let hang = hangs.clone();
    let proxy = ApiProxy::start(&test, move |asked| {
        let review = asked.uri.path().ends_with("/tokenreviews");
        if review && hang.load(Ordering::Relaxed) { Fault::Unanswered } else { Fault::None }
    })
    .await;
    roles.role("gateway").process.set("KUBECONFIG", Some(proxy.kubeconfig.display().to_string()));
    roles.start().await;
    let kubelet = Kubelet::of(&test);
    let spec = || agent("anything").heartbeat("6s").with(json!({ "retryPolicy": { "maximumAttempts": 1 } }));
    let (live, silent, other) =
        (test.apply(spec()).await, test.apply(spec()).await, test.apply(agent("anything")).await);
    let (pod, runner) = started(&kubelet, &live, 1).await;
    let (runner, _heart) = Heart::of(runner);
    let (_silent, last) = Heart::of(started(&kubelet, &silent, 1).await.1);
    let (slow, _not_registered) = in_hand(&kubelet, &other, 1).await;

    let attacker = gateway_client::client(&test, &roles, Some(IpAddr::from(ATTACKER))).await;
    let (name, port) = (pod_name(&slow), roles.gateway_port);
    let token = token(&test.client, &test.namespace, Some(names::GATEWAY_AUDIENCE), Some(&name)).await;
    let url = format!("https://{}:{port}{}", names::GATEWAY_TLS_NAME, run_path(&other, 1).path(verb::REGISTER));
    let codes = Mutex::new(BTreeSet::new());
    let pause = || tokio::time::sleep(Duration::from_millis(100));
    let unknown = async |from: usize| {
        for n in 0.. {
            asks(attacker.post(&url).bearer_auth(format!("{from}.{n}.x")).body("{}"), &codes).await;
            pause().await;
        }
    };
    let stalling = async || loop {
        asks(attacker.post(&url).bearer_auth(&token).body(stalls()), &codes).await;
        pause().await;
    };
    // Its token is reviewed before the API server hangs.
    asks(attacker.post(&url).bearer_auth(&token).body(stalls()), &codes).await;
    asks(attacker.post(&url).bearer_auth("un.kno.wn").body("{}"), &codes).await;
    hangs.store(true, Ordering::Relaxed);
    drop(last);
    let failed = tokio::select! {
        status = silent.phase(Phase::Failed) => status,
        _ = join_all((0..8).map(&unknown)) => unreachable!(),
        _ = join_all((0..4).map(|_| stalling())) => unreachable!(),
    };
    assert_eq!(error_type(&failed), "HeartbeatTimeout");
    let codes = codes.into_inner().expect("the codes");
    assert!([401, 408, 503].iter().all(|code| codes.contains(code)), "{codes:?}");
    succeeds(&kubelet, &live, &pod, &runner, json!(1)).await;
}

/// Connects from this address, and says nothing.
async fn idle(port: u16, from: [u8; 4]) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((from, 0).into()).expect("an address");
    let gateway = format!("{NODE_IP}:{port}").parse().expect("an address");
    socket.connect(gateway).await.expect("a connection")
}

/// Waits until the gateway closes it.
async fn is_closed(connection: &mut TcpStream) {
    // A reset is an end, too.
    let _ = connection.read(&mut [0]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_address_gets_only_so_many_connections() {
    let test = Test::new().await;
    let mut roles = Roles::of(&test, Server::None, &["gateway", "controller"]);
    roles.start().await;
    let (mut first, mut others) = (idle(roles.gateway_port, [127, 0, 0, 3]).await, Vec::new());
    for _ in 0..200 {
        others.push(idle(roles.gateway_port, [127, 0, 0, 3]).await);
    }
    let mut last = others.pop().expect("a connection");
    // Without a limit the first would end first, when its handshake takes too long.
    tokio::select! {
        biased;
        () = is_closed(&mut first) => panic!("the last one was let in"),
        () = is_closed(&mut last) => {}
    }
    let (kubelet, job) = (Kubelet::of(&test), test.apply(agent("anything")).await);
    started(&kubelet, &job, 1).await;
}

/// Together they have more than all the places that there are for strangers, and a runner that connects is one. All are
/// younger than what a handshake may take.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_number_of_addresses_keeps_a_runner_out() {
    let test = Test::new().await;
    let mut roles = Roles::of(&test, Server::None, &["gateway", "controller"]);
    roles.start().await;
    let (kubelet, job) = (Kubelet::of(&test), test.apply(agent("anything")).await);
    let (_pod, runner) = in_hand(&kubelet, &job, 1).await;
    let mut held = Vec::new();
    for address in 10..20 {
        for _ in 0..128 {
            held.push(idle(roles.gateway_port, [127, 0, 0, address]).await);
        }
    }
    runner.register(RunnerState::Waiting, 0).await.expect("an answer at once");
}

/// Of connections that are never ended, a role would have one too many some day, and its probes would fail.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_connection_to_the_health_port_is_ended_and_no_number_of_them_keeps_probes_out() {
    let test = Test::new().await;
    let mut roles = Roles::of(&test, Server::None, &["controller"]);
    roles.start().await;
    let health = roles.list[0].health;
    let mut begun = idle(health, [127, 0, 0, 3]).await;
    begun.write_all(b"GET /metrics HTTP/1.1\r\nHost:").await.expect("half a request");
    let mut held = Vec::new();
    for address in 10..15 {
        for _ in 0..32 {
            held.push(idle(health, [127, 0, 0, address]).await);
        }
    }
    roles.list[0].metrics().await;
    tokio::time::timeout(DEADLINE, is_closed(&mut begun)).await.expect("it is ended");
}
