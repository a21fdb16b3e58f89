//! Who may do what with executions: Kubernetes' RBAC says it, for `agentjobs/events` and `agentjobs/payloads`, which exist
//! for that alone. Used by [`super::http`].
//!
//! A right in a namespace holds for the jobs of that namespace, not for those of one before it that had the same name:
//! the namespace's UID is compared. A right in all namespaces holds for all.

use std::time::Duration;

use k8s_openapi::api::{
    authentication::v1::UserInfo,
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
    core::v1::Namespace,
};
use kube::{Api, Client, api::PostParams};

use crate::{database::Summary, platform::recent::Recent};

/// How long an answer is cached.
const CACHED: Duration = Duration::from_secs(10);
/// How many answers are cached.
const CAPACITY: usize = 16_384;
/// How long a question may take.
const QUESTION: Duration = Duration::from_secs(4);

/// What somebody wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// To read executions and their events.
    Get,
    /// To delete them from the archive.
    Delete,
    /// To read what is encrypted in Temporal.
    GetPayloads,
}

impl Verb {
    fn as_str(self) -> &'static str {
        match self {
            Self::Get | Self::GetPayloads => "get",
            Self::Delete => "delete",
        }
    }

    /// What of an AgentJob the right is for.
    fn subresource(self) -> &'static str {
        match self {
            Self::Get | Self::Delete => "events",
            Self::GetPayloads => "payloads",
        }
    }
}

/// The API server doesn't answer.
#[derive(Debug, thiserror::Error)]
#[error("the API server is unavailable")]
pub struct Unavailable;

/// A question to the API server: may this user, serialized, do that there?
type Question = (String, Verb, Option<String>, Option<String>);

/// Asks the API server, and caches its answers for a short while.
pub struct Access {
    client: Client,
    known: Recent<Question, bool>,
    /// The UIDs of namespaces.
    uids: Recent<String, Option<String>>,
}

impl Access {
    pub fn new(client: Client) -> Self {
        Self { client, known: Recent::new(CAPACITY), uids: Recent::new(CAPACITY) }
    }

    /// Whether a user may do something to the jobs of a namespace, or to one of them. Without a namespace: to all jobs of
    /// the cluster.
    pub async fn may(
        &self,
        user: &UserInfo,
        verb: Verb,
        namespace: Option<&str>,
        name: Option<&str>,
    ) -> Result<bool, Unavailable> {
        // A `UserInfo` always serializes.
        let text = serde_json::to_string(user).map_err(|_| Unavailable)?;
        let question = (text, verb, namespace.map(String::from), name.map(String::from));
        let ask = || {
            let (api, review) = (Api::all(self.client.clone()), review(user, verb, namespace, name));
            async move { Some((allows(api, review).await?, CACHED)) }
        };
        self.known.ask(question, ask).await.ok_or(Unavailable)
    }

    /// Whether a user may do something to an execution.
    pub async fn may_one(&self, user: &UserInfo, verb: Verb, execution: &Summary) -> Result<bool, Unavailable> {
        self.may_of(user, verb, execution, self.namespace_uid(&execution.namespace)).await
    }

    /// Whether a user who could do something to an execution a short while ago still may. Namespaces that were created
    /// anew are noticed a little later than by [`Self::may_one`], so that many who go on cost few questions.
    pub async fn may_still(&self, user: &UserInfo, verb: Verb, execution: &Summary) -> Result<bool, Unavailable> {
        let namespace = &execution.namespace;
        let ask = || {
            let (client, namespace) = (self.client.clone(), namespace.clone());
            async move { Some((uid(client, &namespace).await.ok()?, CACHED)) }
        };
        let uid = async { self.uids.ask(namespace.clone(), ask).await.ok_or(Unavailable) };
        self.may_of(user, verb, execution, uid).await
    }

    async fn may_of(
        &self,
        user: &UserInfo,
        verb: Verb,
        execution: &Summary,
        uid: impl Future<Output = Result<Option<String>, Unavailable>>,
    ) -> Result<bool, Unavailable> {
        let (namespace, name) = (&execution.namespace, &execution.name);
        if self.may(user, verb, None, None).await? {
            return Ok(true);
        }
        Ok(self.may(user, verb, Some(namespace), Some(name)).await?
            && !execution.namespace_uid.is_empty()
            && uid.await?.is_some_and(|uid| uid == execution.namespace_uid))
    }

    /// The UID that a namespace has now. Not cached: it may just have been deleted and created anew.
    pub async fn namespace_uid(&self, namespace: &str) -> Result<Option<String>, Unavailable> {
        uid(self.client.clone(), namespace).await
    }
}

