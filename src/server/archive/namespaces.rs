//! The UIDs of the namespaces that jobs were created in. Used by [`super`].

use std::collections::HashMap;

use k8s_openapi::{api::core::v1::Namespace, apimachinery::pkg::apis::meta::v1::ObjectMeta, jiff::Timestamp};
use kube::{Api, Client};

use super::tried;
use crate::platform::clock;

/// A namespace as it was read.
#[derive(Clone, Debug, PartialEq)]
struct Known {
    uid: String,
    created: Timestamp,
    /// When it was asked for.
    read: Timestamp,
}

impl Known {
    /// Whether a job of that name's namespace that was created then must have been created in this one, rather than in one
    /// before or after it. Times have whole seconds.
    fn had(&self, created: Timestamp) -> bool {
        self.created <= created && created.as_second() < self.read.as_second()
    }
}

/// Reads namespaces as they are needed.
pub(super) struct Namespaces {
    api: Api<Namespace>,
    known: HashMap<String, Known>,
}

impl Namespaces {
    pub fn new(client: Client) -> Self {
        Self { api: Api::all(client), known: HashMap::new() }
    }

    /// The UID of the namespace that a job was created in at a time, empty if that namespace is gone. Waits for the API
    /// server.
    pub async fn uid(&mut self, name: &str, created: Timestamp) -> String {
        if let Some(known) = self.known.get(name).filter(|known| known.had(created)) {
            return known.uid.clone();
        }
        let read = || async {
            let at = clock::now();
            self.api.get_metadata_opt(name).await.map(|found| (at, found))
        };
        let (read, found) = tried("reading a namespace", |_| "ApiServer", read).await;
        let Some(ObjectMeta { uid, creation_timestamp: Some(begun), .. }) = found.map(|found| found.metadata) else {
            return String::new();
        };
        let uid = uid.unwrap_or_default();
        self.known.insert(name.into(), Known { uid: uid.clone(), created: begun.0, read });
        if begun.0 <= created { uid } else { String::new() }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use axum::http::{Request, Response, StatusCode};
    use kube::client::Body;
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn a_namespace_is_asked_for_until_the_api_server_answers() {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let answer = move |_: Request<Body>| {
            let fails = count.fetch_add(1, Ordering::Relaxed) < 2;
            let namespace = json!({
                "apiVersion": "v1", "kind": "Namespace",
                "metadata": { "name": "n", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z" },
            });
            let (code, text) = match fails {
                true => (StatusCode::INTERNAL_SERVER_ERROR, "no".to_string()),
                false => (StatusCode::OK, namespace.to_string()),
            };
            std::future::ready(Response::builder().status(code).body(Body::from(text.into_bytes())))
        };
        let mut namespaces = Namespaces::new(Client::new(tower::service_fn(answer), "default"));
        let created = "2026-01-01T00:00:10Z".parse().unwrap();
        assert_eq!(namespaces.uid("n", created).await, "u");
        assert_eq!(asked.load(Ordering::Relaxed), 3);
        // It is known now.
        assert_eq!((namespaces.uid("n", created).await.as_str(), asked.load(Ordering::Relaxed)), ("u", 3));
    }

    #[test]
    fn a_namespace_had_the_jobs_that_were_created_after_it_and_before_it_was_read() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let known = Known { uid: "u".into(), created: at(10), read: at(20) };
        let had: Vec<_> = [9, 10, 19, 20, 21].map(|second| known.had(at(second))).into();
        assert_eq!(had, [false, true, true, false, false]);
    }
}
