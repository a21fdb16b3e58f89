//! `/api/v1/executions/FID/events`: a page of events, or all of them as they come. Used by [`super::router`].

use axum::{
    Extension, Json,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Refusal, SharedState, User,
    executions::find,
    room::held,
    stream::{self, Client, EVENT_STREAM, JsonFrames},
};
use crate::{
    database::{Kind, StoredEvent},
    platform::http::Connection,
    protocol::events,
    server::access::Verb,
};

/// How many events a page has unless the request says so, and at most.
const LIMIT: (u32, u32) = (100, 1000);

/// The parameters of a request.
#[derive(Deserialize, JsonSchema, Default)]
#[serde(default, deny_unknown_fields)]
pub struct Parameters {
    /// After this row.
    after: i64,
    /// How many, 100 if it isn't said, at most 1,000. A page may have fewer: it ends after half a megabyte.
    limit: Option<u32>,
}

/// An event as it is answered.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Event")]
pub struct Item<'a> {
    /// Its number within the execution, from 1.
    row: i64,
    /// The number of the run that sent it; 0 for what the server adds.
    run: i64,
    /// Its number within that run, from 1.
    number: i64,
    /// When, in seconds since 1970, by the clock of the run's node.
    ts: f64,
    /// What it is, such as `stdout` or `result`.
    kind: &'static str,
    /// Its text; what it means is up to its kind.
    payload: &'a str,
}

impl<'a> From<&'a StoredEvent> for Item<'a> {
    fn from(stored: &'a StoredEvent) -> Self {
        let StoredEvent { row, run, seq, event } = stored;
        Self { row: *row, run: *run, number: *seq, ts: event.ts, kind: word(event.kind), payload: &event.payload }
    }
}

/// A page.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "EventList")]
pub struct List<'a> {
    /// The events, the oldest first.
    items: Vec<Item<'a>>,
    /// For the parameter `after` of the next page.
    after: i64,
    /// Whether the execution has ended. Then an empty page is the last, but for what may come late.
    ended: bool,
}

/// The kind of a batch's event as the database has it: both have the same, in the same order.
pub fn kind(kind: events::Kind) -> Kind {
    let both = events::Kind::ALL.into_iter().zip(Kind::ALL);
    both.into_iter().find(|(ours, _)| *ours == kind).map_or(Kind::Debug, |(_, theirs)| theirs)
}

/// The word for a kind.
pub fn word(kind: Kind) -> &'static str {
    let mut both = events::Kind::ALL.into_iter().zip(Kind::ALL);
    both.find(|(_, theirs)| *theirs == kind).map_or("debug", |(ours, _)| ours.as_str())
}

/// A page of an execution's events, or all of them as server-sent events if the client accepts those.
pub async fn read(
    State(server): SharedState,
    Extension(user): User,
    Extension(connection): Extension<Connection>,
    Path(fid): Path<String>,
    headers: HeaderMap,
    parameters: Result<Query<Parameters>, QueryRejection>,
) -> Result<Response, Refusal> {
    let Query(parameters) = parameters.map_err(|rejection| Refusal::Malformed(rejection.body_text()))?;
    let limit = parameters.limit.unwrap_or(LIMIT.0);
    if !(1..=LIMIT.1).contains(&limit) || parameters.after < 0 {
        return Err(Refusal::Malformed("limit: from 1 to 1000; after: 0 or the number of an event".into()));
    }
    let text = |name| headers.get(name).and_then(|h: &HeaderValue| h.to_str().ok());
    let (summary, _) = find(&server, &user, Verb::Get, &fid).await?;
    if text(header::ACCEPT).is_some_and(|types| types.contains(EVENT_STREAM)) {
        let after = stream::begin(&headers, parameters.after)?;
        let client = Client { user, connection: &connection, headers: &headers };
        return stream::open(server, client, summary, after, JsonFrames);
    }
    let ended = summary.ended().is_some();
    let Some(page) = server.database.page(summary.fid, parameters.after, limit).await? else {
        return Ok(Json(List { items: Vec::new(), after: parameters.after, ended }).into_response());
    };
    let room = server.limits.room.take(user.username.unwrap_or_default(), page).ok_or(Refusal::TooOften)?;
    let found = server.database.read(summary.fid, parameters.after, page).await?;
    // It always serializes.
    let list = List { items: found.iter().map(Item::from).collect(), after: page.last, ended };
    let text = serde_json::to_string(&list).unwrap_or_default();
    Ok(([(header::CONTENT_TYPE, "application/json")], held(text, room)).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_word_on_both_sides() {
        for (ours, theirs) in events::Kind::ALL.into_iter().zip(Kind::ALL) {
            assert_eq!((format!("{ours:?}"), kind(ours)), (format!("{theirs:?}"), theirs));
            assert_eq!(word(theirs), ours.as_str());
        }
    }
}
