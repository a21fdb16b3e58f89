//! Whether the cluster's CustomResourceDefinitions are those that this release needs. An older definition
//! silently drops new fields, so a role waits, unready, and logs what it waits for.

use std::time::Duration;

use k8s_openapi::{
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client};

use crate::api::{SCHEMA_VERSION, names};

/// How often they are read.
const LOOK: Duration = Duration::from_secs(3);

/// Why a role can't start yet.
#[derive(Debug, thiserror::Error)]
pub enum CrdError {
    /// It doesn't exist.
    #[error("CustomResourceDefinition {0} is missing: apply crds/ of this release, or upgrade the chart")]
    Missing(String),
    /// It is of an older release.
    #[error(
        "CustomResourceDefinition {name} has schema version {found}, and this release needs {SCHEMA_VERSION}: apply crds/ \
         of this release, or upgrade the chart"
    )]
    Old {
        /// Its name.
        name: String,
        /// Its schema version, 0 if it has none.
        found: u32,
    },
    /// The request failed.
    #[error("get CustomResourceDefinition {0}: {1}")]
    Api(String, kube::Error),
}

impl CrdError {
    /// One stable word.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Missing(_) => "CrdMissing",
            Self::Old { .. } => "CrdOld",
            Self::Api(..) => "ApiServer",
        }
    }
}

/// The schema version of a definition, 0 if it has none.
pub fn version(metadata: &ObjectMeta) -> u32 {
    let said = metadata.annotations.as_ref().and_then(|a| a.get(names::ANNOTATION_SCHEMA_VERSION));
    said.and_then(|v| v.parse().ok()).unwrap_or(0)
}

async fn look(api: &Api<CustomResourceDefinition>, name: &str) -> Result<(), CrdError> {
    // Its schema is large, and not what is asked for.
    let found = api.get_metadata_opt(name).await.map_err(|e| CrdError::Api(name.into(), e))?;
    let crd = found.ok_or_else(|| CrdError::Missing(name.into()))?;
    match version(&crd.metadata) {
        found if found < SCHEMA_VERSION => Err(CrdError::Old { name: name.into(), found }),
        _ => Ok(()),
    }
}

/// Waits until all definitions exist and are new enough; logs each new reason why not. With `guess`, an unreachable API
/// server is assumed to have them, for roles that can start without Kubernetes.
pub async fn ready(client: &Client, guess: bool) {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let mut said = None;
    for name in names::CRDS {
        while let Err(error) = look(&api, name).await {
            let answered = !matches!(error, CrdError::Api(_, ref e) if !matches!(e, kube::Error::Api(_)));
            if guess && !answered {
                return;
            }
            let words = error.to_string();
            if said.as_ref() != Some(&words) {
                tracing::error!(reason = error.reason(), "{words}");
                said = Some(words);
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::{Json, Router, extract::Path, http::StatusCode, response::IntoResponse, routing::get};
    use kube::CustomResourceExt;
    use parking_lot::Mutex;
    use serde_json::{Value, json};

    use super::*;
    use crate::api::{AgentJob, AgentRun};

    /// A client of a fake API server with a given AgentRun definition.
    async fn server(answers: Arc<Mutex<Option<Value>>>) -> Client {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let answer = move |Path(name): Path<String>| async move {
            let jobs = serde_json::to_value(AgentJob::crd()).ok();
            let found = if name.starts_with("agentjobs") { jobs } else { answers.lock().clone() };
            let gone = || {
                json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404,
                "reason": "NotFound", "message": "no" })
            };
            match found {
                Some(crd) => Json(crd).into_response(),
                None => (StatusCode::NOT_FOUND, Json(gone())).into_response(),
            }
        };
        let app = Router::new().route("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}", get(answer));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Client::try_from(kube::Config::new(url.parse().unwrap())).unwrap()
    }

    #[tokio::test]
    async fn a_role_waits_for_definitions_that_are_there_and_new_enough() {
        let mut old = serde_json::to_value(AgentRun::crd()).unwrap();
        old["metadata"]["annotations"] = Value::Null;
        let answers = Arc::new(Mutex::new(None));
        let client = server(answers.clone()).await;
        let api: Api<CustomResourceDefinition> = Api::all(client.clone());
        let name = "agentruns.kodosumi.io";
        assert_eq!(look(&api, name).await.unwrap_err().reason(), "CrdMissing");
        *answers.lock() = Some(old);
        let error = look(&api, name).await.unwrap_err();
        assert!(
            error.reason() == "CrdOld" && error.to_string().contains(&format!("needs {SCHEMA_VERSION}")),
            "{error}"
        );
        let waiting = tokio::spawn(async move { ready(&client, true).await });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        *answers.lock() = Some(serde_json::to_value(AgentRun::crd()).unwrap());
        waiting.await.unwrap();
    }

    #[tokio::test]
    async fn what_can_begin_without_kubernetes_does_not_wait_for_it() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let nobody = Client::try_from(kube::Config::new("http://127.0.0.1:9".parse().unwrap())).unwrap();
        ready(&nobody, true).await;
    }

    #[test]
    fn the_generated_definitions_say_the_version_that_is_needed() {
        for crd in [AgentJob::crd(), AgentRun::crd()] {
            assert_eq!(version(&crd.metadata), SCHEMA_VERSION);
            assert!(names::CRDS.contains(&crd.metadata.name.as_deref().unwrap()));
        }
        assert_eq!(version(&ObjectMeta::default()), 0);
    }
}
