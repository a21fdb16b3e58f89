//! Encryption of what goes into Temporal: inputs, results, signals, answers to queries, and messages of errors. Used by
//! [`super::connect`] for the connections of controller, worker and gateway, and by the server for those who may read
//! payloads.
//!
//! A payload becomes AES-256-GCM's nonce and ciphertext of the whole payload, its metadata included, with the id of its key
//! beside it. What is large is compressed first. What is not encrypted is read as it is, so that a history may begin
//! before encryption did; and what doesn't decrypt is left as it is, so that who reaches Temporal holds up no
//! workflow with it: it is then no valid signal, or no valid result. A key that isn't there is different: the workflow
//! waits for it.
//!
//! The limits: AES-256-GCM with random nonces is good for 2^32 payloads of a key, and a payload isn't bound to its place:
//! who writes to Temporal's database may put one in place of another.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    io::{Read, Write},
    path::Path,
    sync::Arc,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use flate2::{Compression, read::ZlibDecoder, write::ZlibEncoder};
use futures::future::{BoxFuture, ready};
use prost::Message;
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand::{SecureRandom, SystemRandom},
};
use temporalio_common::{
    data_converters::{
        DataConverter, DefaultFailureConverter, PayloadCodec, PayloadConversionError, PayloadConverter,
        SerializationContextData,
    },
    protos::temporal::api::{common::v1::Payload, failure::v1::Failure},
};

/// A payload's encoding is in its metadata. These are the words of Temporal's own examples.
const ENCODING: &str = "encoding";
const ENCRYPTED: &[u8] = b"binary/encrypted";
const COMPRESSED: &[u8] = b"binary/zlib";
const KEY_ID: &str = "encryption-key-id";
const CIPHER: &str = "encryption-cipher";
const AES: &[u8] = b"AES-256-GCM";
/// What has more bytes is compressed, if that makes it smaller.
const LARGE: usize = 1024;
/// The most that a payload has when it is no longer compressed. Temporal takes no larger ones.
const MAXIMUM: u64 = 64 * 1024 * 1024;

/// Why there is no codec, or why it doesn't decode.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The folder, or a key in it, can't be read.
    #[error("the keys in {0}: {1}")]
    Unreadable(String, std::io::Error),
    /// It isn't 32 bytes in Base64.
    #[error("the key {0} is not 32 bytes in Base64")]
    NotAKey(String),
    /// The key to encrypt with isn't there.
    #[error("there is no key {0} in the folder of keys")]
    NoCurrentKey(String),
    /// A payload was encrypted with a key that isn't there.
    #[error("a payload is encrypted with the key {0}, which is not there")]
    UnknownKey(String),
    /// The system has no random numbers, or encryption fails.
    #[error("encryption fails")]
    Encryption,
}

impl CodecError {
    /// One stable word.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unreadable(..) => "KeysUnreadable",
            Self::NotAKey(_) => "InvalidKey",
            Self::NoCurrentKey(_) => "NoCurrentKey",
            Self::UnknownKey(_) => "UnknownKey",
            Self::Encryption => "Encryption",
        }
    }
}

/// Encrypts with one key, and decrypts with any that there is.
#[derive(Clone)]
pub struct Codec {
    keys: Arc<Keys>,
}

struct Keys {
    current: String,
    all: BTreeMap<String, LessSafeKey>,
}

impl std::fmt::Debug for Codec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Codec with the key {}", self.keys.current)
    }
}

