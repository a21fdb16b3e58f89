//! How a client of koco's checks whom it speaks to: by koco's own certificate authority, and by one server name,
//! independent of the address. No I/O. Used by the runner, as a client of the gateway, and by the gateway, as one of the
//! server.

use std::sync::Arc;

use rustls::{
    DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        VerifierBuilderError, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::ring,
    pki_types::{
        CertificateDer, ServerName, UnixTime,
        pem::{self, PemObject},
    },
};

/// Why a certificate authority can't be used.
#[derive(thiserror::Error, Debug)]
pub enum AuthorityError {
    /// It is not PEM.
    #[error("the certificate authority is not PEM: {0}")]
    Pem(pem::Error),
    /// It holds no certificate that can be used.
    #[error("the certificate authority: {0}")]
    Verifier(#[from] VerifierBuilderError),
    /// One of its certificates can't be read.
    #[error(transparent)]
    Rustls(#[from] Error),
    /// The server's name is none.
    #[error("{0} is not a name")]
    Name(&'static str),
}

/// The usual verification of chain, dates and name, but always of the same name. rustls calls custom verifiers
/// "dangerous".
#[derive(Debug)]
pub struct FixedName {
    inner: Arc<WebPkiServerVerifier>,
    name: ServerName<'static>,
}

impl FixedName {
    /// Trusts these authorities (PEM) for this name only.
    pub fn new(ca: &str, name: &'static str) -> Result<Arc<Self>, AuthorityError> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
            roots.add(certificate.map_err(AuthorityError::Pem)?)?;
        }
        let provider = Arc::new(ring::default_provider());
        let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
        let name = ServerName::try_from(name).map_err(|_| AuthorityError::Name(name))?;
        Ok(Arc::new(Self { inner, name }))
    }
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
