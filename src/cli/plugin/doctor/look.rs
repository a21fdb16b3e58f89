//! Reads what [`super::judge`] decides by. What the caller may not read is no error: it is [`Seen::Hidden`].

use anyhow::Context;
use futures::{StreamExt, future::join_all, stream};
use k8s_openapi::{
    api::{
        admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding},
        apps::v1::Deployment,
        authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec},
        coordination::v1::Lease,
        core::v1::ConfigMap,
        discovery::v1::EndpointSlice,
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{ListParams, PostParams},
};

use super::super::{
    connect::Session,
    rights::{self, Right},
    server::{Access, Server, Trouble},
};
use crate::{
    api::names,
    platform::{clock, crds},
};

/// The labels of all that the chart installs.
const OURS: &str = "app.kubernetes.io/part-of=koco";
const COMPONENT: &str = "app.kubernetes.io/component";
const VERSION: &str = "app.kubernetes.io/version";
/// The component of the server.
const SERVER: &str = "server";
/// The lease of the controllers.
const LEASE: &str = "koco-controller";
/// How many rights are asked for at a time.
const AT_ONCE: usize = 8;

/// What was read, or why it wasn't.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Seen<T> {
    Is(T),
    Hidden(String),
}

impl<T> Seen<T> {
    fn of(answer: Result<T, kube::Error>) -> Self {
        match answer {
            Ok(seen) => Self::Is(seen),
            Err(kube::Error::Api(status)) if status.code == 403 => Self::Hidden("you may not read it".into()),
            Err(e) => Self::Hidden(e.to_string()),
        }
    }

    fn map<U>(self, f: impl FnOnce(T) -> U) -> Seen<U> {
        match self {
            Self::Is(seen) => Seen::Is(f(seen)),
            Self::Hidden(why) => Seen::Hidden(why),
        }
    }
}

/// All that was looked at.
#[derive(Clone, Debug)]
pub(super) struct Observed {
    /// The namespace that koco runs in.
    pub operator: String,
    /// The namespace of the caller's jobs.
    pub namespace: String,
    /// The API server's version, such as 1 and 33.
    pub version: (u32, u32),
    /// By how many seconds the API server's clock is ahead of this machine's.
    pub ahead: i64,
    /// The API server's time.
    pub now: Timestamp,
    /// The schema version of each CRD, 0 without one; `None`: it isn't there.
    pub crds: Vec<(&'static str, Seen<Option<u32>>)>,
    /// Whether the API server serves koco's resources.
    pub served: Seen<bool>,
    pub roles: Seen<Vec<Role>>,
    /// The controllers' lease; `None`: there is none.
    pub lease: Seen<Option<Leader>>,
    /// How many gateways take connections.
    pub gateways: Seen<usize>,
    /// Whether the gateway has published its certificate authority.
    pub authority: Seen<bool>,
    pub policies: Seen<Vec<Policy>>,
    /// As whom the server was asked for the caller's namespace, or what is in the way; `None`: there is no server.
    pub server: Option<Result<String, Trouble>>,
    /// What the caller may do in that namespace.
    pub rights: Vec<(Right, Seen<bool>)>,
}

/// A role's Deployment.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Role {
    /// `controller`, `gateway`, `worker`, ...
    pub role: String,
    pub name: String,
    pub wanted: i32,
    pub ready: i32,
    pub version: String,
    /// Temporal's address in its environment.
    pub temporal: Option<String>,
}

/// Who leads.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Leader {
    pub holder: String,
    pub renewed: Option<Timestamp>,
    pub seconds: i32,
}

/// An admission policy.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Policy {
    pub name: String,
    /// Whether a binding puts it in force.
    pub bound: bool,
}

/// Looks at everything. An error only if the API server can't be reached.
pub(super) async fn all(session: &Session, access: &Access) -> anyhow::Result<Observed> {
    let (client, operator) = (session.client(), access.operator_namespace.as_str());
    let version = client.apiserver_version().await.context("the API server can't be reached")?;
    let (now, machine) = (clock::now(), clock::machine());
    let crds = join_all(names::CRDS.map(async |name| (name, crd(&client, name).await))).await;
    let roles = Seen::of(roles(&client, operator).await);
    let server = match &roles {
        Seen::Is(roles) if access.url().is_none() && roles.iter().all(|role| role.role != SERVER) => None,
        _ => Some(server(session, access).await),
    };
    Ok(Observed {
        operator: operator.into(),
        namespace: session.namespace.clone(),
        version: (number(&version.major), number(&version.minor)),
        ahead: now.as_second() - machine.as_second(),
        now,
        crds,
        served: served(&client).await,
        roles,
        lease: Seen::of(Api::<Lease>::namespaced(client.clone(), operator).get_opt(LEASE).await).map(|l| l.map(leader)),
        gateways: Seen::of(gateways(&client, operator).await),
        authority: Seen::of(authority(&client, operator).await),
        policies: Seen::of(policies(&client).await),
        server,
        rights: rights(&client, &session.namespace).await,
    })
}

/// The digits that a version begins with: some clusters say `33+`.
fn number(text: &str) -> u32 {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().unwrap_or(0)
}

/// Whether the API server serves koco's resources.
async fn served(client: &Client) -> Seen<bool> {
    match client.list_api_group_resources(names::API_VERSION).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Seen::Is(false),
        answer => Seen::of(answer.map(|list| !list.resources.is_empty())),
    }
}

async fn crd(client: &Client, name: &str) -> Seen<Option<u32>> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    Seen::of(api.get_metadata_opt(name).await).map(|found| found.map(|crd| crds::version(&crd.metadata)))
}

