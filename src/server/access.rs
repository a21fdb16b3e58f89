//! Who may do what with executions: Kubernetes' RBAC says it, for `agentjobs/events`, which exists for that alone. Used
//! by [`super::http`].
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
}

impl Verb {
    fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Delete => "delete",
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
}

impl Access {
    pub fn new(client: Client) -> Self {
        Self { client, known: Recent::new(CAPACITY) }
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
        if let Some(answer) = self.known.get(&question) {
            return Ok(answer);
        }
        let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let (review, params) = (review(user, verb, namespace, name), PostParams::default());
        let answer = match tokio::time::timeout(QUESTION, api.create(&params, &review)).await {
            Ok(Ok(review)) => review.status.is_some_and(|status| status.allowed && status.denied != Some(true)),
            Ok(Err(error)) => {
                tracing::warn!(%error, "the API server does not review what users may do");
                return Err(Unavailable);
            }
            Err(_) => return Err(Unavailable),
        };
        self.known.insert(question, answer, CACHED);
        Ok(answer)
    }

    /// Whether a user may do something to an execution.
    pub async fn may_one(&self, user: &UserInfo, verb: Verb, execution: &Summary) -> Result<bool, Unavailable> {
        let (namespace, name) = (&execution.namespace, &execution.name);
        if self.may(user, verb, None, None).await? {
            return Ok(true);
        }
        Ok(self.may(user, verb, Some(namespace), Some(name)).await?
            && !execution.namespace_uid.is_empty()
            && self.namespace_uid(namespace).await?.is_some_and(|uid| uid == execution.namespace_uid))
    }

    /// The UID that a namespace has now. Never cached: it may just have been deleted and created anew.
    pub async fn namespace_uid(&self, namespace: &str) -> Result<Option<String>, Unavailable> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        match tokio::time::timeout(QUESTION, api.get_metadata_opt(namespace)).await {
            Ok(Ok(found)) => Ok(found.and_then(|found| found.metadata.uid)),
            // A name that can't be one.
            Ok(Err(kube::Error::Api(e))) if e.code == 404 || e.code == 400 => Ok(None),
            _ => Err(Unavailable),
        }
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
                subresource: Some("events".into()),
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
    use serde_json::json;

    use super::*;

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