/// What the API server says to a question; `None` if it doesn't answer.
async fn allows(api: Api<SubjectAccessReview>, review: SubjectAccessReview) -> Option<bool> {
    match tokio::time::timeout(QUESTION, api.create(&PostParams::default(), &review)).await {
        Ok(Ok(review)) => Some(review.status.is_some_and(|status| status.allowed && status.denied != Some(true))),
        Ok(Err(error)) => {
            tracing::warn!(%error, "the API server does not review what users may do");
            None
        }
        Err(_) => None,
    }
}

async fn uid(client: Client, namespace: &str) -> Result<Option<String>, Unavailable> {
    let api: Api<Namespace> = Api::all(client);
    match tokio::time::timeout(QUESTION, api.get_metadata_opt(namespace)).await {
        Ok(Ok(found)) => Ok(found.and_then(|found| found.metadata.uid)),
        // A name that can't be one.
        Ok(Err(kube::Error::Api(e))) if e.code == 404 || e.code == 400 => Ok(None),
        _ => Err(Unavailable),
    }
}

fn review(user: &UserInfo, verb: Verb, namespace: Option<&str>, name: Option<&str>) -> SubjectAccessReview {
    SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: user.username.clone(),
            uid: user.uid.clone(),
            groups: user.groups.clone(),
            extra: user.extra.clone(),
            resource_attributes: Some(ResourceAttributes {
                group: Some("kodosumi.io".into()),
                resource: Some("agentjobs".into()),
                subresource: Some(verb.subresource().into()),
                verb: Some(verb.as_str().into()),
                namespace: namespace.map(String::from),
                name: name.map(String::from),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
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
    use serde_json::json;

    use super::*;
    use crate::database::Fid;

    /// An API server where everybody may do that in one namespace, and how often it was asked for the namespace.
    fn api_server() -> (Client, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let answer = move |request: Request<Body>| {
            let count = count.clone();
            async move {
                let text = if request.uri().path().ends_with("/namespaces/n") {
                    count.fetch_add(1, Ordering::Relaxed);
                    json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "n", "uid": "u" } })
                        .to_string()
                } else {
                    let body = request.into_body().collect_bytes().await.unwrap();
                    let mut review: serde_json::Value = serde_json::from_slice(&body).unwrap();
                    let namespace = review["spec"]["resourceAttributes"]["namespace"].as_str();
                    review["status"] = json!({ "allowed": namespace == Some("n") });
                    review.to_string()
                };
                Response::builder().body(Body::from(text.into_bytes()))
            }
        };
        (Client::new(tower::service_fn(answer), "default"), asked)
    }

    #[tokio::test]
    async fn streams_that_go_on_share_a_question_and_each_that_begins_asks_anew() {
        let (client, asked) = api_server();
        let access = Access::new(client);
        let user: UserInfo = serde_json::from_value(json!({ "username": "ann" })).unwrap();
        let execution = |uid: &str| Summary {
            fid: Fid([0; 12]),
            namespace: "n".into(),
            namespace_uid: uid.into(),
            name: "j".into(),
            uid: String::new(),
            owner: String::new(),
            entry_point: String::new(),
            mode: String::new(),
            phase: String::new(),
            attempt: 0,
            error: String::new(),
            created: 0,
            started: None,
            finished: None,
            deleted: None,
            last_row: 0,
            run: 0,
        };
        let (ours, before) = (execution("u"), execution("before"));
        for _ in 0..9 {
            assert!(access.may_still(&user, Verb::Get, &ours).await.unwrap());
            assert!(!access.may_still(&user, Verb::Get, &before).await.unwrap());
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        for _ in 0..2 {
            assert!(access.may_one(&user, Verb::Get, &ours).await.unwrap());
        }
        assert_eq!(asked.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn a_review_names_the_user_with_groups_and_the_job() {
        let user: UserInfo = serde_json::from_value(json!({
            "username": "ann", "uid": "1", "groups": ["g"], "extra": { "k": ["v"] }
        }))
        .unwrap();
        let spec = |namespace, name| serde_json::to_value(review(&user, Verb::Get, namespace, name).spec).unwrap();
        assert_eq!(
            spec(Some("n"), Some("j")),
            json!({
                "user": "ann", "uid": "1", "groups": ["g"], "extra": { "k": ["v"] },
                "resourceAttributes": { "group": "kodosumi.io", "resource": "agentjobs", "subresource": "events",
                    "verb": "get", "namespace": "n", "name": "j" },
            })
        );
        assert_eq!(spec(None, None)["resourceAttributes"].get("namespace"), None);
    }
}
