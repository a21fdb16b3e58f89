//! Which pod sends a request: its projected token, reviewed by the API server. Used by [`super::http`].

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::{Api, Client, api::PostParams};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use super::error::Refusal;
use crate::api::names;

/// How long a review is cached. Short, because a token is invalid once its pod is gone.
const POSITIVE: Duration = Duration::from_secs(60);
/// How long a refusal is cached: limits the reviews that a flood of bad requests causes.
const NEGATIVE: Duration = Duration::from_secs(3);
/// How many reviews are cached.
const CAPACITY: usize = 65_536;
/// No token of a service account is longer.
const MAX_TOKEN_BYTES: usize = 16 * 1024;
/// How long a review may take.
const REVIEW: Duration = Duration::from_secs(4);
/// The review's field with the pod's UID, for a bound token.
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
/// The field with the pod's name.
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";

/// The pod that sends a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub pod_name: String,
    /// Its UID.
    pub pod_uid: String,
}

/// Cached reviews, by the token's digest.
type Known = HashMap<[u8; 32], (Option<Caller>, Instant)>;

/// Has tokens reviewed by the API server and caches the results. Only digests of tokens are kept.
pub struct Authenticator {
    api: Api<TokenReview>,
    known: Mutex<Known>,
}

impl Authenticator {
    /// One for the cluster of this client.
    pub fn new(client: Client) -> Self {
        Self { api: Api::all(client), known: Mutex::default() }
    }

    /// The pod that the value of an `Authorization` header proves.
    pub async fn caller(&self, header: Option<&str>) -> Result<Caller, Refusal> {
        let token = bearer(header)?;
        let digest: [u8; 32] = Sha256::digest(token).into();
        if let Some(answer) = self.remembered(&digest) {
            return answer.ok_or(Refusal::BadToken);
        }
        let review = TokenReview {
            spec: TokenReviewSpec {
                audiences: Some(vec![names::GATEWAY_AUDIENCE.into()]),
                token: Some(token.to_string()),
            },
            ..Default::default()
        };
        let params = PostParams::default();
        let asked = tokio::time::timeout(REVIEW, self.api.create(&params, &review)).await;
        let answer = match asked {
            Ok(Ok(review)) => caller(review.status.as_ref()),
            Ok(Err(error)) => {
                tracing::warn!(%error, "the API server does not review tokens");
                return Err(Refusal::ApiServer);
            }
            Err(_) => return Err(Refusal::ApiServer),
        };
        self.remember(digest, answer.clone());
        answer.ok_or(Refusal::BadToken)
    }

    fn remembered(&self, digest: &[u8; 32]) -> Option<Option<Caller>> {
        let known = self.known.lock();
        known.get(digest).filter(|(_, until)| Instant::now() < *until).map(|(answer, _)| answer.clone())
    }

    fn remember(&self, digest: [u8; 32], answer: Option<Caller>) {
        let mut known = self.known.lock();
        let now = Instant::now();
        if known.len() >= CAPACITY {
            known.retain(|_, (_, until)| now < *until);
            if known.len() >= CAPACITY {
                known.clear();
            }
        }
        let until = now + if answer.is_some() { POSITIVE } else { NEGATIVE };
        known.insert(digest, (answer, until));
    }
}

/// The token of a header, if it looks like one.
fn bearer(header: Option<&str>) -> Result<&str, Refusal> {
    let (scheme, token) = header.and_then(|h| h.split_once(' ')).ok_or(Refusal::NoToken)?;
    let token = token.trim();
    let looks_right = token.len() <= MAX_TOKEN_BYTES && token.split('.').count() == 3;
    if scheme.eq_ignore_ascii_case("bearer") && looks_right { Ok(token) } else { Err(Refusal::NoToken) }
}

/// The pod of an authenticated review of a token with the gateway's audience.
fn caller(review: Option<&TokenReviewStatus>) -> Option<Caller> {
    let review = review.filter(|r| r.authenticated == Some(true))?;
    // A server without support for audiences omits them, and would accept any token.
    review.audiences.as_ref()?.iter().find(|a| *a == names::GATEWAY_AUDIENCE)?;
    let user = review.user.as_ref()?;
    let mut name = user.username.as_deref()?.strip_prefix("system:serviceaccount:")?.split(':');
    let (namespace, _account) = (name.next()?, name.next()?);
    let only = |key: &str| match user.extra.as_ref()?.get(key)?.as_slice() {
        [one] if !one.is_empty() => Some(one.clone()),
        _ => None,
    };
    Some(Caller { namespace: namespace.into(), pod_name: only(POD_NAME)?, pod_uid: only(POD_UID)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn review(change: impl Fn(&mut Value)) -> Option<Caller> {
        let mut status = json!({
            "authenticated": true,
            "audiences": ["koco-gateway"],
            "user": {
                "username": "system:serviceaccount:a:default",
                "extra": { POD_UID: ["p"], POD_NAME: ["x-1"] },
            },
        });
        change(&mut status);
        caller(Some(&serde_json::from_value(status).unwrap()))
    }

    #[test]
    fn a_pods_token_of_our_audience_is_taken() {
        let caller = Caller { namespace: "a".into(), pod_name: "x-1".into(), pod_uid: "p".into() };
        assert_eq!(review(|_| {}), Some(caller));
    }

    #[test]
    fn anything_else_is_not() {
        assert_eq!(review(|s| s["authenticated"] = json!(false)), None);
        assert_eq!(review(|s| s["audiences"] = json!(["https://kubernetes.default.svc"])), None);
        assert_eq!(review(|s| s["audiences"] = json!(null)), None);
        assert_eq!(review(|s| s["user"]["username"] = json!("system:node:n")), None);
        assert_eq!(review(|s| s["user"]["extra"] = json!({})), None);
        assert_eq!(review(|s| s["user"]["extra"][POD_UID] = json!(["p", "q"])), None);
        assert_eq!(review(|s| s["user"]["extra"][POD_NAME] = json!([""])), None);
        assert_eq!(caller(None), None);
    }

    #[test]
    fn only_what_may_be_a_token_is_asked_about() {
        assert_eq!(bearer(Some("Bearer a.b.c")), Ok("a.b.c"));
        let long = format!("Bearer {}.b.c", "a".repeat(MAX_TOKEN_BYTES));
        for bad in [None, Some(""), Some("Bearer"), Some("Basic a.b.c"), Some("Bearer abc"), Some(long.as_str())] {
            assert_eq!(bearer(bad), Err(Refusal::NoToken));
        }
    }
}
