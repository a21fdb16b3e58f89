//! The key pair by which a runner is known. It makes the pair in its memory; the public key is recorded once, in
//! `status.publicKey` of its AgentRun, and is void with the run. No I/O.

use ring::signature::{ED25519, UnparsedPublicKey};

/// What stands before the 32 bytes of an Ed25519 key in a SubjectPublicKeyInfo (RFC 8410).
const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
const PREFIX: &str = "ed25519:";
const BYTES: usize = 32;

/// An Ed25519 public key. As text: `ed25519:` and 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PublicKey([u8; BYTES]);

impl PublicKey {
    /// Reads a DER-encoded SubjectPublicKeyInfo; `None` if it is not of an Ed25519 key.
    pub fn from_spki(der: &[u8]) -> Option<Self> {
        der.strip_prefix(&SPKI)?.try_into().ok().map(Self)
    }

    /// Reads the text form.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; BYTES];
        hex::decode_to_slice(text.strip_prefix(PREFIX)?, &mut bytes).ok()?;
        Some(Self(bytes))
    }

    /// Whether the holder of the private key signed this message.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0).verify(message, signature).is_ok()
    }
}

impl std::fmt::Display for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{PREFIX}{}", hex::encode(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_one_text_form() {
        let mut der = SPKI.to_vec();
        der.extend([7; BYTES]);
        let key = PublicKey::from_spki(&der).unwrap();
        assert_eq!(key.to_string(), format!("ed25519:{}", "07".repeat(32)));
        assert_eq!(PublicKey::parse(&key.to_string()), Some(key));
        assert_eq!(PublicKey::from_spki(&der[1..]), None);
        for bad in ["", "ed25519:", "ed25519:07", &"07".repeat(32), &format!("rsa:{}", "07".repeat(32))] {
            assert_eq!(PublicKey::parse(bad), None, "{bad}");
        }
    }
}
