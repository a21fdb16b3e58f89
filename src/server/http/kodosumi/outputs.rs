//! `/outputs`: one execution's status, events and result. Used by [`super::router`].

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Extension,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use k8s_openapi::api::authentication::v1::UserInfo;

use super::{
    super::{
        Refusal, SharedState, User, executions,
        room::held,
        stream::{self, Client},
    },
    Asked, Parameters,
    execution::{Execution, Status},
    frames::{Frames, View},
    page, render,
};
use crate::{
    database::{DatabaseError, Fid, Kind},
    platform::http::{Connection, limits::Place},
    server::{Server, access::Verb},
};

/// How long it is waited for an execution that is not there yet: less than a request may take. A fid is known once its
/// AgentJob exists, and the archive follows within moments.
const WAIT: Duration = Duration::from_secs(10);
/// How often it is looked for then.
const LOOK: Duration = Duration::from_millis(500);
/// What a page of an agent's HTML may do: nothing. Neither scripts nor forms, no requests, and no origin of ours.
const POLICY: &str = "sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'";

/// An execution that the user may read. With `extended`, one that may not be there yet: who may not read it waits as long,
/// and so doesn't learn whether it is.
async fn find(server: &Server, user: &UserInfo, fid: &str, extended: bool) -> Result<Execution, Refusal> {
    let until = Instant::now() + WAIT;
    loop {
        match executions::find(server, user, Verb::Get, fid).await {
            Ok((summary, object)) => return Ok(Execution::new(summary, &object)),
            Err(Refusal::Forbidden(_) | Refusal::NotFound) if extended && Instant::now() + LOOK < until => {
                tokio::time::sleep(LOOK).await;
            }
            Err(refusal) => return Err(refusal),
        }
    }
}

/// What there is of an event.
pub(super) enum Found {
    Event(String, Place<String>),
    Nothing,
    /// The user's clients have not taken what they asked for before.
    NoRoom,
}

/// The payload of the last event of a kind that a run has sent.
pub(super) async fn last_of(
    server: &Server,
    user: &str,
    fid: Fid,
    run: i64,
    kind: Kind,
) -> Result<Found, DatabaseError> {
    let Some(page) = server.database.last(fid, run, kind).await? else { return Ok(Found::Nothing) };
    let Some(room) = server.limits.room.take(user.into(), page) else { return Ok(Found::NoRoom) };
    let found = server.database.read(fid, page.last - 1, page).await?;
    // It may have gone meanwhile.
    Ok(found.into_iter().next().map_or(Found::Nothing, |stored| Found::Event(stored.event.payload, room)))
}

/// The `final` of an execution that has succeeded: as its agent sent it, else by its result.
async fn result(
    server: &Server,
    user: &UserInfo,
    execution: &Execution,
) -> Result<Option<(String, Option<Place<String>>)>, Refusal> {
    if execution.status() != Status::Finished {
        return Ok(None);
    }
    let user = user.username.as_deref().unwrap_or_default();
    match last_of(server, user, execution.summary.fid, execution.run(), Kind::Final).await? {
        Found::Event(payload, room) => Ok(Some((payload, Some(room)))),
        Found::Nothing => Ok(Some((execution.result(), None))),
        Found::NoRoom => Err(Refusal::TooOften),
    }
}

/// A body, whose bytes count until the client has taken it.
fn body(text: String, room: Option<Place<String>>) -> Body {
    match room {
        Some(room) => held(text, room).into(),
        None => text.into(),
    }
}

/// An answer in JSON.
fn json(text: String, room: Option<Place<String>>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body(text, room)).into_response()
}

/// `/outputs/status/FID`.
pub async fn status(
    State(server): SharedState,
    Extension(user): User,
    Path(fid): Path<String>,
    parameters: Asked,
) -> Result<Response, Refusal> {
    let extended = Parameters::of(parameters)?.flag("extended", false)?;
    let execution = find(&server, &user, &fid, extended).await?;
    let (last, room) = result(&server, &user, &execution).await?.unzip();
    Ok(json(execution.told(last.as_deref()), room.flatten()))
}

/// An execution, its result or what stands for it, and the room that this takes.
async fn whole(
    server: &Server,
    user: &UserInfo,
    fid: &str,
    parameters: Asked,
) -> Result<(Execution, String, Option<Place<String>>), Refusal> {
    let extended = Parameters::of(parameters)?.flag("extended", true)?;
    let execution = find(server, user, fid, extended).await?;
    let (last, room) = result(server, user, &execution).await?.unzip();
    let last = last.unwrap_or_else(|| execution.without_result());
    Ok((execution, last, room.flatten()))
}

/// `/outputs/raw/FID`: the result, or what stands for it.
pub async fn raw(
    State(server): SharedState,
    Extension(user): User,
    Path(fid): Path<String>,
    parameters: Asked,
) -> Result<Response, Refusal> {
    let (_, last, room) = whole(&server, &user, &fid, parameters).await?;
    Ok(json(last, room))
}

/// `/outputs/html/FID`: the same as a page.
pub async fn html(
    State(server): SharedState,
    Extension(user): User,
    Path(fid): Path<String>,
    parameters: Asked,
) -> Result<Response, Refusal> {
    let (execution, last, room) = whole(&server, &user, &fid, parameters).await?;
    let page = page::document(&execution, &render::html(Kind::Final, &last));
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    Ok((headers, body(page, room)).into_response())
}

/// What a stream is opened with.
struct Opened {
    server: Arc<Server>,
    user: UserInfo,
    connection: Connection,
    fid: String,
    headers: HeaderMap,
    parameters: Asked,
}

/// Answers with a stream. `extended` is what that is if the request doesn't say.
async fn open(opened: Opened, view: View, extended: bool) -> Result<Response, Refusal> {
    let Opened { server, user, connection, fid, headers, parameters } = opened;
    let parameters = Parameters::of(parameters)?;
    let after = stream::begin(&headers, 0)?;
    let execution = find(&server, &user, &fid, parameters.flag("extended", extended)?).await?;
    let html = view != View::Stream && !parameters.has("raw");
    let frames = Frames::new(view, html, &execution, after);
    let client = Client { user, connection: &connection, headers: &headers };
    stream::open(server, client, execution.summary, after, frames)
}

/// Defines the handler of a stream.
macro_rules! streams {
    ($($(#[$doc:meta])* $name:ident: $view:expr, extended $extended:literal;)*) => {$(
        $(#[$doc])*
        pub async fn $name(
            State(server): SharedState,
            Extension(user): User,
            Extension(connection): Extension<Connection>,
            Path(fid): Path<String>,
            headers: HeaderMap,
            parameters: Asked,
        ) -> Result<Response, Refusal> {
            open(Opened { server, user, connection, fid, headers, parameters }, $view, $extended).await
        }
    )*};
}

streams! {
    /// `/outputs/stream/FID`: all events.
    stream: View::Stream, extended false;
    /// `/outputs/main/FID`: all but what is printed.
    main: View::Main, extended true;
    /// `/outputs/stdio/FID`: what is printed.
    stdio: View::Stdio, extended false;
}
