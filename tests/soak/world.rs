//! What a soak disturbs: two processes of each role behind cables of their own, a Temporal server, the cluster's servers,
//! the network between pods and gateways, and the pods. The harness is connected past all cables.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use k8s_openapi::api::core::v1::Pod;
use koco::api::names;
use kube::{
    ResourceExt,
    api::{DeleteParams, ListParams},
    config::Kubeconfig,
};
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::{process::Command, sync::Mutex, time::Instant};

use super::plan::{Disturbance, Kind};
use crate::harness::{
    Cable, Roles, Server, TemporalServer, Test,
    cluster::{NODE_IP, feed, kubectl, port},
    job::pod_uid,
    node,
    roles::Role,
};

const ROLES: [&str; 6] = ["gateway", "controller", "temporal-worker", "gateway", "controller", "temporal-worker"];
/// The cluster's servers that are killed, and started again even if a soak before this one was interrupted.
const SERVERS: [&str; 4] = ["etcd", "kube-apiserver", "kube-controller-manager", "kubelet"];
/// The table of our rules in the cluster's network namespace.
const TABLE: &str = "koco-soak";
/// How far a clock is stepped, in seconds.
const STEPS: [i64; 4] = [-10_800, -600, 600, 10_800];
/// How often roles that have ended by themselves are started again, as a kubelet would.
const SUPERVISE: Duration = Duration::from_secs(1);

/// A process of a role.
struct Member {
    role: Role,
    api_server: Cable,
    temporal: Cable,
    clock: PathBuf,
    /// How often it has ended by itself.
    exits: usize,
}

pub struct World<'t> {
    test: &'t Test,
    members: Vec<Mutex<Member>>,
    gateways: [u16; 2],
    pub temporal: Mutex<TemporalServer>,
    servers: Mutex<()>,
    network: Mutex<()>,
    node: Mutex<()>,
}

impl<'t> World<'t> {
    /// The roles run; gateways are behind one Service.
    pub async fn new(test: &'t Test) -> Self {
        heal().await;
        let mut temporal = TemporalServer::new("soak");
        temporal.start().await;
        let roles = Roles::of(test, Server::Own(&temporal), &ROLES);
        let gateways = [roles.gateway_port, port()];
        let url = format!("https://{}:8443", service(test, gateways));
        let mut members = Vec::new();
        for (n, mut role) in roles.list.into_iter().enumerate() {
            let (api_server, kubeconfig) = api_server(test, n).await;
            let to_temporal = Cable::to(&temporal.address).await;
            let clock = test.cluster.dev.join(format!("data/tests/{}-clock-{n}", test.namespace));
            let gateway = gateways[usize::from(n >= ROLES.len() / 2)];
            for (name, value) in [
                ("KUBECONFIG", kubeconfig.display().to_string()),
                ("TEMPORAL_ADDRESS", to_temporal.address.clone()),
                ("KOCO_GATEWAY_URL", url.clone()),
                ("KOCO_GATEWAY_ADDR", format!("{NODE_IP}:{gateway}")),
                ("KOCO_IDENTITY", format!("{}-{n}", role.name)),
                ("KOCO_TEST_CLOCK", clock.display().to_string()),
                ("KOCO_LOG", "info".into()),
            ] {
                role.process.set(name, Some(value));
            }
            role.process.start();
            members.push(Mutex::new(Member { role, api_server, temporal: to_temporal, clock, exits: 0 }));
        }
        for member in &members {
            let mut member = member.lock().await;
            // A standby never is.
            if member.role.name != "controller" {
                member.role.ready().await;
            }
        }
        let temporal = Mutex::new(temporal);
        Self {
            test,
            members,
            gateways,
            temporal,
            servers: Mutex::default(),
            network: Mutex::default(),
            node: Mutex::default(),
        }
    }

    /// Starts what has ended by itself, for ever.
    pub async fn supervise(&self) {
        loop {
            tokio::time::sleep(SUPERVISE).await;
            for member in &self.members {
                // One that is being disturbed is somebody's already.
                if let Ok(mut member) = member.try_lock()
                    && member.role.process.has_ended()
                {
                    member.exits += 1;
                    member.role.process.kill();
                    member.role.process.start();
                }
            }
        }
    }

    /// How often each role has ended by itself.
    pub async fn exits(&self) -> Vec<(String, usize)> {
        let mut all = Vec::new();
        for (n, member) in self.members.iter().enumerate() {
            let member = member.lock().await;
            all.push((format!("{}-{n}", member.role.name), member.exits));
        }
        all
    }