impl Codec {
    /// Reads the keys: each file of the folder is one, 32 bytes in Base64; its name is its id. `current` encrypts.
    pub fn read(folder: &Path, current: &str) -> Result<Self, CodecError> {
        let unreadable = |e| CodecError::Unreadable(folder.display().to_string(), e);
        let mut all = Vec::new();
        for entry in fs::read_dir(folder).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let id = entry.file_name().to_string_lossy().into_owned();
            // Those of a mounted Secret's own.
            if !id.starts_with('.') {
                all.push((id, fs::read_to_string(entry.path()).map_err(unreadable)?));
            }
        }
        Self::new(current, all)
    }

    fn new(current: &str, keys: impl IntoIterator<Item = (String, String)>) -> Result<Self, CodecError> {
        let mut all = BTreeMap::new();
        for (id, text) in keys {
            let key = BASE64_STANDARD.decode(text.trim()).ok().filter(|key| key.len() == AES_256_GCM.key_len());
            let key = key.and_then(|key| UnboundKey::new(&AES_256_GCM, &key).ok());
            let key = key.ok_or_else(|| CodecError::NotAKey(id.clone()))?;
            all.insert(id, LessSafeKey::new(key));
        }
        if !all.contains_key(current) {
            return Err(CodecError::NoCurrentKey(current.into()));
        }
        Ok(Self { keys: Arc::new(Keys { current: current.into(), all }) })
    }

    /// What the SDK is to convert with.
    pub(super) fn converter(&self) -> DataConverter {
        DataConverter::new(PayloadConverter::default(), DefaultFailureConverter::new(true), self.clone())
    }

    /// Compresses and encrypts a payload.
    pub fn encode(&self, payload: Payload) -> Result<Payload, CodecError> {
        let payload = compressed(payload);
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(|_| CodecError::Encryption)?;
        let mut sealed = payload.encode_to_vec();
        let key = self.keys.all.get(&self.keys.current).ok_or(CodecError::Encryption)?;
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut sealed)
            .map_err(|_| CodecError::Encryption)?;
        let metadata =
            [(ENCODING, ENCRYPTED.to_vec()), (CIPHER, AES.to_vec()), (KEY_ID, self.keys.current.clone().into_bytes())];
        let metadata: HashMap<String, Vec<u8>> = metadata.into_iter().map(|(k, v)| (k.to_string(), v)).collect();
        Ok(Payload { metadata, data: [nonce.as_slice(), &sealed].concat(), ..Default::default() })
    }

    /// Decrypts a payload. One that isn't encrypted, or not by any of these keys, is returned as it is: only what has been
    /// compressed here is decompressed, for others could send little that becomes much.
    pub fn decode(&self, payload: Payload) -> Result<Payload, CodecError> {
        if payload.metadata.get(ENCODING).map(Vec::as_slice) != Some(ENCRYPTED) {
            return Ok(payload);
        }
        let id = String::from_utf8_lossy(payload.metadata.get(KEY_ID).map_or(&[], Vec::as_slice)).into_owned();
        let key = self.keys.all.get(&id).ok_or(CodecError::UnknownKey(id))?;
        Ok(opened(key, &payload.data).map_or(payload, decompressed))
    }

    /// The message of a failure, which may be in an encrypted attribute.
    pub fn message(&self, failure: &Failure) -> Option<String> {
        let attributes = self.decode(failure.encoded_attributes.clone()?).ok()?;
        let attributes: serde_json::Value = serde_json::from_slice(&attributes.data).ok()?;
        Some(attributes.get("message")?.as_str()?.to_string())
    }
}

fn opened(key: &LessSafeKey, data: &[u8]) -> Option<Payload> {
    let (nonce, sealed) = data.split_first_chunk::<NONCE_LEN>()?;
    let mut sealed = sealed.to_vec();
    let opened = key.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::empty(), &mut sealed).ok()?;
    Payload::decode(&*opened).ok()
}

/// The payload in a smaller one, if there is much to gain.
fn compressed(payload: Payload) -> Payload {
    if payload.data.len() <= LARGE {
        return payload;
    }
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    // Into memory: neither fails.
    let written = encoder.write_all(&payload.encode_to_vec()).and_then(|()| encoder.finish());
    match written {
        Ok(data) if data.len() < payload.data.len() => {
            let metadata = HashMap::from([(ENCODING.to_string(), COMPRESSED.to_vec())]);
            Payload { metadata, data, ..Default::default() }
        }
        _ => payload,
    }
}

fn decompressed(payload: Payload) -> Payload {
    if payload.metadata.get(ENCODING).map(Vec::as_slice) != Some(COMPRESSED) {
        return payload;
    }
    let mut data = Vec::new();
    let read = ZlibDecoder::new(payload.data.as_slice()).take(MAXIMUM).read_to_end(&mut data);
    read.ok().and_then(|_| Payload::decode(data.as_slice()).ok()).unwrap_or(payload)
}

impl PayloadCodec for Codec {
    fn encode(
        &self,
        _: &SerializationContextData,
        payloads: Vec<Payload>,
    ) -> BoxFuture<'static, Result<Vec<Payload>, PayloadConversionError>> {
        Box::pin(ready(all(payloads, |payload| Codec::encode(self, payload))))
    }

    fn decode(
        &self,
        _: &SerializationContextData,
        payloads: Vec<Payload>,
    ) -> BoxFuture<'static, Result<Vec<Payload>, PayloadConversionError>> {
        Box::pin(ready(all(payloads, |payload| Codec::decode(self, payload))))
    }
}

