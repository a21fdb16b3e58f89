//! The test's server: its archive and the events in it, as those read them who may.

use std::net::IpAddr;

use k8s_openapi::api::{
    core::v1::{ConfigMap, ServiceAccount},
    rbac::v1::{Role, RoleBinding},
};
use koco::api::names;
use kube::{Api, api::PostParams};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{DEADLINE, Job, Roles, Test, cluster::NODE_IP, gateway_client::token_of, within};

/// Has the gateways of a test pass events on to its server, from their next start on.
pub async fn keep_events(test: &Test, roles: &mut Roles) {
    account(test, &test.namespace, "gateway", &[], &[]).await;
    let file = test.cluster.dev.join(format!("data/tests/{}-token", test.namespace));
    std::fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
    std::fs::write(&file, token(test, "gateway").await).expect("the token");
    roles.set("KOCO_SERVER_URL", &format!("https://{NODE_IP}:{}", roles.server_port));
    roles.set("KOCO_SERVER_TOKEN_FILE", &file.display().to_string());
    roles.set("KOCO_SERVER_GATEWAYS", &format!("system:serviceaccount:{}:gateway", test.namespace));
}

/// A client of the test's server.
pub struct Reader {
    client: reqwest::Client,
    port: u16,
}

impl Reader {
    pub async fn of(test: &Test, roles: &Roles) -> Self {
        Self::from_address(test, roles, None).await
    }