    /// Carries out a disturbance at its moment, or as soon as what it disturbs is not disturbed by another one. Answers
    /// what it met.
    pub async fn disturb(&self, disturbance: &Disturbance, began: Instant) -> Option<String> {
        tokio::time::sleep_until(began + disturbance.at).await;
        let Disturbance { kind, draw, .. } = *disturbance;
        let until = began + disturbance.at + disturbance.lasts;
        match kind {
            Kind::KillRole | Kind::FreezeRole | Kind::StepClock | Kind::CutApiServer | Kind::CutTemporal => {
                self.member(kind, draw, until).await
            }
            Kind::CutGateways | Kind::CutGateway => {
                let _held = self.network.lock().await;
                let ports =
                    if kind == Kind::CutGateway { vec![self.gateways[draw % 2]] } else { self.gateways.to_vec() };
                cut_off_pods(&ports).await;
                tokio::time::sleep_until(until).await;
                mend_network().await;
                Some(format!("{ports:?}"))
            }
            Kind::KillApiServer => self.server("kube-apiserver", until).await,
            Kind::KillEtcd => self.server("etcd", until).await,
            Kind::KillControllerManager => self.server("kube-controller-manager", until).await,
            Kind::KillKubelet => self.server("kubelet", until).await,
            Kind::KillTemporal => {
                let mut temporal = self.temporal.lock().await;
                temporal.kill();
                tokio::time::sleep_until(until).await;
                temporal.start().await;
                Some("temporal".into())
            }
            Kind::FreezeTemporal => {
                let temporal = self.temporal.lock().await;
                temporal.process.signal(Signal::SIGSTOP);
                tokio::time::sleep_until(until).await;
                temporal.process.signal(Signal::SIGCONT);
                Some("temporal".into())
            }
            Kind::Drain => {
                let _held = self.node.lock().await;
                let selector = format!("--pod-selector={}={}", names::LABEL_COMPONENT, names::RUNNER_COMPONENT);
                let flags = ["--force", "--delete-emptydir-data", "--ignore-daemonsets", "--timeout=20s"];
                // It may well not end: the API server is disturbed, too.
                let drained = tool("kubectl", &[&["drain", "node1", &selector], flags.as_slice()].concat()).await;
                tokio::time::sleep_until(until).await;
                uncordon().await;
                Some(drained.map_or("not all pods ended".into(), |_| "all pods".into()))
            }
            Kind::DeletePod | Kind::KillRunner | Kind::FreezeRunner | Kind::KillAgent => {
                self.pod(kind, draw, until).await
            }
        }
    }

    async fn member(&self, kind: Kind, draw: usize, until: Instant) -> Option<String> {
        let n = draw % self.members.len();
        let mut member = self.members[n].lock().await;
        // Started by the time it is stopped, unless it has just ended by itself.
        match kind {
            Kind::KillRole => {
                member.role.process.kill();
                tokio::time::sleep_until(until).await;
                member.role.process.start();
            }
            Kind::FreezeRole => {
                member.role.freeze();
                tokio::time::sleep_until(until).await;
                member.role.thaw();
            }
            Kind::StepClock => {
                let step = STEPS[draw / self.members.len() % STEPS.len()];
                std::fs::write(&member.clock, step.to_string()).expect("the clock");
                tokio::time::sleep_until(until).await;
                std::fs::write(&member.clock, "0").expect("the clock");
                return Some(format!("{}-{n} by {step} s", member.role.name));
            }
            _ => {
                let cable = if kind == Kind::CutApiServer { &member.api_server } else { &member.temporal };
                cable.cut();
                tokio::time::sleep_until(until).await;
                cable.mend();
            }
        }
        Some(format!("{}-{n}", member.role.name))
    }

    async fn server(&self, name: &str, until: Instant) -> Option<String> {
        let _held = self.servers.lock().await;
        cluster("kill", &[name]).await;
        tokio::time::sleep_until(until).await;
        cluster("start", &[name]).await;
        Some(name.into())
    }

