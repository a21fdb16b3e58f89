//! `/api/v1/executions`. Used by [`super::router`].

use axum::{
    Extension, Json,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::StatusCode,
};
use k8s_openapi::api::authentication::v1::UserInfo;
use serde_json::value::RawValue;

use super::{
    Refusal, SharedState, User,
    model::{Item, List, ListParameters, Whole},
};
use crate::{
    database::{Fid, Filter, Page, Summary},
    platform::clock,
    server::{Server, access::Verb},
};

/// A page of the executions that the user may read: of one namespace, or of all.
pub async fn list(
    State(server): SharedState,
    Extension(user): User,
    parameters: Result<Query<ListParameters>, QueryRejection>,
) -> Result<Json<List>, Refusal> {
    let Query(parameters) = parameters.map_err(|rejection| Refusal::Malformed(rejection.body_text()))?;
    Ok(Json(listed(&server, &user, parameters.filter()?).await?.into()))
}

/// A page of executions, if the user may read them all.
pub(super) async fn listed(server: &Server, user: &UserInfo, mut filter: Filter) -> Result<Page, Refusal> {
    confine(server, user, &mut filter, None).await?;
    Ok(server.database.list(&filter).await?)
}

/// Leaves of a list what the user may read, or refuses it. Who may not read all of it and names no namespace is asked for
/// the one that is given here.
pub(super) async fn confine(
    server: &Server,
    user: &UserInfo,
    filter: &mut Filter,
    otherwise: Option<&str>,
) -> Result<(), Refusal> {
    if server.access.may(user, Verb::Get, None, None).await? {
        return Ok(());
    }
    let forbidden = Refusal::Forbidden("get agentjobs/events in this namespace, or in all if none is named");
    let Some(namespace) = filter.namespace.take().or(otherwise.map(String::from)) else { return Err(forbidden) };
    if !server.access.may(user, Verb::Get, Some(&namespace), None).await? {
        return Err(forbidden);
    }
    // Not what another of that name has left.
    filter.namespace_uid = Some(server.access.namespace_uid(&namespace).await?.ok_or(forbidden)?);
    filter.namespace = Some(namespace);
    Ok(())
}

/// An execution.
pub async fn get(
    State(server): SharedState,
    Extension(user): User,
    Path(fid): Path<String>,
) -> Result<Json<Whole>, Refusal> {
    let (summary, job) = find(&server, &user, Verb::Get, &fid).await?;
    let raw = |json| RawValue::from_string(json).map_err(|_| Refusal::Database);
    let runs = server.database.runs(&summary).await?.into_iter().map(raw).collect::<Result<_, _>>()?;
    Ok(Json(Whole { item: Item::from(summary), runs, job: raw(job)? }))
}

/// Deletes an execution whose job is gone.
pub async fn delete(
    State(server): SharedState,
    Extension(user): User,
    Path(fid): Path<String>,
) -> Result<StatusCode, Refusal> {
    let (summary, _) = find(&server, &user, Verb::Delete, &fid).await?;
    if summary.deleted.is_none() {
        return Err(Refusal::JobExists);
    }
    server.database.delete(summary.fid, clock::now().as_millisecond()).await?;
    tracing::info!(fid = %summary.fid, namespace = summary.namespace, name = summary.name, user = user.username,
        "an execution is deleted from the archive");
    Ok(StatusCode::NO_CONTENT)
}

/// An execution to which the user may do that. Who may not learns nothing of what exists.
pub(super) async fn find(
    server: &Server,
    user: &UserInfo,
    verb: Verb,
    fid: &str,
) -> Result<(Summary, String), Refusal> {
    let fid: Fid = fid.parse().map_err(|what: &str| Refusal::Malformed(what.into()))?;
    let forbidden = match verb {
        Verb::Get => "get agentjobs/events of this job",
        Verb::Delete => "delete agentjobs/events of this job",
        Verb::GetPayloads => "get agentjobs/payloads of this job",
    };
    match server.database.get(fid).await? {
        Some(found) if server.access.may_one(user, verb, &found.0).await? => Ok(found),
        None if server.access.may(user, verb, None, None).await? => Err(Refusal::NotFound),
        _ => Err(Refusal::Forbidden(forbidden)),
    }
}
