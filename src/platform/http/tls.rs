//! Where a server's certificate comes from: the user's own in a Secret, or one that each replica issues itself from the
//! authority that they share there. Publishes the authority in a ConfigMap, for those who create clients.
//!
//! The authority lives ten years. To replace it, empty the Secret and restart the servers; clients that started before
//! only trust the old one and can't connect any more, so let running jobs end first.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use axum_server::tls_rustls::RustlsConfig;
use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
};
use kube::{Api, Client, api::PostParams};
use tokio_util::sync::CancellationToken;

use super::certificate::{Authority, CertificateError, Identity};
use crate::platform::clock;

/// How often the Secret is read.
const LOOK: Duration = Duration::from_secs(120);
/// How often while there is no certificate yet.
const RETRY: Duration = Duration::from_secs(1);
/// The age at which a leaf is replaced. It is kept in memory only.
const RENEW: Duration = Duration::from_secs(20 * 24 * 60 * 60);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The Secret or the ConfigMap can't be read or written.
    #[error("{0}: {1}")]
    Api(String, kube::Error),
    /// The Secret's contents are incomplete.
    #[error("Secret {0}: {1}")]
    Secret(String, &'static str),
    /// Its contents can't be used.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

/// The contents of the Secret.
#[derive(PartialEq, Eq, Clone)]
enum SecretContents {
    Nothing,
    /// The user's own.
    Given {
        identity: Identity,
        ca: String,
    },
    /// koco's authority.
    Ours(Authority),
}

/// Reads the Secret. Incomplete contents are an error: a user's data is never overwritten.
fn contents(secret: &Secret) -> Result<SecretContents, &'static str> {
    let get = |key: &str| {
        let bytes = secret.data.as_ref().and_then(|d| d.get(key)).filter(|b| !b.0.is_empty())?;
        Some(String::from_utf8_lossy(&bytes.0).into_owned())
    };
    match (get("tls.crt"), get("tls.key"), get("ca.crt"), get("ca.key")) {
        (None, None, None, None) => Ok(SecretContents::Nothing),
        (None, None, Some(certificate), Some(key)) => Ok(SecretContents::Ours(Authority { certificate, key })),
        (Some(chain), Some(key), Some(ca), _) => Ok(SecretContents::Given { identity: Identity { chain, key }, ca }),
        (Some(_), Some(_), None, _) => Err("it has tls.crt and tls.key, but no ca.crt for clients to check them with"),
        _ => Err("it needs tls.crt, tls.key and ca.crt together, or nothing at all"),
    }
}

/// The names of a server's objects, in the operator's namespace.
#[derive(Clone, Debug)]
pub struct ServerNames {
    /// The operator's namespace.
    pub namespace: String,
    /// The DNS name that clients expect, independent of the address.
    pub server: &'static str,
    /// The Secret.
    pub secret: String,
    /// The ConfigMap, with the authority under `ca.crt`.
    pub config_map: &'static str,
    /// Whether clients are asked for a certificate of any key.
    pub asks_for_keys: bool,
}

/// Keeps the certificate.
pub struct CertificateManager {
    secrets: Api<Secret>,
    maps: Api<ConfigMap>,
    names: ServerNames,
    last: Option<(SecretContents, Instant)>,
}

impl CertificateManager {
    /// One for a server.
    pub fn new(client: Client, names: ServerNames) -> Self {
        Self {
            secrets: Api::namespaced(client.clone(), &names.namespace),
            maps: Api::namespaced(client, &names.namespace),
            names,
            last: None,
        }
    }

    /// The first certificate: waits until there is one, or `stop`.
    pub async fn first(&mut self, stop: &CancellationToken) -> Option<RustlsConfig> {
        loop {
            match self.look().await {
                Ok(Some(config)) => return Some(RustlsConfig::from_config(config)),
                Ok(None) => {}
                Err(error) => tracing::error!(%error, secret = self.names.secret, "no certificate yet"),
            }
            tokio::select! { () = stop.cancelled() => return None, () = tokio::time::sleep(RETRY) => {} }
        }
    }

    /// Renews it until `stop`.
    pub async fn keep(mut self, config: RustlsConfig, stop: CancellationToken) {
        loop {
            tokio::select! { () = stop.cancelled() => return, () = tokio::time::sleep(LOOK) => {} }
            match self.look().await {
                Ok(Some(new)) => {
                    tracing::info!(secret = self.names.secret, "there is a new certificate");
                    config.reload_from_config(new);
                }
                Ok(None) => {}
                // The current one stays in use.
                Err(error) => tracing::error!(%error, secret = self.names.secret, "the certificate can't be renewed"),
            }
        }
    }

