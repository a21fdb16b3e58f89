//! The termination message of the agent's container: the agent's end, signed with the runner's key, because the agent
//! may write the file, too. Written by the runner, read wherever a pod's status is judged. No I/O.

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

/// The bytes that a runner signs for this end.
pub fn to_sign(end: &str) -> Vec<u8> {
    [CONTEXT, end.as_bytes()].concat()
}

/// The message: `end`, which is JSON, and its signature.
pub fn encode(end: &str, signature: &[u8]) -> Result<Vec<u8>, serde_json::Error> {
    let end = serde_json::from_str(end)?;
    serde_json::to_vec(&Signed { end, signature: hex::encode(signature) })
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
    use rcgen::{KeyPair, PKCS_ED25519, PublicKeyData, SigningKey};

    use super::*;

    const END: &str = r#"{"kind":"Succeeded","started":true,"result":{"a":  1}}"#;

    fn pair() -> (KeyPair, PublicKey) {
        let pair = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let key = PublicKey::from_spki(&pair.subject_public_key_info()).unwrap();
        (pair, key)
    }

    fn signed(pair: &KeyPair, end: &str) -> String {
        String::from_utf8(encode(end, &pair.sign(&to_sign(end)).unwrap()).unwrap()).unwrap()
    }

    #[test]
    fn only_the_runners_own_message_is_believed() {
        let ((runner, key), (other, _)) = (pair(), pair());
        assert!(verify(&signed(&runner, END), &key).is_some());
        assert!(verify(&signed(&other, END), &key).is_none(), "another key");
        let changed = signed(&runner, END).replace("Succeeded", "Cancelled");
        assert!(verify(&changed, &key).is_none(), "another end");
        let without_context = encode(END, &runner.sign(END.as_bytes()).unwrap()).unwrap();
        assert!(
            verify(std::str::from_utf8(&without_context).unwrap(), &key).is_none(),
            "a signature of something else"
        );
        for bad in [END, "", "{}", &signed(&runner, END)[1..]] {
            assert!(verify(bad, &key).is_none(), "{bad}");
        }
    }

    #[test]
    fn each_container_gets_its_share() {
        assert_eq!([limit(1), limit(2), limit(4)], [4096, 3072, 2048]);
    }
}