    /// One of the pods that run now; `None` if there is none, or nobody tells which.
    async fn pod(&self, kind: Kind, draw: usize, until: Instant) -> Option<String> {
        let mut pods = self.test.pods().list(&ListParams::default()).await.ok()?.items;
        pods.retain(|pod| pod.status.as_ref().is_some_and(|s| s.phase.as_deref() == Some("Running")));
        pods.sort_by_key(Pod::name_any);
        let pod = pods.get(draw % pods.len().max(1))?;
        let uid = pod_uid(pod);
        match kind {
            Kind::DeletePod => drop(self.test.pods().delete(&pod.name_any(), &DeleteParams::default()).await.ok()?),
            Kind::KillAgent => node::signal_if_there(*node::processes(&uid, "test-agent").first()?, Signal::SIGKILL),
            _ => {
                let runner = *node::processes(&uid, "koco-runner").first()?;
                if kind == Kind::KillRunner {
                    node::signal_if_there(runner, Signal::SIGKILL);
                } else {
                    node::signal_if_there(runner, Signal::SIGSTOP);
                    tokio::time::sleep_until(until).await;
                    node::signal_if_there(runner, Signal::SIGCONT);
                }
            }
        }
        Some(pod.name_any())
    }
}

/// Puts right what an interrupted soak may have left.
pub async fn heal() {
    mend_network().await;
    cluster("start", &SERVERS).await;
    uncordon().await;
}

async fn tool(program: &str, args: &[&str]) -> Result<String, String> {
    let program = match program {
        "kubectl" => crate::harness::cluster::get().dev.join("tools/kubectl"),
        other => PathBuf::from(other),
    };
    let done = Command::new(&program).args(args).kill_on_drop(true).output().await.map_err(|e| e.to_string())?;
    match done.status.success() {
        true => Ok(String::from_utf8_lossy(&done.stdout).into_owned()),
        false => Err(format!("{} {args:?}: {}", program.display(), String::from_utf8_lossy(&done.stderr))),
    }
}

/// The script of the dev cluster. It gives up on a server that is slow to be ready, as one is whose database is down
/// meanwhile, or on a busy machine.
async fn cluster(verb: &str, servers: &[&str]) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/dev/cluster");
    for tries_left in (0..50).rev() {
        match tool(script, &[&[verb], servers].concat()).await {
            Ok(_) => return,
            Err(error) => assert!(tries_left > 0, "{error}"),
        }
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
}

async fn uncordon() {
    while tool("kubectl", &["uncordon", "node1"]).await.is_err() {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

async fn mend_network() {
    // There may be none.
    let _ = tool("nft", &["delete", "table", "inet", TABLE]).await;
}

/// Drops what pods send to these ports of the node.
async fn cut_off_pods(ports: &[u16]) {
    let ports = ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
    let rule = format!("ip saddr != {NODE_IP} tcp dport {{ {ports} }} drop");
    let rules = format!("table inet {TABLE} {{\nchain input {{\ntype filter hook input priority -10\n{rule}\n}}\n}}");
    tool("nft", &[&rules]).await.unwrap_or_else(|e| panic!("{e}"));
}

/// A Service without a selector, for gateways that are no pods. Answers its address.
fn service(test: &Test, gateways: [u16; 2]) -> String {
    let ns = &test.namespace;
    let mut objects = vec![json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "gateway", "namespace": ns },
        "spec": { "ports": [{ "name": "https", "port": 8443 }] },
    })];
    for (n, port) in gateways.iter().enumerate() {
        objects.push(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": { "name": format!("gateway-{n}"), "namespace": ns, "labels": { "kubernetes.io/service-name": "gateway" } },
            "addressType": "IPv4", "ports": [{ "name": "https", "port": port }],
            "endpoints": [{ "addresses": [NODE_IP], "conditions": { "ready": true } }],
        }));
    }
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects }).to_string();
    feed(&test.cluster.dev, "kubectl", &["create", "-f", "-"], list.as_bytes()).expect("a service");
    let address = ["get", "service", "gateway", "-n", ns, "-o", "jsonpath={.spec.clusterIP}"];
    kubectl(&address).expect("its address")
}

/// A cable to the API server, and a kubeconfig that leads through it.
async fn api_server(test: &Test, n: usize) -> (Cable, PathBuf) {
    let file = std::env::var("KUBECONFIG").expect("KUBECONFIG");
    let mut config = Kubeconfig::read_from(Path::new(&file)).expect("a kubeconfig");
    let server = config.clusters[0].cluster.as_mut().and_then(|c| c.server.as_mut()).expect("a server");
    let cable = Cable::to(server.trim_start_matches("https://")).await;
    *server = format!("https://{}", cable.address);
    let folder = test.cluster.dev.join("data/tests");
    std::fs::create_dir_all(&folder).expect("a folder");
    let file = folder.join(format!("{}-kubeconfig-{n}", test.namespace));
    std::fs::write(&file, serde_json::to_string(&config).expect("JSON")).expect("a kubeconfig");
    (cable, file)
}
