//! The termination message of the agent's container: the agent's end, signed with the runner's key, because the agent
//! may write the file, too. Written by the runner, read wherever a pod's status is judged. No I/O.

#[cfg(feature = "operator")]
use rcgen::SigningKey;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{key::PublicKey, runner::AgentEnd};

/// What is signed is this and the message, so that a signature of something else never fits.
const CONTEXT: &[u8] = b"koco termination message\n";
/// How much the kubelet keeps of one container's message (`MaxContainerTerminationMessageLength`).
const KUBELET_BYTES: usize = 4096;
/// How much it keeps of all containers' of a pod together; each gets an equal share.
const POD_BYTES: usize = 12 * 1024;
/// The containers that a pod may have beyond those that it was created with: one that a webhook injects, and one for
/// debugging.
const FURTHER_CONTAINERS: usize = 2;

/// The length, in bytes, that a message may have in a pod that is created with so many containers of all kinds.
pub fn limit(containers: usize) -> usize {
    (POD_BYTES / (containers + FURTHER_CONTAINERS)).min(KUBELET_BYTES)
}

#[derive(Serialize, Deserialize)]
struct Signed {
    end: Box<RawValue>,
    /// Hexadecimal.
    signature: String,
}

/// Why a message can't be made.
#[cfg(feature = "operator")]
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The end does not serialize.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// The key can't sign.
    #[error(transparent)]
    Key(#[from] rcgen::Error),
}

/// The message for an end, signed with the runner's key.
#[cfg(feature = "operator")]
pub fn sign(end: &AgentEnd, key: &impl SigningKey) -> Result<String, SignError> {
    let end = serde_json::value::to_raw_value(end)?;
    let signature = hex::encode(key.sign(&to_sign(end.get()))?);
    Ok(serde_json::to_string(&Signed { end, signature })?)
}

fn to_sign(end: &str) -> Vec<u8> {
    [CONTEXT, end.as_bytes()].concat()
}

/// The end that a message tells of, if it was signed with this key.
pub fn verify(message: &str, key: &PublicKey) -> Option<AgentEnd> {
    let signed: Signed = serde_json::from_str(message).ok()?;
    let signature = hex::decode(&signed.signature).ok()?;
    key.verifies(&to_sign(signed.end.get()), &signature).then_some(())?;
    serde_json::from_str(signed.end.get()).ok()
}

#[cfg(test)]
mod tests {
    use rcgen::{KeyPair, PKCS_ED25519, PublicKeyData};

    use super::*;

    fn pair() -> (KeyPair, PublicKey) {
        let pair = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let key = PublicKey::from_spki(&pair.subject_public_key_info()).unwrap();
        (pair, key)
    }

    #[test]
    fn only_the_runners_own_message_is_believed() {
        let ((runner, key), (other, _)) = (pair(), pair());
        let text = r#"{"kind":"Succeeded","started":true,"result":{"a":  1}}"#;
        let end: AgentEnd = serde_json::from_str(text).unwrap();
        assert_eq!(verify(&sign(&end, &runner).unwrap(), &key), Some(end.clone()));
        assert!(verify(&sign(&end, &other).unwrap(), &key).is_none(), "another key");
        let changed = sign(&end, &runner).unwrap().replace("Succeeded", "Cancelled");
        assert!(verify(&changed, &key).is_none(), "another end");
        let signed = |message: &[u8]| {
            let (end, signature) = (serde_json::from_str(text).unwrap(), hex::encode(runner.sign(message).unwrap()));
            serde_json::to_string(&Signed { end, signature }).unwrap()
        };
        assert!(verify(&signed(&to_sign(text)), &key).is_some(), "as it is written, not as it would be");
        assert!(verify(&signed(text.as_bytes()), &key).is_none(), "a signature of something else");
        for bad in [text, "", "{}", &sign(&end, &runner).unwrap()[1..]] {
            assert!(verify(bad, &key).is_none(), "{bad}");
        }
    }

    #[test]
    fn each_container_gets_its_share() {
        assert_eq!([limit(1), limit(2), limit(4)], [4096, 3072, 2048]);
    }
}
