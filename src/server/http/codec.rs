//! `/codec/decode` and `/codec/encode`: Temporal's protocol of a codec server, by which its UI and its command line show
//! payloads that are encrypted to those who may read them: `get agentjobs/payloads` in all namespaces, for a payload doesn't
//! tell whose it is. Used by [`super::router`].

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::{
    Extension, Json, Router,
    extract::{DefaultBodyLimit, State, rejection::JsonRejection},
    http::{HeaderName, HeaderValue, Method, header},
    routing::post,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use k8s_openapi::api::authentication::v1::UserInfo;
use serde::{Deserialize, Serialize};
use temporalio_common::protos::temporal::api::common::v1::Payload;
use tower_http::cors::CorsLayer;

use super::{Refusal, SharedState, User};
use crate::{
    server::{Server, access::Verb},
    temporal::{Codec, CodecError},
};

/// The largest body. Temporal takes none larger from its clients.
const MAX_BODY: usize = 4 * 1024 * 1024;
/// How long a browser remembers that it may ask.
const REMEMBERED: Duration = Duration::from_secs(600);
/// The header in which Temporal's UI names the namespace.
const NAMESPACE: HeaderName = HeaderName::from_static("x-namespace");

/// Payloads as protobuf's JSON has them.
#[derive(Serialize, Deserialize)]
pub struct Payloads {
    #[serde(default)]
    payloads: Vec<Encoded>,
}

/// A payload: everything in it is Base64.
#[derive(Serialize, Deserialize, Debug, PartialEq)]
struct Encoded {
    #[serde(default)]
    metadata: HashMap<String, String>,
    #[serde(default)]
    data: String,
}

/// The paths.
pub fn router() -> Router<Arc<Server>> {
    Router::new()
        .route("/codec/decode", post(decode))
        .route("/codec/encode", post(encode))
        .layer(DefaultBodyLimit::max(MAX_BODY))
}

/// What tells browsers that pages of these origins may ask.
pub fn cors(origins: &[HeaderValue]) -> CorsLayer {
    CorsLayer::new()
        .allow_origin(origins.to_vec())
        .allow_methods([Method::POST])
        .allow_headers([header::AUTHORIZATION, header::CONTENT_TYPE, NAMESPACE])
        .max_age(REMEMBERED)
}

async fn decode(
    State(server): SharedState,
    Extension(user): User,
    body: Result<Json<Payloads>, JsonRejection>,
) -> Result<Json<Payloads>, Refusal> {
    convert(&server, &user, body, Codec::decode).await
}

async fn encode(
    State(server): SharedState,
    Extension(user): User,
    body: Result<Json<Payloads>, JsonRejection>,
) -> Result<Json<Payloads>, Refusal> {
    convert(&server, &user, body, Codec::encode).await
}

async fn convert(
    server: &Server,
    user: &UserInfo,
    body: Result<Json<Payloads>, JsonRejection>,
    convert: impl Fn(&Codec, Payload) -> Result<Payload, CodecError>,
) -> Result<Json<Payloads>, Refusal> {
    if !server.access.may(user, Verb::GetPayloads, None, None).await? {
        return Err(Refusal::Forbidden("get agentjobs/payloads in all namespaces"));
    }
    let codec = server.codec.as_ref().ok_or(Refusal::NoSuchPath)?;
    let Json(asked) = body.map_err(|rejection| Refusal::Malformed(rejection.body_text()))?;
    let payloads = asked.payloads.into_iter().map(|payload| {
        let payload = payload.read().ok_or_else(|| Refusal::Malformed("a payload is in Base64".into()))?;
        let converted = convert(codec, payload).map_err(|e| Refusal::Malformed(e.to_string()))?;
        Ok(Encoded::from(converted))
    });
    Ok(Json(Payloads { payloads: payloads.collect::<Result<_, Refusal>>()? }))
}

impl Encoded {
    fn read(self) -> Option<Payload> {
        let bytes = |text: String| BASE64_STANDARD.decode(text).ok();
        let metadata = self.metadata.into_iter().map(|(name, value)| Some((name, bytes(value)?)));
        Some(Payload { metadata: metadata.collect::<Option<_>>()?, data: bytes(self.data)?, ..Default::default() })
    }
}

impl From<Payload> for Encoded {
    fn from(payload: Payload) -> Self {
        let text = |bytes: Vec<u8>| BASE64_STANDARD.encode(bytes);
        let metadata = payload.metadata.into_iter().map(|(name, value)| (name, text(value))).collect();
        Self { metadata, data: text(payload.data) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_payload_is_read_as_it_was_written() {
        let text = json!({ "metadata": { "encoding": "anNvbi9wbGFpbg==" }, "data": "MQ==" });
        let encoded: Encoded = serde_json::from_value(text.clone()).unwrap();
        let payload = encoded.read().unwrap();
        assert_eq!((payload.metadata["encoding"].as_slice(), payload.data.as_slice()), (&b"json/plain"[..], &b"1"[..]));
        assert_eq!(serde_json::to_value(Encoded::from(payload)).unwrap(), text);
        for nonsense in [json!({ "data": "?" }), json!({ "metadata": { "encoding": "?" } })] {
            assert_eq!(serde_json::from_value::<Encoded>(nonsense).unwrap().read(), None);
        }
        assert_eq!(serde_json::from_value::<Encoded>(json!({})).unwrap().read(), Some(Payload::default()));
    }
}