    /// One that speaks from this address.
    pub async fn from_address(test: &Test, roles: &Roles, from: Option<IpAddr>) -> Self {
        let maps: Api<ConfigMap> = Api::namespaced(test.client.clone(), &test.namespace);
        let map = within(DEADLINE, "the server's CA", async || {
            maps.get_opt(names::SERVER_CA).await.expect("get").ok_or("none")
        })
        .await;
        let _ = rustls::crypto::ring::default_provider().install_default();
        let ca = map.data.expect("data")["ca.crt"].clone();
        let client = reqwest::Client::builder()
            .tls_certs_only(reqwest::Certificate::from_pem_bundle(ca.as_bytes()).expect("a certificate"))
            .resolve(names::SERVER_TLS_NAME, format!("{NODE_IP}:{}", roles.server_port).parse().expect("an address"))
            .local_address(from)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .expect("a client");
        Self { client, port: roles.server_port }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// A request as a browser may send it, with these headers.
    pub async fn browse(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> reqwest::Response {
        let url = format!("https://{}:{}{path}", names::SERVER_TLS_NAME, self.port);
        let request = self.client.request(method.parse().expect("a method"), url).body(body.to_string());
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        request.send().await.expect("an answer")
    }

    pub async fn send(&self, method: &str, path: &str, token: Option<&str>) -> (u16, Value) {
        let url = format!("https://{}:{}{path}", names::SERVER_TLS_NAME, self.port);
        let request = self.client.request(method.parse().expect("a method"), url);
        let request = token.into_iter().fold(request, reqwest::RequestBuilder::bearer_auth);
        let answer = request.send().await.expect("an answer");
        let status = answer.status().as_u16();
        let body = answer.bytes().await.expect("a body");
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    /// The answer to a request with these headers, whatever it is.
    pub async fn ask(&self, path: &str, headers: &[(&str, &str)]) -> reqwest::Response {
        let request = self.client.get(format!("https://{}:{}{path}", names::SERVER_TLS_NAME, self.port));
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        request.send().await.expect("an answer")
    }

    /// Sends a body.
    pub async fn post(&self, path: &str, token: Option<&str>, kind: &str, body: String) -> (u16, Value) {
        let url = format!("https://{}:{}{path}", names::SERVER_TLS_NAME, self.port);
        let request = self.client.post(url).header("content-type", kind).body(body);
        let request = token.into_iter().fold(request, reqwest::RequestBuilder::bearer_auth);
        let answer = request.send().await.expect("an answer");
        let status = answer.status().as_u16();
        (status, serde_json::from_slice(&answer.bytes().await.expect("a body")).unwrap_or_default())
    }

    /// All events of an execution as they come, after one of them.
    pub async fn stream(&self, fid: &str, token: &str, after: Option<&str>) -> reqwest::Response {
        self.try_stream(fid, token, after).await.expect("an answer")
    }

    /// The same from a server that may not answer.
    pub async fn try_stream(&self, fid: &str, token: &str, after: Option<&str>) -> reqwest::Result<reqwest::Response> {
        let url = format!("https://{}:{}/api/v1/executions/{fid}/events", names::SERVER_TLS_NAME, self.port);
        let request = self.client.get(url).bearer_auth(token).header("accept", "text/event-stream");
        let request = after.into_iter().fold(request, |request, id| request.header("last-event-id", id));
        request.send().await
    }

    /// All events of an execution that there are, page by page.
    pub async fn events(&self, fid: &str, token: &str) -> Vec<Stored> {
        let (mut all, mut after) = (Vec::new(), 0);
        loop {
            let path = format!("/api/v1/executions/{fid}/events?after={after}&limit=1000");
            let page = within(DEADLINE, "a page of events", async || match self.get(&path, token).await {
                (200, page) => Ok(page),
                other => Err(other),
            });
            let page = page.await;
            let items: Vec<Stored> = Deserialize::deserialize(&page["items"]).expect("items");
            if items.is_empty() {
                return all;
            }
            all.extend(items);
            after = page["after"].as_i64().expect("a number");
        }
    }

    pub async fn get(&self, path: &str, token: &str) -> (u16, Value) {
        self.send("GET", path, Some(token)).await
    }

    /// An execution once it is so.
    pub async fn until(&self, fid: &str, token: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let path = format!("/api/v1/executions/{fid}");
        within(DEADLINE, &format!("{what} ({fid} in the archive)"), async || match self.get(&path, token).await {
            (200, found) if holds(&found) => Ok(found),
            other => Err(other),
        })
        .await
    }
}

/// An account with these rights in a namespace: verbs of `agentjobs/events`, for jobs of these names or all.
pub async fn account(test: &Test, namespace: &str, name: &str, verbs: &[&str], jobs: &[&str]) {
    let accounts: Api<ServiceAccount> = Api::namespaced(test.client.clone(), &test.namespace);
    let account: ServiceAccount = serde_json::from_value(json!({ "metadata": { "name": name } })).expect("an account");
    if accounts.get_opt(name).await.expect("get").is_none() {
        accounts.create(&PostParams::default(), &account).await.expect("an account");
    }
    if verbs.is_empty() {
        return;
    }
    let mut rule = json!({ "apiGroups": ["kodosumi.io"], "resources": ["agentjobs/events"], "verbs": verbs });
    if !jobs.is_empty() {
        rule["resourceNames"] = json!(jobs);
    }
    let meta = json!({ "name": name });
    let role = json!({ "metadata": meta, "rules": [rule] });
    let binding = json!({ "metadata": meta,
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name },
        "subjects": [{ "kind": "ServiceAccount", "name": name, "namespace": test.namespace }] });
    let roles: Api<Role> = Api::namespaced(test.client.clone(), namespace);
    roles.create(&PostParams::default(), &serde_json::from_value(role).expect("a role")).await.expect("a role");
    let bindings: Api<RoleBinding> = Api::namespaced(test.client.clone(), namespace);
    let binding = serde_json::from_value(binding).expect("a binding");
    bindings.create(&PostParams::default(), &binding).await.expect("a binding");
}

pub async fn token(test: &Test, account: &str) -> String {
    token_of(&test.client, &test.namespace, account, Some(names::SERVER_AUDIENCE), None).await
}

/// The token of an account that may read and delete the executions of the test's namespace.
pub async fn owner(test: &Test) -> String {
    account(test, &test.namespace, "owner", &["get", "delete"], &[]).await;
    token(test, "owner").await
}

pub async fn fid(job: &Job<'_>) -> String {
    let job = job.get().await;
    let created = job.metadata.creation_timestamp.as_ref().expect("a time").0.as_second();
    koco::api::fid(created, job.uid())
}

/// An event of an execution.
#[derive(Deserialize, Clone, Debug, PartialEq)]
pub struct Stored {
    pub row: i64,
    pub run: i64,
    pub number: i64,
    pub kind: String,
    pub payload: String,
}

/// Server-sent events, one by one.
pub struct Frames {
    response: reqwest::Response,
    buffer: String,
}

impl Frames {
    pub async fn of(reader: &Reader, fid: &str, token: &str, after: Option<&str>) -> Self {
        let response = reader.stream(fid, token, after).await;
        assert_eq!(response.status().as_u16(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self::from(response)
    }

    /// Kind, id and data of the next one; `None` once the stream has ended.
    pub async fn next(&mut self) -> Option<(String, String, Value)> {
        let next = async {
            loop {
                if let Some((frame, rest)) = self.buffer.split_once("\n\n") {
                    let (frame, rest) = (frame.to_string(), rest.to_string());
                    self.buffer = rest;
                    if frame.starts_with(':') {
                        continue;
                    }
                    let field = |name: &str| frame.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default();
                    let data = serde_json::from_str(field("data: ")).expect("JSON");
                    return Some((field("event: ").to_string(), field("id: ").to_string(), data));
                }
                let chunk = self.response.chunk().await.ok()??;
                self.buffer.push_str(std::str::from_utf8(&chunk).expect("UTF-8"));
            }
        };
        tokio::time::timeout(DEADLINE, next).await.expect("an event in time")
    }

    /// The payload of the next, which is a line of output.
    pub async fn line(&mut self) -> String {
        let (kind, _, data) = self.next().await.expect("an event");
        assert_eq!(kind, "stdout", "{data}");
        data["payload"].as_str().expect("a text").to_string()
    }
}

impl From<reqwest::Response> for Frames {
    fn from(response: reqwest::Response) -> Self {
        Self { response, buffer: String::new() }
    }
}
