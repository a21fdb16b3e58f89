//! Certificates: our own authority, leaves issued by it, and the server configuration made of one. No I/O. Used by
//! [`super::tls`].

use std::{sync::Arc, time::Duration};

use k8s_openapi::jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::{
    RootCertStore, ServerConfig,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    version::TLS13,
};

use super::client_key::any_key;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// The lifetime of an authority.
const AUTHORITY: Duration = Duration::from_secs(3650 * 24 * 60 * 60);
/// The lifetime of a leaf. It lives in memory only and is replaced far sooner.
const LEAF: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// Why a certificate can't be made or used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// It could not be made, or the authority's key can't be read.
    #[error("a certificate can't be issued: {0}")]
    Issue(#[from] rcgen::Error),
    /// Not PEM.
    #[error("{0} is not PEM: {1}")]
    Pem(&'static str, String),
    /// TLS can't use it.
    #[error("the certificate can't be used: {0}")]
    Tls(#[from] rustls::Error),
    /// Clients would refuse it.
    #[error("clients would refuse the certificate; it must be issued by ca.crt for the DNS name {name}: {why}")]
    Refused {
        /// The name.
        name: String,
        /// The cause.
        why: String,
    },
}

/// A certificate authority: PEM of its certificate and key.
#[derive(Clone, PartialEq, Eq)]
pub struct Authority {
    /// Its certificate.
    pub certificate: String,
    /// Its key, PKCS #8.
    pub key: String,
}

/// A certificate with its chain, and its key; PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// The leaf and what is between it and the authority.
    pub chain: String,
    /// The leaf's key.
    pub key: String,
}

/// Valid from a day ago, for clocks that differ.
fn valid(params: &mut CertificateParams, now: Timestamp, lifetime: Duration) {
    let seconds = Duration::from_secs(now.as_second().max(0) as u64);
    let now = date_time_ymd(1970, 1, 1) + seconds;
    params.not_before = now - DAY;
    params.not_after = now + lifetime;
}

/// The fixed fields of every authority certificate: with them, issuing a leaf needs only the key.
fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "koco authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

impl Authority {
    /// A new one.
    pub fn generate(now: Timestamp) -> Result<Self, CertificateError> {
        let key = KeyPair::generate()?;
        let mut params = authority_params();
        valid(&mut params, now, AUTHORITY);
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self { certificate, key: key.serialize_pem() })
    }

    /// A leaf for a server: for its fixed name, and for the names that a Service of that name has in `namespace`.
    pub fn issue(&self, fixed: &str, namespace: &str, now: Timestamp) -> Result<Identity, CertificateError> {
        let issuer = Issuer::new(authority_params(), KeyPair::from_pem(&self.key)?);
        let service = format!("{fixed}.{namespace}");
        let mut params = CertificateParams::new([
            fixed.to_string(),
            service.clone(),
            format!("{service}.svc"),
            format!("{service}.svc.cluster.local"),
        ])?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, fixed);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        valid(&mut params, now, LEAF);
        let key = KeyPair::generate()?;
        let chain = params.signed_by(&key, &issuer)?.pem();
        Ok(Identity { chain, key: key.serialize_pem() })
    }
}

fn certificates(what: &'static str, pem: &str) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(CertificateError::Pem(what, "no certificate in it".into())),
        Err(e) => Err(CertificateError::Pem(what, e.to_string())),
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

impl Identity {
    /// Serves HTTP/1.1 over TLS 1.3 with it, if a client that expects `name` and trusts `ca` would accept it. With
    /// `asks_for_keys` it asks clients for a certificate of any key.
    pub fn server(
        &self,
        name: &str,
        ca: &str,
        asks_for_keys: bool,
        now: Timestamp,
    ) -> Result<Arc<ServerConfig>, CertificateError> {
        let chain = certificates("tls.crt", &self.chain)?;
        check(&chain, name, ca, now)?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes())
            .map_err(|e| CertificateError::Pem("tls.key", e.to_string()))?;
        let config = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13])?;
        let config = match asks_for_keys {
            true => config.with_client_cert_verifier(any_key()),
            false => config.with_no_client_auth(),
        };
        let mut config = config.with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

/// Verifies a certificate as a client would.
fn check(chain: &[CertificateDer<'static>], name: &str, ca: &str, now: Timestamp) -> Result<(), CertificateError> {
    let refused = |e: &dyn std::fmt::Display| CertificateError::Refused { name: name.into(), why: e.to_string() };
    let mut roots = RootCertStore::empty();
    for root in certificates("ca.crt", ca)? {
        roots.add(root)?;
    }
    let verifier =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build().map_err(|e| refused(&e))?;
    let name = ServerName::try_from(name).map_err(|e| refused(&e))?;
    let (leaf, between) = chain.split_first().ok_or_else(|| refused(&"it is empty"))?;
    let now = UnixTime::since_unix_epoch(Duration::from_secs(now.as_second().max(0) as u64));
    verifier.verify_server_cert(leaf, between, &name, &[], now).map_err(|e| refused(&e))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "koco-gateway";

    fn at(days: u64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + (days * DAY.as_secs()) as i64).unwrap()
    }

    #[test]
    fn clients_accept_what_any_replica_issues_itself_from_the_shared_key() {
        let authority = Authority::generate(at(0)).unwrap();
        // Another replica, years later, knows only what the Secret holds.
        let shared = authority.clone();
        let leaf = shared.issue(NAME, "koco-system", at(2000)).unwrap();
        leaf.server(NAME, &authority.certificate, true, at(2000)).unwrap();
        leaf.server(NAME, &authority.certificate, true, at(2089)).unwrap();
        assert!(matches!(
            leaf.server(NAME, &authority.certificate, true, at(2091)),
            Err(CertificateError::Refused { .. })
        ));
    }

    #[test]
    fn another_authoritys_leaf_is_refused() {
        let (ours, theirs) = (Authority::generate(at(0)).unwrap(), Authority::generate(at(0)).unwrap());
        let leaf = theirs.issue(NAME, "koco-system", at(0)).unwrap();
        assert!(matches!(leaf.server(NAME, &ours.certificate, true, at(0)), Err(CertificateError::Refused { .. })));
    }

    #[test]
    fn a_users_certificate_for_another_name_is_refused_with_the_name_it_needs() {
        let authority = Authority::generate(at(0)).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["gateway.example".to_string()]).unwrap();
        valid(&mut params, at(0), LEAF);
        let issuer = Issuer::new(authority_params(), KeyPair::from_pem(&authority.key).unwrap());
        let chain = params.signed_by(&key, &issuer).unwrap().pem();
        let error =
            Identity { chain, key: key.serialize_pem() }.server(NAME, &authority.certificate, true, at(0)).unwrap_err();
        assert!(error.to_string().contains("DNS name koco-gateway"), "{error}");
    }

    #[test]
    fn nonsense_says_where_it_is() {
        let authority = Authority::generate(at(0)).unwrap();
        let leaf = authority.issue(NAME, "n", at(0)).unwrap();
        assert!(leaf.server(NAME, "", true, at(0)).unwrap_err().to_string().starts_with("ca.crt"));
        let bad = Identity { key: "x".into(), ..leaf };
        assert!(bad.server(NAME, &authority.certificate, true, at(0)).unwrap_err().to_string().starts_with("tls.key"));
    }
}
