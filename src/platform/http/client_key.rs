//! TLS client certificates of which only the key counts: the handshake proves that the client has the private key, and
//! which keys are known is for the server's requests to decide. No I/O. Used by [`super::certificate`] and,
//! for [`client_key`], by the servers.

use std::sync::Arc;

use axum_server::tls::TlsInfo;
use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, UnixTime},
    server::{
        ParsedCertificate,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

/// Accepts a certificate of any key, and clients without one.
#[derive(Debug)]
struct AnyKey(Arc<CryptoProvider>);

/// A verifier that accepts a certificate of any key, and clients without one.
pub fn any_key() -> Arc<dyn ClientCertVerifier> {
    Arc::new(AnyKey(Arc::new(rustls::crypto::ring::default_provider())))
}

/// The key of a connection's client, a DER-encoded SubjectPublicKeyInfo, if it has shown one. It holds the private key.
pub fn client_key(connection: &TlsInfo) -> Option<Vec<u8>> {
    let certificate = CertificateDer::from(connection.peer_certificates.first()?.as_slice());
    Some(ParsedCertificate::try_from(&certificate).ok()?.subject_public_key_info().to_vec())
}

impl ClientCertVerifier for AnyKey {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        ParsedCertificate::try_from(certificate).map(|_| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
