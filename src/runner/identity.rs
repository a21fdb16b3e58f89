//! What makes the runner the runner: a key pair that exists only in this process's memory, and the pod's token, with which
//! the key is registered. The agent runs in the same container and must be able to use neither. Used by
//! [`super::supervisor`] before anything else, and by [`super::gateway`] and [`super::report`].

use std::{fs, io, path::Path, sync::Arc};

use nix::sys::prctl;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ED25519};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::procfs;
use crate::protocol::{
    runner::AgentEnd,
    termination::{self, SignError},
};

/// Why the runner can't have an identity that its agent can't take.
#[derive(thiserror::Error, Debug)]
pub enum IdentityError {
    #[error("the runner can't be kept from being traced: {0}")]
    Dumpable(nix::Error),
    #[error("process {0} traces the runner")]
    Traced(i32),
    #[error("/proc/self/status: {0}")]
    Status(io::Error),
    #[error("the token {0}: {1}")]
    Token(String, io::Error),
    #[error("a key can't be made: {0}")]
    Key(#[from] rcgen::Error),
}

/// Closes this process's memory and file descriptors to all processes without `CAP_SYS_PTRACE`; its environment, in which
/// nothing is secret, is open to `CAP_PERFMON` and `CAP_SYS_ADMIN`, too. Called first: a process that traces it already is found here.
pub fn protect() -> Result<(), IdentityError> {
    prctl::set_dumpable(false).map_err(IdentityError::Dumpable)?;
    match procfs::tracer().map_err(IdentityError::Status)? {
        0 => Ok(()),
        tracer => Err(IdentityError::Traced(tracer)),
    }
}

/// Reads the token and removes its file; `None` if it is gone: another process of this container had it.
pub fn take_token(path: &Path) -> Result<Option<String>, IdentityError> {
    let failed = |e| IdentityError::Token(path.display().to_string(), e);
    let token = match fs::read_to_string(path) {
        Ok(token) => token,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(e)),
    };
    fs::remove_file(path).map_err(failed)?;
    Ok(Some(token.trim().to_owned()))
}

/// The runner's key pair.
#[derive(Clone)]
pub struct Identity(Arc<KeyPair>);

impl Identity {
    /// A new one.
    pub fn generate() -> Result<Self, IdentityError> {
        Ok(Self(Arc::new(KeyPair::generate_for(&PKCS_ED25519)?)))
    }

    /// A certificate for it and the key, for TLS. Only its key says anything.
    pub fn certificate(&self) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), IdentityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let certificate = params.self_signed(&*self.0)?.der().clone();
        Ok((certificate, PrivatePkcs8KeyDer::from(self.0.serialize_der()).into()))
    }

    /// The termination message for an end.
    pub fn sign(&self, end: &AgentEnd) -> Result<String, SignError> {
        termination::sign(end, &*self.0)
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identity")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_there_once() {
        let path = std::env::temp_dir().join(format!("koco-token-{}", std::process::id()));
        fs::write(&path, "a.b.c\n").unwrap();
        assert_eq!(take_token(&path).unwrap().as_deref(), Some("a.b.c"));
        assert_eq!(take_token(&path).unwrap(), None);
    }
}
