//! A connection that is made in the background: no role waits for Temporal in order to start.

use std::{sync::Arc, time::Duration};

use backon::{ExponentialBuilder, Retryable};
use rustls::{RootCertStore, client::WebPkiServerVerifier, crypto::ring};
use temporalio_client::{
    Client, ClientOptions, Connection, ConnectionOptions, TlsOptions,
    envconfig::{ConfigError, LoadClientConfigProfileOptions},
};
use tokio::sync::watch;

#[cfg(feature = "operator")]
use super::SdkMetrics;
use super::{Codec, TemporalError};

/// How to reach Temporal. Everything but the overrides comes from the SDK's own environment configuration:
/// `TEMPORAL_ADDRESS`, `TEMPORAL_NAMESPACE`, `TEMPORAL_API_KEY`, `TEMPORAL_TLS`, `TEMPORAL_TLS_*`, or a profile file.
#[derive(Clone)]
pub struct Settings {
    connection: ConnectionOptions,
    namespace: String,
    #[cfg(feature = "operator")]
    metrics: SdkMetrics,
    codec: Option<Codec>,
}

impl Settings {
    /// Reads the environment; `None` if it names no server, which is how to run Direct jobs only.
    pub fn from_env(identity: &str) -> Result<Option<Self>, ConfigError> {
        let named = ["TEMPORAL_ADDRESS", "TEMPORAL_CONFIG_FILE", "TEMPORAL_PROFILE"];
        if named.iter().all(|n| std::env::var_os(n).is_none_or(|v| v.is_empty())) {
            return Ok(None);
        }
        Ok(Some(Self::read(identity)?))
    }

    /// A server at this address, such as `localhost:7233`; all else as in the environment, but for the namespace, if it
    /// is given.
    pub fn at(address: &str, namespace: Option<&str>, identity: &str) -> Result<Self, ConfigError> {
        let mut settings = Self::read(identity)?;
        let scheme = if settings.connection.tls_options.is_some() { "https" } else { "http" };
        let url = if address.contains("://") { address.to_string() } else { format!("{scheme}://{address}") };
        settings.connection.target =
            url.parse().map_err(|e| ConfigError::InvalidConfig(format!("the address {address}: {e}")))?;
        if let Some(namespace) = namespace {
            settings.namespace = namespace.into();
        }
        Ok(settings)
    }

    /// Records the SDK's metrics there.
    #[cfg(feature = "operator")]
    pub fn with_metrics(mut self, metrics: &SdkMetrics) -> Self {
        self.connection.metrics_meter = Some(metrics.of_client());
        Self { metrics: metrics.clone(), ..self }
    }

    /// Encrypts what goes to the server, and decrypts what comes from it.
    pub fn with_codec(self, codec: Option<Codec>) -> Self {
        Self { codec, ..self }
    }

    fn read(identity: &str) -> Result<Self, ConfigError> {
        let (mut connection, client) = ClientOptions::load_from_config(LoadClientConfigProfileOptions::default())?;
        connection.identity = identity.into();
        connection.connect_timeout = Some(Duration::from_secs(10));
        if let Some(tls) = &mut connection.tls_options {
            trust(tls, !rustls_native_certs::load_native_certs().certs.is_empty())?;
        }
        Ok(Self {
            connection,
            namespace: client.namespace,
            #[cfg(feature = "operator")]
            metrics: SdkMetrics::default(),
            codec: None,
        })
    }
}

/// Trusts the public authorities where the settings name none and the machine has none of its own, as in the image. The SDK
/// would not connect at all.
fn trust(tls: &mut TlsOptions, machine_has_some: bool) -> Result<(), ConfigError> {
    let named = tls.server_root_ca_cert.is_some() || tls.server_cert_verifier.is_some();
    if named || machine_has_some {
        return Ok(());
    }
    let roots: RootCertStore = webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect();
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::new(ring::default_provider()));
    let built = verifier.build().map_err(|e| ConfigError::InvalidConfig(format!("the public authorities: {e}")))?;
    tls.server_cert_verifier = Some(built);
    Ok(())
}

