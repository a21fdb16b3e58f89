//! A client of the gateway with any token, job and run number.

use koco::{api::names, protocol::runner::Sender};
use kube::Api;
use serde::Serialize;

use super::{
    Job, Roles, Test,
    cluster::{NODE_IP, kubectl},
};

pub struct Gateway {
    client: reqwest::Client,
    port: u16,
}

impl Gateway {
    pub async fn of(test: &Test, roles: &Roles) -> Self {
        let maps: Api<k8s_openapi::api::core::v1::ConfigMap> = Api::namespaced(test.client.clone(), &test.namespace);
        let map = maps.get(names::GATEWAY_CA).await.expect("the gateway's CA");
        let ca = map.data.expect("data")["ca.crt"].clone();
        // Another test may have been first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .tls_certs_only(reqwest::Certificate::from_pem_bundle(ca.as_bytes()).expect("a certificate"))
            .resolve(names::GATEWAY_TLS_NAME, format!("{NODE_IP}:{}", roles.gateway_port).parse().expect("an address"))
            .build()
            .expect("a client");
        Self { client, port: roles.gateway_port }
    }

    /// The response's status code.
    pub async fn say(&self, path: &str, token: Option<&str>, body: &impl Serialize) -> u16 {
        let url = format!("https://{}:{}{path}", names::GATEWAY_TLS_NAME, self.port);
        let request = self.client.post(url).json(body);
        let request = match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        request.send().await.expect("an answer").status().as_u16()
    }
}

/// A token of the account that agents' pods have.
pub fn token(ns: &str, audience: Option<&str>, pod: Option<&str>) -> String {
    let mut args = vec!["create", "token", "default", "-n", ns];
    if let Some(audience) = audience {
        args.extend(["--audience", audience]);
    }
    if let Some(pod) = pod {
        args.extend(["--bound-object-kind", "Pod", "--bound-object-name", pod]);
    }
    kubectl(&args).expect("a token").trim().to_string()
}

/// The sender of a runner's requests.
pub fn sender(job: &Job<'_>, run: i32) -> Sender {
    let job = koco::api::JobRef { namespace: job.test.namespace.clone(), name: job.name.clone(), uid: job.uid.clone() };
    Sender { job, run }
}
