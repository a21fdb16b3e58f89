//! Any bytes as a client's certificate, through the handshake of the gateway's TLS server, as [`any_key`] verifies it.

use std::sync::{Arc, LazyLock};

use axum_server::tls::TlsInfo;
use koco::{
    platform::http::{any_key, client_key},
    protocol::key::PublicKey,
};
use proptest::prelude::*;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PublicKeyData};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, ServerConfig, ServerConnection, SignatureScheme,
    client::{
        ResolvesClientCert,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
    sign::CertifiedKey,
    version::TLS13,
};

use super::common::check;

/// A key pair and a certificate of it.
struct Pair {
    certificate: Vec<u8>,
    spki: Vec<u8>,
    key: Vec<u8>,
}

static PAIRS: LazyLock<Vec<Pair>> = LazyLock::new(|| {
    let algorithms = [&PKCS_ED25519, &PKCS_ED25519, &PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384];
    let make = |algorithm| {
        let pair = KeyPair::generate_for(algorithm).expect("a key");
        let certificate = CertificateParams::default().self_signed(&pair).expect("a certificate").der().to_vec();
        Pair { certificate, spki: pair.subject_public_key_info(), key: pair.serialize_der() }
    };
    algorithms.into_iter().map(make).collect()
});

static SERVER: LazyLock<Arc<ServerConfig>> = LazyLock::new(|| {
    let own = KeyPair::generate().expect("a key");
    let certificate = CertificateParams::default().self_signed(&own).expect("a certificate").der().clone();
    let key = PrivateKeyDer::try_from(own.serialize_der()).expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .expect("TLS 1.3")
        .with_client_cert_verifier(any_key());
    Arc::new(config.with_single_cert(vec![certificate], key).expect("a server"))
});

/// A client that shows whatever it has, to any server.
#[derive(Debug)]
struct Client(Arc<CertifiedKey>);

impl ResolvesClientCert for Client {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[derive(Debug)]
struct AnyServer;

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// The key of the client by the server, if the handshake succeeds.
fn connect(chain: Vec<Vec<u8>>, signs_with: &Pair) -> Result<Option<Vec<u8>>, Error> {
    let key = PrivateKeyDer::try_from(signs_with.key.clone()).expect("a key");
    let key = ring::sign::any_supported_type(&key).expect("a key");
    let shown = CertifiedKey::new(chain.into_iter().map(CertificateDer::from).collect(), key);
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer))
        .with_client_cert_resolver(Arc::new(Client(Arc::new(shown))));
    let name = ServerName::try_from("koco-gateway").expect("a name");
    let mut client = ClientConnection::new(Arc::new(config), name)?;
    let mut server = ServerConnection::new(SERVER.clone())?;
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).expect("memory");
        }
        let mut from = wire.as_slice();
        while !from.is_empty() {
            // Of a message that is too large it reads no more.
            server.read_tls(&mut from).map_err(|e| Error::General(e.to_string()))?;
            server.process_new_packets()?;
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).expect("memory");
        }
        let mut from = wire.as_slice();
        while !from.is_empty() {
            client.read_tls(&mut from).expect("memory");
            client.process_new_packets()?;
        }
    }
    let mut info = TlsInfo::default();
    info.peer_certificates = server.peer_certificates().unwrap_or_default().iter().map(|c| c.to_vec()).collect();
    Ok(client_key(&info))
}

/// What is done to a real certificate.
#[derive(Clone, Debug)]
enum Damage {
    Flip(usize, u8),
    Cut(usize),
    Insert(usize, Vec<u8>),
    Remove(usize, usize),
    /// A huge one.
    Repeat(usize),
}

fn damaged(mut der: Vec<u8>, damage: &[Damage]) -> Vec<u8> {
    for one in damage {
        let at = |n: usize| n % (der.len() + 1);
        match one {
            Damage::Flip(n, bits) if at(*n) < der.len() => {
                let n = at(*n);
                der[n] ^= bits;
            }
            Damage::Flip(..) => {}
            Damage::Cut(n) => der.truncate(at(*n)),
            Damage::Insert(n, bytes) => drop(der.splice(at(*n)..at(*n), bytes.iter().copied()).count()),
            Damage::Remove(n, many) => {
                let (from, to) = (at(*n), (at(*n) + many).min(der.len()));
                der.drain(from..to);
            }
            Damage::Repeat(n) => der = der.repeat(*n),
        }
        // More can't be sent.
        der.truncate(1 << 20);
    }
    der
}

fn damage() -> impl Strategy<Value = Vec<Damage>> {
    let one = prop_oneof![
        6 => (any::<usize>(), any::<u8>()).prop_map(|(n, bits)| Damage::Flip(n, bits)),
        2 => any::<usize>().prop_map(Damage::Cut),
        2 => (any::<usize>(), prop::collection::vec(any::<u8>(), 0..20)).prop_map(|(n, b)| Damage::Insert(n, b)),
        2 => (any::<usize>(), 0_usize..20).prop_map(|(n, many)| Damage::Remove(n, many)),
        1 => (0_usize..400).prop_map(Damage::Repeat),
    ];
    prop::collection::vec(one, 0..4)
}

/// No handshake succeeds without the private key of the certificate that is shown, and no other key is the client's.
#[test]
fn a_client_has_the_key_that_it_shows_and_no_other() {
    let any_bytes = prop::collection::vec(any::<u8>(), 0..600);
    let chain = prop::option::weighted(0.1, any_bytes);
    let inputs = (0..PAIRS.len(), 0..PAIRS.len(), prop_oneof![Just(vec![]), damage()], chain);
    check("certificates", inputs, |(shown, signs, damage, other)| {
        let (shown, signs) = (&PAIRS[shown], &PAIRS[signs]);
        let certificate = other.clone().unwrap_or_else(|| damaged(shown.certificate.clone(), &damage));
        let whole = certificate == shown.certificate;
        let known = connect(vec![certificate, vec![0; 7]], signs);
        if whole {
            prop_assert_eq!(known.is_ok(), shown.key == signs.key, "{:?}", known);
        }
        let Ok(Some(key)) = known else { return Ok(()) };
        prop_assert_eq!(&key, &signs.spki, "a key of which it doesn't have the private half");
        let ed25519 = PAIRS[..2].iter().any(|pair| pair.spki == key);
        prop_assert_eq!(PublicKey::from_spki(&key).is_some(), ed25519);
        Ok(())
    });
}
