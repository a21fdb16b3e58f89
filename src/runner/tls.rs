//! The runner's TLS: one certificate authority, the operator's, and one server name, independent of the gateway's
//! address. Used by [`super::gateway`].

use std::sync::Arc;

use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::ring,
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    version::TLS13,
};

use super::identity::{Identity, IdentityError};
use crate::api::names::GATEWAY_TLS_NAME;

/// Why TLS can't be set up.
#[derive(thiserror::Error, Debug)]
pub enum TlsError {
    #[error("the gateway's certificate authority is not PEM: {0}")]
    Pem(rustls::pki_types::pem::Error),
    #[error("the gateway's certificate authority: {0}")]
    Verifier(#[from] rustls::client::VerifierBuilderError),
    #[error(transparent)]
    Rustls(#[from] Error),
    #[error("{GATEWAY_TLS_NAME} is not a name")]
    Name,
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// The client's side, known by `identity`, trusting `ca` (PEM) for [`GATEWAY_TLS_NAME`] only.
pub fn client_config(ca: &str, identity: &Identity) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        roots.add(certificate.map_err(TlsError::Pem)?)?;
    }
    let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?;
    let name = ServerName::try_from(GATEWAY_TLS_NAME).map_err(|_| TlsError::Name)?;
    let (certificate, key) = identity.certificate()?;
    Ok(ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(FixedName { inner, name }))
        .with_client_auth_cert(vec![certificate], key)?)
}

/// The usual verification of chain, dates and name, but always of the same name. rustls calls custom verifiers
/// "dangerous".
#[derive(Debug)]
struct FixedName {
    inner: Arc<WebPkiServerVerifier>,
    name: ServerName<'static>,
}

impl ServerCertVerifier for FixedName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _address: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.inner.verify_server_cert(end_entity, intermediates, &self.name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
