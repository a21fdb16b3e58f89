//! The way of events to the server. What it needs, the server's certificate authority and a token, is read now and then in
//! the background, so that no request waits for the API server or a file. Used by [`super::requests`].

use std::{path::PathBuf, sync::Arc, time::Duration};

use axum::body::Bytes;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use parking_lot::RwLock;
use reqwest::{StatusCode, header, redirect};
use rustls::{ClientConfig, crypto::ring, version::TLS13};
use tokio_util::sync::CancellationToken;

use super::{server::Refusal, settings::Settings};
use crate::{
    api::names,
    protocol::{
        events::{CONTENT_TYPE, Stored, append_path},
        tls::FixedName,
    },
};

/// How often authority and token are read: the kubelet renews a token long before it is void.
const REFRESH: Duration = Duration::from_secs(60);
/// How often while there are none yet.
const RETRY: Duration = Duration::from_secs(1);
/// How long a connection may take, and a request in all: less than a runner's may.
const CONNECT: Duration = Duration::from_secs(3);
const REQUEST: Duration = Duration::from_secs(9);
/// How long a connection may be idle: less than the server allows, so that none is used that is just being closed.
const IDLE: Duration = Duration::from_secs(60);

/// What a request to the server needs.
#[derive(Clone)]
struct Credentials {
    http: reqwest::Client,
    ca: String,
    token: Arc<str>,
}

/// The server, if this installation has one.
pub struct Archive {
    url: Option<String>,
    token_file: PathBuf,
    maps: Api<ConfigMap>,
    credentials: RwLock<Option<Credentials>>,
}

/// Why the server can't be asked.
#[derive(thiserror::Error, Debug)]
enum CredentialsError {
    #[error("the server's certificate authority: {0}")]
    Api(#[from] kube::Error),
    #[error("the ConfigMap with the server's certificate authority has no ca.crt yet")]
    NoAuthority,
    #[error(transparent)]
    Authority(#[from] crate::protocol::tls::AuthorityError),
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("the client: {0}")]
    Client(#[from] reqwest::Error),
    #[error("{0}: {1}")]
    Token(PathBuf, std::io::Error),
}

/// What the server answers to a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Stored, up to this number.
    Stored(Stored),
    /// It would leave a gap after this number.
    Gap(Stored),
}

impl Archive {
    /// One for these settings, in the operator's namespace.
    pub fn new(client: kube::Client, namespace: &str, settings: &Settings) -> Self {
        Self {
            url: settings.server_url.clone().filter(|url| !url.is_empty()),
            token_file: settings.server_token_file.clone(),
            maps: Api::namespaced(client, namespace),
            credentials: RwLock::default(),
        }
    }

    /// Whether events are kept at all.
    pub fn is_configured(&self) -> bool {
        self.url.is_some()
    }

    /// Keeps authority and token up to date until `stop`. Logs each new reason why there are none.
    pub async fn keep(&self, stop: &CancellationToken) {
        let mut said = None;
        while self.is_configured() {
            let wait = match self.refresh().await {
                Ok(()) => {
                    said = None;
                    REFRESH
                }
                Err(error) => {
                    let words = error.to_string();
                    if said.as_ref() != Some(&words) {
                        tracing::warn!("events wait: {words}");
                        said = Some(words);
                    }
                    RETRY
                }
            };
            tokio::select! { () = stop.cancelled() => return, () = tokio::time::sleep(wait) => {} }
        }
    }

    async fn refresh(&self) -> Result<(), CredentialsError> {
        let map = self.maps.get_opt(names::SERVER_CA).await?;
        let ca = map.and_then(|map| map.data?.remove("ca.crt")).filter(|ca| !ca.is_empty());
        let ca = ca.ok_or(CredentialsError::NoAuthority)?;
        let token = tokio::fs::read_to_string(&self.token_file).await;
        let token: Arc<str> = token.map_err(|e| CredentialsError::Token(self.token_file.clone(), e))?.trim().into();
        let known = self.credentials.read().clone().filter(|credentials| credentials.ca == ca);
        let http = match known {
            Some(credentials) => credentials.http,
            None => client(&ca)?,
        };
        *self.credentials.write() = Some(Credentials { http, ca, token });
        Ok(())
    }

    /// Hands on a batch of a run's events. What the server doesn't answer clearly may be stored or not: a repeat tells.
    pub async fn append(&self, fid: &str, run: i32, body: Bytes) -> Result<Answer, Refusal> {
        let Some(url) = &self.url else { return Err(Refusal::ServerDown) };
        let credentials = self.credentials.read().clone().ok_or(Refusal::ServerDown)?;
        let url = format!("{}{}", url.trim_end_matches('/'), append_path(fid, &run.to_string()));
        let request =
            credentials.http.post(url).bearer_auth(&credentials.token).header(header::CONTENT_TYPE, CONTENT_TYPE);
        let down = |error: reqwest::Error| {
            tracing::debug!(%error, "the server doesn't answer");
            Refusal::ServerDown
        };
        let answer = request.body(body).send().await.map_err(down)?;
        match answer.status() {
            StatusCode::OK => Ok(Answer::Stored(answer.json().await.map_err(down)?)),
            StatusCode::CONFLICT => Ok(Answer::Gap(answer.json().await.map_err(down)?)),
            StatusCode::GONE => Err(Refusal::EventsDeleted),
            StatusCode::BAD_REQUEST => Err(Refusal::Malformed("the server can't read these events".into())),
            StatusCode::PAYLOAD_TOO_LARGE => Err(Refusal::TooLarge),
            StatusCode::NOT_FOUND => Err(Refusal::NotArchived),
            status => {
                let text = answer.text().await.unwrap_or_default();
                tracing::debug!(%status, text, "the server refuses events");
                Err(Refusal::ServerDown)
            }
        }
    }
}

/// A client that trusts this authority for the server's name, whatever its address.
fn client(ca: &str) -> Result<reqwest::Client, CredentialsError> {
    let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(FixedName::new(ca, names::SERVER_TLS_NAME)?)
        .with_no_client_auth();
    Ok(reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .https_only(true)
        .hickory_dns(true)
        .no_proxy()
        .redirect(redirect::Policy::none())
        .connect_timeout(CONNECT)
        .timeout(REQUEST)
        .pool_idle_timeout(IDLE)
        .tcp_nodelay(true)
        .user_agent(concat!("koco-gateway/", env!("CARGO_PKG_VERSION")))
        .build()?)
}
