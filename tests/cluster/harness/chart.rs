//! The chart's rights for one test: accounts, roles and policies as Helm would install them, in a namespace of their own
//! and for the test's namespace alone. The audit log then distinguishes the roles, and they can do no more than the chart
//! allows.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Roles, Server, Test, audit,
    cluster::{IMAGE, NODE_IP, feed, kubectl, port, run},
    roles::Role,
};

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/koco");
/// What of the chart is installed: no deployments, for the roles are processes of the test.
const KINDS: [&str; 9] = [
    "ServiceAccount",
    "Role",
    "RoleBinding",
    "ClusterRole",
    "ClusterRoleBinding",
    "Secret",
    "ConfigMap",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
];

/// Installed until it is dropped.
pub struct Chart<'t> {
    test: &'t Test,
    /// The operator's: jobs are not served there.
    pub namespace: String,
    release: String,
    deployments: Vec<Value>,
}

impl<'t> Chart<'t> {
    pub fn install(test: &'t Test) -> Self {
        Self::install_with(test, "")
    }

    /// With further values, as helm's `--set` takes them.
    pub fn install_with(test: &'t Test, values: &str) -> Self {
        let random = &test.namespace[test.namespace.len() - 5..];
        let (namespace, release) = (audit::operators(&test.namespace), format!("koco-{random}"));
        let mut chart = Self { test, namespace, release, deployments: Vec::new() };
        let dev = &test.cluster.dev;
        kubectl(&["create", "namespace", &chart.namespace]).expect("a namespace");
        let namespaces = format!("watchNamespaces={{{}}}", test.namespace);
        let args = ["template", &chart.release, CHART, "--namespace", &chart.namespace, "--set", &namespaces];
        let image = format!("runner.image={IMAGE}");
        let more = ["--set", "crds.install=false", "--set", "temporal.address=temporal:7233", "--set", &image];
        let text = run(dev, "helm", &[args.as_slice(), &more, &["--set", values]].concat()).expect("helm template");
        let documents = serde_yaml_ng::Deserializer::from_str(&text);
        let objects: Vec<Value> = documents.map(|d| Value::deserialize(d).expect("YAML")).collect();
        let of = |kinds: &[&str]| -> Vec<Value> {
            objects.iter().filter(|o| o["kind"].as_str().is_some_and(|kind| kinds.contains(&kind))).cloned().collect()
        };
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": of(&KINDS) });
        chart.deployments = of(&["Deployment"]);
        feed(dev, "kubectl", &["apply", "--server-side", "-f", "-"], list.to_string().as_bytes())
            .expect("kubectl apply");
        chart
    }

    /// The account of a role, as the API server calls it.
    pub fn user(&self, role: &str) -> String {
        format!("system:serviceaccount:{}:{}", self.namespace, self.account(role))
    }

    /// The account of a role, by the name of its command.
    pub fn account(&self, role: &str) -> String {
        format!("{}-{}", self.release, if role == "temporal-worker" { "worker" } else { role })
    }

    /// A process for each role, each with its own account. They run.
    pub async fn roles(&self, temporal: Server<'_>) -> Roles {
        let mut roles = self.processes(temporal);
        roles.start().await;
        roles
    }

    /// The same with all settings that Helm gives them, but for the addresses. For benches, which have the servers alone.
    #[allow(dead_code)] // benches/jobs asks
    pub async fn roles_as_installed(&self, temporal: Server<'_>) -> Roles {
        let mut roles = self.processes(temporal);
        roles.list.iter_mut().for_each(|role| self.set_as_installed(role));
        roles.start().await;
        // Those for all namespaces, which the servers came with, would be asked beside the release's own.
        let kinds = "validatingadmissionpolicies,validatingadmissionpolicybindings";
        kubectl(&["delete", kinds, "-l", "app.kubernetes.io/instance=koco"]).expect("no policies twice");
        roles
    }

    /// Adds a process of a role, with the settings that Helm gives it; it is not started. Answers where a gateway will
    /// serve runners.
    #[allow(dead_code)] // benches/jobs asks
    pub fn one_more(&self, roles: &mut Roles, temporal: Server<'_>, name: &'static str) -> String {
        let n = roles.add(self.test, temporal, name);
        let (role, address) = (&mut roles.list[n], format!("{NODE_IP}:{}", port()));
        self.act_as(role);
        self.set_as_installed(role);
        role.process.set("KOCO_GATEWAY_ADDR", Some(address.clone()));
        address
    }

    /// Processes that don't run yet.
    fn processes(&self, temporal: Server<'_>) -> Roles {
        let mut roles = Roles::separate(self.test, temporal);
        roles.list.iter_mut().for_each(|role| self.act_as(role));
        roles
    }

    /// With the account of its role.
    fn act_as(&self, role: &mut Role) {
        let kubeconfig = self.kubeconfig(role.name).display().to_string();
        role.process.set("KUBECONFIG", Some(kubeconfig));
        role.process.set("KOCO_NAMESPACE", Some(self.namespace.clone()));
    }

    fn set_as_installed(&self, role: &mut Role) {
        let name = self.account(role.name);
        let found = self.deployments.iter().find(|d| d["metadata"]["name"] == name.as_str()).expect("a deployment");
        let variables = &found["spec"]["template"]["spec"]["containers"][0]["env"];
        for variable in variables.as_array().expect("an environment") {
            let text = |key: &str| variable[key].as_str();
            if let (Some(name), Some(value)) = (text("name"), text("value"))
                && !name.ends_with("_ADDR")
                && !name.ends_with("_ADDRESS")
                && !name.ends_with("_URL")
            {
                role.process.set(name, Some(value.into()));
            }
        }
    }

    /// That of the administrator, with a token of the role's account instead of his credentials.
    fn kubeconfig(&self, role: &str) -> PathBuf {
        let ns = self.namespace.as_str();
        let token = kubectl(&["create", "token", &self.account(role), "-n", ns]).expect("a token");
        let text = std::fs::read_to_string(std::env::var("KUBECONFIG").expect("KUBECONFIG")).expect("the kubeconfig");
        let mut config: Value = serde_yaml_ng::from_str(&text).expect("a kubeconfig");
        config["users"][0]["user"] = json!({ "token": token.trim() });
        let path = self.test.cluster.dev.join(format!("data/tests/kubeconfig-{ns}-{role}"));
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(&path, config.to_string()).expect("a kubeconfig");
        path
    }
}

impl Drop for Chart<'_> {
    fn drop(&mut self) {
        // Objects in the namespaces are deleted with them.
        let _ = kubectl(&["delete", "namespace", &self.namespace, "--wait=false"]);
        let kinds = "clusterroles,clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings";
        let label = format!("app.kubernetes.io/instance={}", self.release);
        let _ = kubectl(&["delete", kinds, "-l", &label, "--wait=false"]);
        for role in ["controller", "gateway", "temporal-worker"] {
            let file = format!("data/tests/kubeconfig-{}-{role}", self.namespace);
            let _ = std::fs::remove_file(self.test.cluster.dev.join(file));
        }
    }
}