    /// A new server configuration, if one is due. The authority is published first, so that clients created from
    /// now on trust it.
    async fn look(&mut self) -> Result<Option<std::sync::Arc<rustls::ServerConfig>>, TlsError> {
        let contents = self.read().await?;
        let ca = match &contents {
            SecretContents::Given { ca, .. } => ca,
            SecretContents::Ours(authority) => &authority.certificate,
            // A conflict: the other write is read next time.
            SecretContents::Nothing => return Ok(None),
        };
        let due = match &self.last {
            Some((last, since)) => {
                *last != contents || (matches!(contents, SecretContents::Ours(_)) && since.elapsed() > RENEW)
            }
            None => true,
        };
        let (name, now, keys) = (self.names.server, clock::machine(), self.names.asks_for_keys);
        let config = match &contents {
            _ if !due => None,
            SecretContents::Given { identity, ca } => Some(identity.server(name, ca, keys, now)?),
            SecretContents::Ours(ours) => {
                Some(ours.issue(name, &self.names.namespace, now)?.server(name, &ours.certificate, keys, now)?)
            }
            SecretContents::Nothing => None,
        };
        self.publish(ca).await?;
        if due {
            self.last = Some((contents, Instant::now()));
        }
        Ok(config)
    }

    /// Reads the Secret; creates an authority if it is empty.
    async fn read(&self) -> Result<SecretContents, TlsError> {
        let failed = |e| TlsError::Api(format!("Secret {}", self.names.secret), e);
        let found = self.secrets.get_opt(&self.names.secret).await.map_err(failed)?;
        if let Some(secret) = &found {
            match contents(secret).map_err(|why| TlsError::Secret(self.names.secret.clone(), why))? {
                SecretContents::Nothing => {}
                contents => return Ok(contents),
            }
        }
        let authority = Authority::generate(clock::machine())?;
        let existed = found.is_some();
        let mut secret = found.unwrap_or_default();
        secret.metadata.name = Some(self.names.secret.clone());
        let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
        let data = secret.data.get_or_insert_default();
        data.insert("ca.crt".into(), bytes(&authority.certificate));
        data.insert("ca.key".into(), bytes(&authority.key));
        // With the version that was read: if two gateways start for the first time, one gets a conflict.
        let params = PostParams::default();
        let written = match existed {
            true => self.secrets.replace(&self.names.secret, &params, &secret).await,
            false => self.secrets.create(&params, &secret).await,
        };
        if let Some(()) = unless_overtaken(written).map_err(failed)? {
            tracing::info!(secret = self.names.secret, "created a certificate authority");
            return Ok(SecretContents::Ours(authority));
        }
        Ok(SecretContents::Nothing)
    }

    async fn publish(&self, ca: &str) -> Result<(), TlsError> {
        let failed = |e| TlsError::Api(format!("ConfigMap {}", self.names.config_map), e);
        loop {
            let found = self.maps.get_opt(self.names.config_map).await.map_err(failed)?;
            let known = found.as_ref().and_then(|m| m.data.as_ref()?.get("ca.crt"));
            if known.is_some_and(|known| known == ca) {
                return Ok(());
            }
            let existed = found.is_some();
            let mut map = found.unwrap_or_default();
            map.metadata.name = Some(self.names.config_map.into());
            map.data.get_or_insert_with(BTreeMap::new).insert("ca.crt".into(), ca.into());
            let params = PostParams::default();
            let written = match existed {
                true => self.maps.replace(self.names.config_map, &params, &map).await,
                false => self.maps.create(&params, &map).await,
            };
            if unless_overtaken(written).map_err(failed)?.is_some() {
                return Ok(());
            }
        }
    }
}

/// `None` on a conflict.
fn unless_overtaken<T>(written: Result<T, kube::Error>) -> Result<Option<()>, kube::Error> {
    match written {
        Ok(_) => Ok(Some(())),
        Err(kube::Error::Api(e)) if e.code == 409 => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(keys: &[&str]) -> Secret {
        let data = keys.iter().map(|k| (k.to_string(), ByteString(k.as_bytes().to_vec()))).collect();
        Secret { data: Some(data), ..Default::default() }
    }

    #[test]
    fn nothing_of_a_users_is_taken_for_empty() {
        assert!(contents(&Secret::default()) == Ok(SecretContents::Nothing));
        assert!(contents(&secret(&[])) == Ok(SecretContents::Nothing));
        assert!(matches!(contents(&secret(&["ca.crt", "ca.key"])), Ok(SecretContents::Ours(_))));
        assert!(matches!(contents(&secret(&["tls.crt", "tls.key", "ca.crt"])), Ok(SecretContents::Given { .. })));
        for half in [&["tls.crt", "tls.key"][..], &["tls.crt"], &["ca.crt"], &["ca.key"], &["tls.key", "ca.crt"]] {
            assert!(contents(&secret(half)).is_err(), "{half:?}");
        }
        let empty = Secret { data: Some([("ca.crt".into(), ByteString(vec![]))].into()), ..Default::default() };
        assert!(contents(&empty) == Ok(SecretContents::Nothing));
    }
}
