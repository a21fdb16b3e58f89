//! One test's part of the cluster: a namespace of its own, which is deleted with it, unless the servers are, too.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
};

use k8s_openapi::api::core::v1::{Namespace, Pod, ServiceAccount};
use koco::api::AgentRun;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, PostParams},
};
use serde_json::{Value, json};

use super::{
    AgentJob, Job, cluster,
    cluster::{Cluster, kubectl},
    dump,
    job::manifest,
    roles::{Roles, Server},
    wait::{DEADLINE, within},
};

const LABEL: &str = "koco-test";

pub struct Test {
    pub cluster: &'static Cluster,
    pub namespace: String,
    pub client: Client,
    /// Where the operator of this test logs.
    pub log: PathBuf,
    jobs: AtomicU32,
}

impl Test {
    /// A namespace, and nothing in it.
    pub async fn new() -> Self {
        let cluster = cluster::get();
        let thread = std::thread::current().name().unwrap_or("test").to_string();
        // The module's name, too: two of them may have tests of the same name.
        let mut parts: Vec<&str> = thread.rsplit("::").take(2).collect();
        parts.reverse();
        let name: String = parts.join("-").replace('_', "-").chars().take(52).collect();
        let name = name.trim_matches('-');
        let namespace = format!("t-{name}-{}", suffix());
        let folder = cluster.dev.join("log/tests");
        std::fs::create_dir_all(&folder).expect("the logs' folder");
        let log = folder.join(format!("{name}.log"));
        std::fs::write(&log, format!("--- {thread} in {namespace}\n")).expect("the log");
        let client = Client::try_default().await.expect("a client");
        let object: Namespace = serde_json::from_value(json!({
            "metadata": { "name": namespace, "labels": { LABEL: name } },
        }))
        .expect("a namespace");
        Api::all(client.clone()).create(&PostParams::default(), &object).await.expect("a namespace");
        let test = Self { cluster, namespace, client, log, jobs: AtomicU32::new(0) };
        // Pods are refused before.
        let accounts: Api<ServiceAccount> = Api::namespaced(test.client.clone(), &test.namespace);
        within(DEADLINE, "the namespace's service account", async || {
            accounts.get_opt("default").await.expect("get").ok_or("none")
        })
        .await;
        test
    }

    /// With an operator in one process, and the shared Temporal server.
    pub async fn with_operator() -> (Self, Roles) {
        let test = Self::new().await;
        let roles = test.operator(Server::Shared).await;
        (test, roles)
    }

    /// An operator in one process.
    pub async fn operator(&self, temporal: Server<'_>) -> Roles {
        let mut roles = Roles::all_in_one(self, temporal);
        roles.start().await;
        roles
    }

    /// An operator with a process for each role.
    pub async fn separate_roles(&self, temporal: Server<'_>) -> Roles {
        let mut roles = Roles::separate(self, temporal);
        roles.start().await;
        roles
    }

    pub fn jobs(&self) -> Api<AgentJob> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Jobs as they are on the wire, for what the Rust types would not allow.
    pub fn raw_jobs(&self) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.namespace, &ApiResource::erase::<AgentJob>(&()))
    }

    pub fn runs(&self) -> Api<AgentRun> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// A name for the next job.
    pub fn next_name(&self) -> String {
        format!("job{}", self.jobs.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Applies a job with this spec.
    pub async fn apply(&self, spec: Value) -> Job<'_> {
        self.apply_as(&self.next_name(), spec).await
    }

    pub async fn apply_as(&self, name: &str, spec: Value) -> Job<'_> {
        let object: DynamicObject = serde_json::from_value(manifest(name, spec)).expect("a manifest");
        let made = self.raw_jobs().create(&PostParams::default(), &object).await;
        let made = made.unwrap_or_else(|e| panic!("job {name} was refused: {e}"));
        Job::new(self, name, made.metadata.uid.as_deref().expect("a UID"))
    }
}

impl Drop for Test {
    fn drop(&mut self) {
        if std::thread::panicking() {
            dump::print(&self.namespace, &[&self.log]);
        }
        if cluster::END_WITH_THE_TESTS {
            return;
        }
        // The operator has ended before, so the finalizers must be removed here.
        let ns = self.namespace.as_str();
        let names = kubectl(&["get", "agentjobs", "-n", ns, "-o", "name"]).unwrap_or_default();
        for name in names.lines() {
            let none = r#"{"metadata":{"finalizers":null}}"#;
            let _ = kubectl(&["patch", name, "-n", ns, "--type=merge", "-p", none]);
        }
        let _ = kubectl(&["delete", "pods", "--all", "-n", ns, "--grace-period=1", "--wait=false"]);
        let _ = kubectl(&["delete", "namespace", ns, "--wait=false"]);
    }
}

fn suffix() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let n = u64::from(COUNT.fetch_add(1, Ordering::Relaxed)) * 7919 + super::agent_log::now();
    format!("{:05x}", n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 44)
}