fn all(
    payloads: Vec<Payload>,
    convert: impl Fn(Payload) -> Result<Payload, CodecError>,
) -> Result<Vec<Payload>, PayloadConversionError> {
    let converted: Result<Vec<_>, _> = payloads.into_iter().map(convert).collect();
    converted.map_err(|e| PayloadConversionError::EncodingError(Box::new(e)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fuzz::check;

    fn key(byte: u8) -> String {
        format!("{}\n", BASE64_STANDARD.encode([byte; 32]))
    }

    fn codec(current: &str, ids: &[(&str, u8)]) -> Codec {
        Codec::new(current, ids.iter().map(|(id, byte)| ((*id).to_string(), key(*byte)))).unwrap()
    }

    fn payload(data: &[u8]) -> Payload {
        let metadata = HashMap::from([(ENCODING.to_string(), b"json/plain".to_vec())]);
        Payload { metadata, data: data.to_vec(), ..Default::default() }
    }

    fn contains(all: &[u8], part: &[u8]) -> bool {
        all.windows(part.len()).any(|window| window == part)
    }

    #[test]
    fn what_is_encrypted_shows_nothing_and_comes_back() {
        let codec = codec("a", &[("a", 1)]);
        for data in [b"".to_vec(), b"\"canary\"".to_vec(), b"canary".repeat(1000)] {
            let plain = payload(&data);
            let encoded = codec.encode(plain.clone()).unwrap();
            assert!(!contains(&encoded.encode_to_vec(), b"canary") && !contains(&encoded.encode_to_vec(), b"json"));
            assert_eq!(codec.decode(encoded.clone()).unwrap(), plain);
            assert_ne!(codec.encode(plain).unwrap().data, encoded.data, "a nonce is used once");
        }
        let large = codec.encode(payload(&b"canary".repeat(1000))).unwrap();
        assert!(large.data.len() < 500, "compressed to {}", large.data.len());
    }

    #[test]
    fn a_key_that_was_followed_by_another_still_reads() {
        let (before, after) = (codec("a", &[("a", 1)]), codec("b", &[("a", 1), ("b", 2)]));
        let plain = payload(b"1");
        let old = before.encode(plain.clone()).unwrap();
        let new = after.encode(plain.clone()).unwrap();
        assert_eq!(after.decode(old).unwrap(), plain);
        assert_eq!(after.decode(new.clone()).unwrap(), plain);
        assert_eq!(
            before.decode(new).unwrap_err().to_string(),
            "a payload is encrypted with the key b, which is not there"
        );
    }

    #[test]
    fn what_was_written_before_encryption_or_by_others_is_left_as_it_is() {
        let codec = codec("a", &[("a", 1)]);
        assert_eq!(codec.decode(payload(b"1")).unwrap(), payload(b"1"));
        let much = compressed(payload(&[0; 100_000]));
        assert!(much.data.len() < 1000 && codec.decode(much.clone()).unwrap() == much);
        let mut forged = codec.encode(payload(b"1")).unwrap();
        for at in 0..forged.data.len() {
            forged.data[at] ^= 1;
            assert_eq!(codec.decode(forged.clone()).unwrap(), forged, "byte {at}");
            forged.data[at] ^= 1;
        }
        let other = Codec::new("a", [("a".to_string(), key(9))]).unwrap().encode(payload(b"1")).unwrap();
        assert_eq!(codec.decode(other.clone()).unwrap(), other, "another key of the same id");
        for data in [vec![], vec![0; NONCE_LEN - 1], vec![0; NONCE_LEN]] {
            let short = Payload { data, ..forged.clone() };
            assert_eq!(codec.decode(short.clone()).unwrap(), short);
        }
    }

    #[test]
    fn any_payload_comes_back_and_any_nonsense_is_survived() {
        let codec = codec("a", &[("a", 1)]);
        let encodings = prop_oneof![Just("json/plain"), Just("binary/encrypted"), Just("binary/zlib"), Just("x")];
        let parts = (encodings, any::<Vec<u8>>(), any::<bool>());
        check("a payload and its codec", parts, |(encoding, data, named)| {
            let mut metadata = HashMap::from([(ENCODING.to_string(), encoding.as_bytes().to_vec())]);
            if named {
                metadata.insert(KEY_ID.into(), b"a".to_vec());
            }
            let any = Payload { metadata, data, ..Default::default() };
            // Compressed twice it would come back as it was, too, but for what only looks compressed.
            let encoded = codec.encode(any.clone()).map_err(|e| TestCaseError::fail(e.to_string()))?;
            if encoding != "binary/zlib" {
                prop_assert_eq!(codec.decode(encoded).ok(), Some(any.clone()));
            }
            prop_assert!(codec.decode(any).is_ok() || !named);
            Ok(())
        });
    }

    #[test]
    fn keys_that_are_none_are_refused_by_name() {
        let of = |current: &str, text: &str| Codec::new(current, [("a".to_string(), text.to_string())]).map(drop);
        assert_eq!(of("a", "x").unwrap_err().to_string(), "the key a is not 32 bytes in Base64");
        assert_eq!(of("a", &BASE64_STANDARD.encode([1; 31])).unwrap_err().reason(), "InvalidKey");
        assert_eq!(of("b", &key(1)).unwrap_err().reason(), "NoCurrentKey");
        assert_eq!(Codec::read(Path::new("/no/such/folder"), "a").unwrap_err().reason(), "KeysUnreadable");
        assert_eq!(format!("{:?}", codec("a", &[("a", 1)])), "Codec with the key a");
    }

    #[test]
    fn the_message_of_an_encrypted_failure_is_found() {
        let codec = codec("a", &[("a", 1)]);
        let attributes = payload(br#"{"message":"forbidden","stack_trace":""}"#);
        let attributes = Some(codec.encode(attributes).unwrap());
        let failure =
            Failure { message: "Encoded failure".into(), encoded_attributes: attributes, ..Default::default() };
        assert_eq!(codec.message(&failure).as_deref(), Some("forbidden"));
        assert_eq!(codec.message(&Failure::default()), None);
    }
}
