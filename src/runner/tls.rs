//! The runner's TLS: one certificate authority, the operator's, and one server name, independent of the gateway's
//! address. Used by [`super::gateway`].

use std::sync::Arc;

use rustls::{ClientConfig, Error, crypto::ring, version::TLS13};

use super::identity::{Identity, IdentityError};
use crate::{
    api::names::GATEWAY_TLS_NAME,
    protocol::tls::{AuthorityError, FixedName},
};

/// Why TLS can't be set up.
#[derive(thiserror::Error, Debug)]
pub enum TlsError {
    #[error("the gateway: {0}")]
    Authority(#[from] AuthorityError),
    #[error(transparent)]
    Rustls(#[from] Error),
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// The client's side, known by `identity`, trusting `ca` (PEM) for [`GATEWAY_TLS_NAME`] only.
pub fn client_config(ca: &str, identity: &Identity) -> Result<ClientConfig, TlsError> {
    let verifier = FixedName::new(ca, GATEWAY_TLS_NAME)?;
    let (certificate, key) = identity.certificate()?;
    Ok(ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(vec![certificate], key)?)
}