async fn roles(client: &Client, operator: &str) -> Result<Vec<Role>, kube::Error> {
    let api: Api<Deployment> = Api::namespaced(client.clone(), operator);
    Ok(api.list(&ListParams::default().labels(OURS)).await?.items.into_iter().map(role).collect())
}

fn label(meta: &ObjectMeta, name: &str) -> String {
    meta.labels.as_ref().and_then(|labels| labels.get(name)).cloned().unwrap_or_default()
}

fn role(deployment: Deployment) -> Role {
    let (meta, spec) = (deployment.metadata, deployment.spec.unwrap_or_default());
    let pod = spec.template.spec.unwrap_or_default();
    let mut env = pod.containers.iter().flat_map(|c| c.env.iter().flatten());
    let temporal = env.find(|e| e.name == "TEMPORAL_ADDRESS").and_then(|e| e.value.clone());
    Role {
        role: label(&meta, COMPONENT),
        version: label(&meta, VERSION),
        name: meta.name.unwrap_or_default(),
        wanted: spec.replicas.unwrap_or(1),
        ready: deployment.status.and_then(|s| s.ready_replicas).unwrap_or(0),
        temporal: temporal.filter(|address| !address.is_empty()),
    }
}

fn leader(lease: Lease) -> Leader {
    let spec = lease.spec.unwrap_or_default();
    Leader {
        holder: spec.holder_identity.unwrap_or_default(),
        renewed: spec.renew_time.map(|t| t.0),
        seconds: spec.lease_duration_seconds.unwrap_or(0),
    }
}

async fn gateways(client: &Client, operator: &str) -> Result<usize, kube::Error> {
    let api: Api<EndpointSlice> = Api::namespaced(client.clone(), operator);
    // The slices of a Service have its labels.
    let slices = api.list(&ListParams::default().labels(&format!("{OURS},{COMPONENT}=gateway"))).await?;
    let endpoints = slices.items.iter().flat_map(|slice| slice.endpoints.iter());
    Ok(endpoints.filter(|e| e.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true)).count())
}

async fn authority(client: &Client, operator: &str) -> Result<bool, kube::Error> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), operator);
    let found = api.get_opt(names::GATEWAY_CA).await?;
    Ok(found.and_then(|map| map.data).is_some_and(|data| data.get("ca.crt").is_some_and(|text| !text.is_empty())))
}

/// Asks the server whether its database answers, and for the archive of the caller's namespace. Returns as whom.
async fn server(session: &Session, access: &Access) -> Result<String, Trouble> {
    let mut server = Server::find(session, access).await?;
    server.get("/health", &[]).await?;
    let parameters = [("namespace", session.namespace.clone()), ("limit", "1".to_string())];
    server.get("/api/v1/executions", &parameters).await?;
    Ok(server.asks_as())
}

async fn policies(client: &Client) -> Result<Vec<Policy>, kube::Error> {
    let ours = ListParams::default().labels(OURS);
    let (policies, bindings): (Api<ValidatingAdmissionPolicy>, Api<ValidatingAdmissionPolicyBinding>) =
        (Api::all(client.clone()), Api::all(client.clone()));
    let bindings = bindings.list(&ours).await?;
    let bound: Vec<_> = bindings.items.into_iter().filter_map(|b| b.spec?.policy_name).collect();
    let policy = |policy: ValidatingAdmissionPolicy| {
        // What the API server says of types is no fault: a policy for several kinds names fields that one of them has.
        let name = policy.metadata.name.unwrap_or_default();
        Policy { bound: bound.contains(&name), name }
    };
    Ok(policies.list(&ours).await?.items.into_iter().map(policy).collect())
}

async fn rights(client: &Client, namespace: &str) -> Vec<(Right, Seen<bool>)> {
    let ask = |right: Right| async move { (right, may(client, namespace, right).await) };
    stream::iter(rights::all()).map(ask).buffered(AT_ONCE).collect().await
}

async fn may(client: &Client, namespace: &str, (verb, group, resource): Right) -> Seen<bool> {
    let (resource, subresource) = resource.split_once('/').map_or((resource, None), |(r, s)| (r, Some(s.to_string())));
    let asked = ResourceAttributes {
        namespace: Some(namespace.into()),
        verb: Some(verb.into()),
        group: Some(group.into()),
        resource: Some(resource.into()),
        subresource,
        ..ResourceAttributes::default()
    };
    let spec =
        SelfSubjectAccessReviewSpec { resource_attributes: Some(asked), ..SelfSubjectAccessReviewSpec::default() };
    let review = SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() };
    let api: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    Seen::of(api.create(&PostParams::default(), &review).await).map(|review| review.status.is_some_and(|s| s.allowed))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_role_is_read_from_its_deployment() {
        let deployment = json!({
            "metadata": { "name": "koco-worker", "labels": { COMPONENT: "worker", VERSION: "0.1.0" } },
            "spec": { "replicas": 2, "selector": {}, "template": { "spec": { "containers": [{ "name": "koco",
                "env": [{ "name": "TEMPORAL_ADDRESS", "value": "t:7233" }] }] } } },
            "status": { "readyReplicas": 1 },
        });
        let wanted = Role {
            role: "worker".into(),
            name: "koco-worker".into(),
            wanted: 2,
            ready: 1,
            version: "0.1.0".into(),
            temporal: Some("t:7233".into()),
        };
        assert_eq!(role(serde_json::from_value(deployment).unwrap()), wanted);
    }

    #[test]
    fn versions_may_have_a_sign() {
        assert_eq!([number("33"), number("33+"), number("")], [33, 33, 0]);
    }
}