/// A handle that any role may clone; connects in the background and retries without limit.
#[derive(Clone)]
pub struct Temporal {
    inner: Option<Inner>,
}

#[derive(Clone)]
struct Inner {
    settings: Settings,
    client: watch::Receiver<Option<Client>>,
}

impl Temporal {
    /// Starts connecting. With `None` every call fails with [`TemporalError::NotConfigured`].
    pub fn new(settings: Option<Settings>) -> Self {
        let inner = settings.map(|settings| {
            let (tx, client) = watch::channel(None);
            tokio::spawn(connect(settings.clone(), tx));
            Inner { settings, client }
        });
        Self { inner }
    }

    /// Whether a server is configured at all.
    pub fn is_configured(&self) -> bool {
        self.inner.is_some()
    }

    /// The Temporal namespace; empty without a server.
    pub fn namespace(&self) -> &str {
        self.inner.as_ref().map_or("", |i| &i.settings.namespace)
    }

    /// The server's address; empty without a server.
    pub fn address(&self) -> &str {
        self.inner.as_ref().map_or("", |i| i.settings.connection.target.as_str())
    }

    /// Where the SDK's metrics are recorded.
    #[cfg(feature = "operator")]
    pub fn metrics(&self) -> SdkMetrics {
        self.inner.as_ref().map(|i| i.settings.metrics.clone()).unwrap_or_default()
    }

    /// What decrypts payloads that the SDK leaves as they are.
    pub(super) fn codec(&self) -> Option<&Codec> {
        self.inner.as_ref()?.settings.codec.as_ref()
    }

    /// The client, if connected. It reconnects by itself from then on.
    pub fn client(&self) -> Result<Client, TemporalError> {
        let inner = self.inner.as_ref().ok_or(TemporalError::NotConfigured)?;
        let client = inner.client.borrow().clone();
        client.ok_or_else(|| TemporalError::NotConnected(inner.settings.connection.target.to_string()))
    }

    /// Waits for the first connection.
    pub async fn connected(&self) -> Result<Client, TemporalError> {
        let mut client = self.inner.as_ref().ok_or(TemporalError::NotConfigured)?.client.clone();
        let found = client.wait_for(Option::is_some).await.map(|c| c.clone());
        found.ok().flatten().ok_or(TemporalError::NotConfigured)
    }
}

async fn connect(settings: Settings, tx: watch::Sender<Option<Client>>) {
    let target = settings.connection.target.clone();
    let backoff = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(250))
        .with_max_delay(Duration::from_secs(5))
        .with_jitter()
        .without_max_times();
    let attempt = || async {
        let connection = Connection::connect(settings.connection.clone()).await.map_err(|e| e.to_string())?;
        let converter = settings.codec.as_ref().map(Codec::converter).unwrap_or_default();
        let options = ClientOptions::new(&settings.namespace).data_converter(converter).build();
        Client::new(connection, options).map_err(|e| e.to_string())
    };
    let logged = std::sync::atomic::AtomicBool::new(false);
    let connected = attempt.retry(backoff).notify(|error, _| {
        if !logged.swap(true, std::sync::atomic::Ordering::Relaxed) {
            tracing::warn!(%target, %error, "no connection to Temporal yet; retrying, Direct jobs are not affected");
        }
    });
    tokio::select! {
        client = connected => if let Ok(client) = client {
            tracing::info!(%target, namespace = settings.namespace, "connected to Temporal");
            tx.send_replace(Some(client));
            // The client must stay available until the last handle is dropped.
            tx.closed().await;
        },
        () = tx.closed() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_named_authority_the_machines_are_trusted_or_else_the_public_ones() {
        let public = |named: Option<&str>, machine_has_some: bool| {
            let mut tls = TlsOptions::builder().maybe_server_root_ca_cert(named.map(Into::into)).build();
            trust(&mut tls, machine_has_some).unwrap();
            tls.server_cert_verifier.is_some()
        };
        assert!(public(None, false));
        assert!(!public(None, true) && !public(Some("PEM"), false));
    }
}
