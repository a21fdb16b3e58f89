//! Who holds a bearer token, as the API server reviews it: a pod, or any user of the cluster.

use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus, UserInfo};
use kube::{Api, Client, api::PostParams};
use sha2::{Digest, Sha256};

use crate::platform::recent::Recent;

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

/// Why a token proves nothing.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TokenError {
    /// There is none, or something that can't be one.
    #[error("the request carries no bearer token")]
    Missing,
    /// The API server doesn't authenticate it.
    #[error("the token is not valid, not for this server, or not that of a pod where one is asked for")]
    Refused,
    /// The API server doesn't answer.
    #[error("the API server doesn't review tokens")]
    Unavailable,
}

/// The pod that holds a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// Who may hold a token.
pub trait Holder: Clone + Send + Sync + 'static {
    /// The holder, by an authenticated review of the right audience.
    fn of(user: &UserInfo) -> Option<Self>;
}

/// Has tokens reviewed by the API server and caches the results. Only digests of tokens are kept.
pub struct Authenticator<H> {
    api: Api<TokenReview>,
    audience: &'static str,
    /// By the token's digest.
    known: Recent<[u8; 32], Option<H>>,
}

impl<H: Holder> Authenticator<H> {
    /// One for the cluster of this client and tokens of this audience.
    pub fn new(client: Client, audience: &'static str) -> Self {
        Self { api: Api::all(client), audience, known: Recent::new(CAPACITY) }
    }

    /// Who the value of an `Authorization` header proves to be its sender.
    pub async fn holder(&self, header: Option<&str>) -> Result<H, TokenError> {
        let token = bearer(header)?;
        let ask = || review(self.api.clone(), self.audience, token.to_string());
        let answer = self.known.ask(Sha256::digest(token).into(), ask).await;
        answer.ok_or(TokenError::Unavailable)?.ok_or(TokenError::Refused)
    }

    /// Whether the sender of this header was asked about already, or just is, so that to ask again costs nothing.
    pub fn knows(&self, header: Option<&str>) -> bool {
        let Ok(token) = bearer(header) else { return false };
        let digest = Sha256::digest(token).into();
        self.known.get(&digest).flatten().is_some() || self.known.is_asked(&digest)
    }
}

/// Has the API server review a token: who holds it, and how long that is true. `None` if it doesn't answer.
async fn review<H: Holder>(
    api: Api<TokenReview>,
    audience: &'static str,
    token: String,
) -> Option<(Option<H>, Duration)> {
    let spec = TokenReviewSpec { audiences: Some(vec![audience.into()]), token: Some(token) };
    let (review, params) = (TokenReview { spec, ..TokenReview::default() }, PostParams::default());
    let answer = match tokio::time::timeout(REVIEW, api.create(&params, &review)).await {
        Ok(Ok(review)) => user(review.status.as_ref(), audience).and_then(H::of),
        Ok(Err(error)) => {
            tracing::warn!(%error, "the API server does not review tokens");
            return None;
        }
        Err(_) => return None,
    };
    let lasts = if answer.is_some() { POSITIVE } else { NEGATIVE };
    Some((answer, lasts))
}

/// The token of a header, if it looks like one.
fn bearer(header: Option<&str>) -> Result<&str, TokenError> {
    let (scheme, token) = header.and_then(|h| h.split_once(' ')).ok_or(TokenError::Missing)?;
    let token = token.trim();
    let looks_right = token.len() <= MAX_TOKEN_BYTES && token.split('.').count() == 3;
    if scheme.eq_ignore_ascii_case("bearer") && looks_right { Ok(token) } else { Err(TokenError::Missing) }
}

/// The user of an authenticated review of a token with this audience.
fn user<'a>(review: Option<&'a TokenReviewStatus>, audience: &str) -> Option<&'a UserInfo> {
    let review = review.filter(|r| r.authenticated == Some(true))?;
    // A server without support for audiences omits them, and would accept any token.
    review.audiences.as_ref()?.iter().find(|a| *a == audience)?;
    review.user.as_ref()
}

impl Holder for Pod {
    fn of(user: &UserInfo) -> Option<Self> {
        let mut name = user.username.as_deref()?.strip_prefix("system:serviceaccount:")?.split(':');
        let (namespace, _account) = (name.next()?, name.next()?);
        let only = |key: &str| match user.extra.as_ref()?.get(key)?.as_slice() {
            [one] if !one.is_empty() => Some(one.clone()),
            _ => None,
        };
        Some(Self { namespace: namespace.into(), name: only(POD_NAME)?, uid: only(POD_UID)? })
    }
}

/// A user with a name.
impl Holder for UserInfo {
    fn of(user: &UserInfo) -> Option<Self> {
        user.username.as_ref().filter(|name| !name.is_empty())?;
        Some(user.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use axum::http::{Request, Response};
    use kube::client::Body;
    use serde_json::{Value, json};

    use super::*;

    fn review(change: impl Fn(&mut Value)) -> Option<Pod> {
        let mut status = json!({
            "authenticated": true,
            "audiences": ["koco-gateway"],
            "user": {
                "username": "system:serviceaccount:a:default",
                "extra": { POD_UID: ["p"], POD_NAME: ["x-1"] },
            },
        });
        change(&mut status);
        user(Some(&serde_json::from_value(status).unwrap()), "koco-gateway").and_then(Pod::of)
    }

    #[tokio::test]
    async fn requests_at_the_same_time_have_a_token_reviewed_once() {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let answer = move |_: Request<Body>| {
            count.fetch_add(1, Ordering::Relaxed);
            let review = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "metadata": {}, "spec": {},
                "status": { "authenticated": true, "audiences": ["a"], "user": { "username": "u" } } });
            async move {
                tokio::task::yield_now().await;
                Response::builder().body(Body::from(review.to_string().into_bytes()))
            }
        };
        let client = Client::new(tower::service_fn(answer), "default");
        let authenticator = Authenticator::<UserInfo>::new(client, "a");
        let all = (0..50).map(|_| authenticator.holder(Some("Bearer a.b.c")));
        for holder in futures::future::join_all(all).await {
            assert_eq!(holder.unwrap().username.as_deref(), Some("u"));
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        assert!(authenticator.knows(Some("Bearer a.b.c")) && !authenticator.knows(Some("Bearer a.b.d")));
    }

    #[test]
    fn a_pods_token_of_our_audience_is_taken() {
        let pod = Pod { namespace: "a".into(), name: "x-1".into(), uid: "p".into() };
        assert_eq!(review(|_| {}), Some(pod));
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
        assert_eq!(user(None, "koco-gateway"), None);
    }

    #[test]
    fn only_what_may_be_a_token_is_asked_about() {
        assert_eq!(bearer(Some("Bearer a.b.c")), Ok("a.b.c"));
        let long = format!("Bearer {}.b.c", "a".repeat(MAX_TOKEN_BYTES));
        for bad in [None, Some(""), Some("Bearer"), Some("Basic a.b.c"), Some("Bearer abc"), Some(long.as_str())] {
            assert_eq!(bearer(bad), Err(TokenError::Missing));
        }
    }
}
