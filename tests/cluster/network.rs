//! The NetworkPolicy of agents' pods in a network that enforces it. What is there and how it stays there, the API tier
//! tests.

use std::{collections::BTreeMap, net::TcpListener};

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::PostParams};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::harness::{
    DEADLINE, Roles, Server, Test, agent,
    cluster::{AGENT_IMAGE, NODE_IP, run},
    job::{Job, pod_name},
    within,
};

/// The addresses of pods, without the node's.
const PODS: &str = "10.244.0.2/31,10.244.0.4/30,10.244.0.8/29,10.244.0.16/28,10.244.0.32/27,10.244.0.64/26,\
    10.244.0.128/25,10.244.1.0/24,10.244.2.0/23";
const WORLD: &str = "203.0.113.1";
const METADATA: &str = "169.254.169.254";

/// The policy that the chart gives the controller of a release in this namespace; its gateway also listens on the node.
fn policy(test: &Test, namespace: &str, gateway_port: u16) -> String {
    let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/koco");
    let node = json!([{ "to": [{ "ipBlock": { "cidr": format!("{NODE_IP}/32") } }],
        "ports": [{ "port": gateway_port, "protocol": "TCP" }] }]);
    let egress = format!("agents.networkPolicy.egress={node}");
    let blocked = format!("agents.networkPolicy.blockedRanges={{{METADATA}/32,{PODS}}}");
    let temporal = format!("temporal.address={NODE_IP}:7233");
    let args = ["template", "koco", chart, "--namespace", namespace, "--set", "agents.networkPolicy.enabled=true"];
    let more = ["--set", &blocked, "--set", &temporal, "--set-json", &egress];
    let text = run(&test.cluster.dev, "helm", &[args.as_slice(), &more].concat()).expect("helm template");
    let objects = serde_yaml_ng::Deserializer::from_str(&text).map(|d| Value::deserialize(d).expect("YAML"));
    let named = |o: &Value| o["kind"] == "Deployment" && o["metadata"]["name"] == "koco-controller";
    let controller = objects.into_iter().find(named).expect("the controller");
    let env = controller["spec"]["template"]["spec"]["containers"][0]["env"].as_array().cloned().unwrap_or_default();
    let ours = env.into_iter().find(|e| e["name"] == "KOCO_AGENT_NETWORK_POLICY").expect("a policy");
    ours["value"].as_str().expect("text").to_string()
}

/// An address of the node outside of the cluster's network, with somebody who listens there until the test ends.
fn listen(address: &str) -> u16 {
    let listener = TcpListener::bind((address, 0)).expect("an address of the node");
    let port = listener.local_addr().expect("a port").port();
    std::thread::spawn(move || listener.incoming().for_each(drop));
    port
}

/// The address of a pod.
async fn address(api: &Api<Pod>, name: &str) -> String {
    within(DEADLINE, "the pod's address", async || {
        let pod = api.get(name).await.map_err(|e| e.to_string())?;
        pod.status.and_then(|s| s.pod_ip).ok_or("none yet".to_string())
    })
    .await
}

/// A pod that passes for a gateway of the release in this namespace.
async fn gateway(test: &Test) -> String {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": { "name": "gateway", "labels": { "app.kubernetes.io/name": "koco",
            "app.kubernetes.io/instance": "koco", "app.kubernetes.io/component": "gateway" } },
        "spec": { "containers": [{ "name": "gateway", "image": AGENT_IMAGE, "command": ["/test-agent"],
            "env": [{ "name": "KODO_ENTRY_POINT", "value": "listen?port=8443" }] }] },
    }))
    .expect("a pod");
    test.pods().create(&PostParams::default(), &pod).await.expect("a pod");
    address(&test.pods(), "gateway").await
}

/// A job whose agent takes connections, and where.
async fn listener(test: &Test) -> (Job<'_>, String) {
    let job = test.apply(agent("listen?port=8000")).await;
    let pod = job.running_pod().await;
    let ip = address(&test.pods(), &pod_name(&pod)).await;
    (job, format!("{ip}:8000"))
}

/// Waits until the job's agent reaches these of its targets, and no others.
async fn reaches(job: &Job<'_>, wanted: &[&str]) {
    let wanted: Vec<&str> = wanted.to_vec();
    job.until_log(&format!("just {wanted:?} to be reached"), |log| {
        let last = log.lines().rev().find_map(|line| line.strip_prefix("reach "))?;
        let told: BTreeMap<&str, bool> =
            last.split(' ').filter_map(|t| t.split_once('=')).map(|(name, yes)| (name, yes == "true")).collect();
        told.iter().all(|(name, yes)| wanted.contains(name) == *yes).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_reach_what_the_policy_allows_and_nothing_else() {
    let (test, open) = (Test::new().await, Test::new().await);
    let mut roles = Roles::all_in_one(&test, Server::None);
    let spec = policy(&test, &open.namespace, roles.gateway_port);
    roles.set("KOCO_AGENT_NETWORK_POLICY", &spec);
    let mut unlimited = Roles::all_in_one(&open, Server::None);
    let (gateway, ()) = tokio::join!(gateway(&open), async {
        tokio::join!(roles.start(), unlimited.start());
    });
    let ((_theirs, closed_agent), (_other, open_agent)) = tokio::join!(listener(&test), listener(&open));
    let (world, metadata) = (listen(WORLD), listen(METADATA));
    let targets = [
        format!("dns@10.96.0.10:53,gateway@{gateway}:8443,world@{WORLD}:{world}"),
        format!("api@{NODE_IP}:6443,service@10.96.0.1:443,temporal@{NODE_IP}:7233,metadata@{METADATA}:{metadata}"),
        format!("agent@{closed_agent},other@{open_agent}"),
    ];
    let probe = agent(&format!("reach?to={}", targets.join(",")));
    let (limited, free) = (test.apply(probe.clone()).await, open.apply(probe).await);
    // Without the policy all is there to be reached, but for the agent of a namespace that has it.
    let all = ["dns", "gateway", "world", "api", "service", "temporal", "metadata", "other"];
    reaches(&free, &all).await;
    reaches(&limited, &["dns", "gateway", "world"]).await;
    // And the policy is why.
    roles.kill_all();
    let args = ["delete", "networkpolicy", "koco-agents", "-n", &test.namespace];
    run(&test.cluster.dev, "kubectl", &args).expect("a deletion");
    let everything = [all.as_slice(), &["agent"]].concat();
    reaches(&limited, &everything).await;
    reaches(&free, &everything).await;
    drop(unlimited);
}
