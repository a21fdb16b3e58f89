//! Counts a Kubernetes client's requests to the API server. An observer of the client's answers, so that none is forgotten.

use std::time::Instant;

use axum::http::{HeaderMap, Method, StatusCode, Uri};
use prometheus_client::metrics::{counter::Counter, histogram::Histogram};

use super::{Labelled, Registration};
use crate::platform::answers::Observer;

/// Of requests to the API server.
#[derive(Clone, Debug)]
pub struct RequestMetrics {
    /// By verb, resource and the response's code.
    requests: Labelled<Counter, 3>,
    /// Until the response's head, by verb.
    seconds: Labelled<Histogram, 1>,
    /// Writes that failed because the object had changed or its name was taken, by resource.
    conflicts: Labelled<Counter, 1>,
}

fn latencies() -> Histogram {
    Histogram::new([0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0])
}

impl Default for RequestMetrics {
    fn default() -> Self {
        Self {
            requests: Labelled::new(["verb", "resource", "code"], Counter::default),
            seconds: Labelled::new(["verb"], latencies),
            conflicts: Labelled::new(["resource"], Counter::default),
        }
    }
}

impl RequestMetrics {
    pub(super) fn register(&self, all: &mut Registration) {
        all.labelled(
            "kubernetes_requests",
            "Requests to the API server; code is error where none was answered",
            &self.requests,
        );
        all.seconds("kubernetes_request", "Until the API server began to answer", &self.seconds);
        all.labelled("conflicts", "Writes that the API server refused with a conflict", &self.conflicts);
    }

    fn count(&self, verb: &'static str, resource: &'static str, answer: Option<StatusCode>) {
        self.requests.of([verb, resource, answer.map_or("error", code)]).inc();
        if answer == Some(StatusCode::CONFLICT) {
            self.conflicts.of([resource]).inc();
        }
    }
}

/// The resources that koco's roles ask for, with their subresources.
const RESOURCES: [&str; 18] = [
    "agentjobs",
    "agentjobs/status",
    "agentruns",
    "agentruns/status",
    "pods",
    "nodes",
    "namespaces",
    "secrets",
    "configmaps",
    "leases",
    "events",
    "networkpolicies",
    "tokenreviews",
    "customresourcedefinitions",
    "endpoints",
    "endpointslices",
    "services",
    "serviceaccounts",
];

/// The resource of a request, in the words of RBAC.
fn resource(path: &str) -> &'static str {
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    let group = match parts.next() {
        Some("api") => 1,
        Some("apis") => 2,
        _ => return "other",
    };
    let mut parts: Vec<&str> = parts.skip(group).collect();
    if parts.first() == Some(&"namespaces") && parts.len() > 2 {
        parts.drain(..2);
    }
    let asked = match parts.as_slice() {
        [resource, _, subresource, ..] => format!("{resource}/{subresource}"),
        [resource, ..] => (*resource).to_string(),
        [] => return "other",
    };
    RESOURCES.into_iter().find(|known| *known == asked).unwrap_or("other")
}

fn verb(method: &Method, uri: &Uri) -> &'static str {
    let watch = uri.query().is_some_and(|q| q.split('&').any(|p| p == "watch=true" || p == "watch=1"));
    match method.as_str() {
        "GET" if watch => "WATCH",
        "GET" => "GET",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        _ => "other",
    }
}

/// The codes that API servers and koco's server answer with.
const CODES: [(u16, &str); 16] = [
    (200, "200"),
    (201, "201"),
    (204, "204"),
    (400, "400"),
    (401, "401"),
    (403, "403"),
    (404, "404"),
    (405, "405"),
    (409, "409"),
    (410, "410"),
    (413, "413"),
    (422, "422"),
    (429, "429"),
    (500, "500"),
    (503, "503"),
    (504, "504"),
];

/// The word for a code.
pub(super) fn code(status: StatusCode) -> &'static str {
    let known = CODES.into_iter().find(|(code, _)| *code == status.as_u16());
    known.map_or("other", |(_, word)| word)
}

impl Observer for RequestMetrics {
    /// Verb, resource, and when.
    type Asked = (&'static str, &'static str, Instant);

    fn asked(&self, method: &Method, uri: &Uri) -> Self::Asked {
        (verb(method, uri), resource(uri.path()), Instant::now())
    }

    fn answered(&self, (verb, resource, began): Self::Asked, answer: Option<(StatusCode, &HeaderMap)>) {
        self.count(verb, resource, answer.map(|(status, _)| status));
        self.seconds.of([verb]).observe(began.elapsed().as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use axum::http::{Request, Response};
    use tower::{Layer, Service};

    use super::*;
    use crate::platform::answers::Observed;

    #[test]
    fn a_request_is_counted_under_words_of_ours() {
        for (path, wanted) in [
            ("/api/v1/namespaces/kube-system", "namespaces"),
            ("/api/v1/namespaces/n/pods/p", "pods"),
            ("/apis/kodosumi.io/v1alpha1/agentjobs", "agentjobs"),
            ("/apis/kodosumi.io/v1alpha1/namespaces/n/agentruns/r/status", "agentruns/status"),
            ("/apis/kodosumi.io/v1alpha1/namespaces/pods/agentjobs/pods", "agentjobs"),
            ("/apis/authentication.k8s.io/v1/tokenreviews", "tokenreviews"),
            ("/api/v1/namespaces/n/canaries/c", "other"),
            ("/version", "other"),
            ("/api", "other"),
        ] {
            assert_eq!(resource(path), wanted, "{path}");
        }
        let uri = |text: &str| text.parse::<Uri>().unwrap();
        assert_eq!(verb(&Method::GET, &uri("/x?labelSelector=a&watch=true")), "WATCH");
        assert_eq!(verb(&Method::GET, &uri("/x?limit=1")), "GET");
        assert_eq!(verb(&Method::OPTIONS, &uri("/x")), "other");
        assert_eq!([200, 409, 418].map(|n| code(StatusCode::from_u16(n).unwrap())), ["200", "409", "other"]);
    }

    #[tokio::test]
    async fn a_clients_requests_are_counted() {
        let metrics = super::super::Metrics::default();
        let answer = |request: Request<()>| async move {
            if request.method() == Method::GET {
                return Err("no connection");
            }
            Ok(Response::builder().status(409).body(()).unwrap())
        };
        let mut client = Observed(metrics.requests.clone()).layer(tower::service_fn(answer));
        let ask =
            |method: &str| Request::builder().method(method).uri("/api/v1/namespaces/n/pods/canary").body(()).unwrap();
        client.call(ask("PUT")).await.unwrap();
        client.call(ask("GET")).await.unwrap_err();
        let text = metrics.encode(super::super::Format::OpenMetrics).unwrap();
        for line in [
            r#"koco_kubernetes_requests_total{verb="PUT",resource="pods",code="409"} 1"#,
            r#"koco_kubernetes_requests_total{verb="GET",resource="pods",code="error"} 1"#,
            r#"koco_conflicts_total{resource="pods"} 1"#,
            r#"koco_kubernetes_request_seconds_count{verb="GET"} 1"#,
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
        assert!(!text.contains("canary"));
    }
}
