//! A client of the gateway with a key of its own, and any token, run and body.

use std::net::IpAddr;

use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{ConfigMap, ServiceAccount},
};
use koco::{
    api::names,
    protocol::runner::{RunPath, verb},
};
use kube::{Api, api::PostParams};
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};
use serde::Serialize;

use super::{Job, Roles, Test, cluster::NODE_IP};

pub struct Gateway {
    client: reqwest::Client,
    port: u16,
}

impl Gateway {
    pub async fn of(test: &Test, roles: &Roles) -> Self {
        Self { client: client(test, roles, None).await, port: roles.gateway_port }
    }

    /// The response's status code.
    pub async fn say(&self, verb: &str, run: &RunPath, token: Option<&str>, body: &impl Serialize) -> u16 {
        let url = format!("https://{}:{}{}", names::GATEWAY_TLS_NAME, self.port, run.path(verb));
        let request = if verb == verb::MESSAGES { self.client.get(url) } else { self.client.post(url).json(body) };
        let request = token.into_iter().fold(request, reqwest::RequestBuilder::bearer_auth);
        request.send().await.expect("an answer").status().as_u16()
    }
}

/// A client of the test's gateway with a key of its own, from this address.
pub async fn client(test: &Test, roles: &Roles, from: Option<IpAddr>) -> reqwest::Client {
    let key = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
    let maps: Api<ConfigMap> = Api::namespaced(test.client.clone(), &test.namespace);
    let map = maps.get(names::GATEWAY_CA).await.expect("the gateway's CA");
    let ca = map.data.expect("data")["ca.crt"].clone();
    // Another test may have been first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .tls_certs_only(reqwest::Certificate::from_pem_bundle(ca.as_bytes()).expect("a certificate"))
        .identity(identity(&key))
        .resolve(names::GATEWAY_TLS_NAME, format!("{NODE_IP}:{}", roles.gateway_port).parse().expect("an address"))
        .local_address(from)
        .no_proxy()
        .build()
        .expect("a client")
}

/// A client certificate of this key.
pub fn identity(key: &KeyPair) -> reqwest::Identity {
    let certificate = CertificateParams::default().self_signed(key).expect("a certificate");
    reqwest::Identity::from_pem((certificate.pem() + &key.serialize_pem()).as_bytes()).expect("an identity")
}

/// A token of the account that agents' pods have, if they name none, for the API server or an audience.
pub async fn token(client: &kube::Client, ns: &str, audience: Option<&str>, pod: Option<&str>) -> String {
    let bound = pod.map(|name| BoundObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        name: Some(name.into()),
        uid: None,
    });
    token_of(client, ns, "default", audience, bound).await
}

pub async fn token_of(
    client: &kube::Client,
    ns: &str,
    account: &str,
    audience: Option<&str>,
    bound_object_ref: Option<BoundObjectReference>,
) -> String {
    let audiences = audience.map(str::to_string).into_iter().collect();
    let spec = TokenRequestSpec { audiences, bound_object_ref, expiration_seconds: None };
    let request = TokenRequest { spec, ..TokenRequest::default() };
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), ns);
    let made = accounts.create_token_request(account, &PostParams::default(), &request).await.expect("a token");
    made.status.expect("a status").token
}

/// A run of a job.
pub fn run_path(job: &Job<'_>, number: i32) -> RunPath {
    RunPath { namespace: job.test.namespace.clone(), name: names::run(&job.name, &job.uid, number) }
}
