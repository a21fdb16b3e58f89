//! Paths, time-outs and the size of bodies. Used by [`crate::gateway::run`].

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, FromRequest, Path, Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use axum_server::tls::TlsInfo;
use serde::de::DeserializeOwned;
use tokio::time::timeout;
use tracing::Instrument;

use super::{
    error::{Reason, Refusal, SERVER_DOWN},
    spans,
};
use crate::{
    gateway::{
        Gateway,
        archive::Answer,
        requests::{Admitted, Client},
    },
    platform::{
        http::{Connection, client_key},
        metrics::Metrics,
        trace,
    },
    protocol::{
        events::MAX_BODY_BYTES as MAX_EVENTS_BYTES,
        key::PublicKey,
        runner::{Confirm, EndReport, Heartbeat, Job, Register, RunPath, verb},
    },
    runs,
};

/// The largest body: twice the largest result, with room for the message.
const MAX_BODY_BYTES: usize = 64 * 1024;
/// How long a body may take to arrive.
const BODY: Duration = Duration::from_secs(5);
/// How long a request may take in all; a stream, until it begins.
const REQUEST: Duration = Duration::from_secs(15);

/// The paths that runners use.
pub fn router(gateway: Arc<Gateway>) -> Router {
    Router::new()
        .route(&RunPath::pattern(verb::REGISTER), post(register))
        .route(&RunPath::pattern(verb::MESSAGES), get(messages))
        .route(&RunPath::pattern(verb::HEARTBEAT), post(heartbeat))
        .route(&RunPath::pattern(verb::CONFIRM), post(confirm))
        .route(&RunPath::pattern(verb::END), post(end))
        .route(&RunPath::pattern(verb::EVENTS), post(events))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .route_layer(from_fn_with_state(gateway.clone(), admit))
        .method_not_allowed_fallback(|| async { Refusal::NoSuchMethod })
        .fallback(|| async { Refusal::NoSuchPath })
        .layer(from_fn_with_state(gateway.clone(), count_refusals))
        .with_state(gateway)
}

/// Lets a request pass if its client is the run's runner. Its body has not been read until then.
async fn admit(
    State(gateway): State<Arc<Gateway>>,
    Path(run): Path<RunPath>,
    Extension(connection): Extension<Connection>,
    Extension(tls): Extension<Arc<TlsInfo>>,
    mut request: Request,
    next: Next,
) -> Response {
    let answer = async {
        let (registers, has_events) = {
            let verb = request.uri().path().rsplit('/').next();
            (verb == Some(verb::REGISTER), verb == Some(verb::EVENTS))
        };
        let key = client_key(&tls).and_then(|spki| PublicKey::from_spki(&spki)).ok_or(Refusal::NoKey)?;
        let token = request.headers().get(header::AUTHORIZATION).and_then(|h| h.to_str().ok()).filter(|_| registers);
        let client = Client { run, key, registers, has_events };
        let (admitted, _place) = gateway.admit(client, token, &connection).await?;
        let (of, recorded) = (admitted.run.clone(), spans::name(request.uri().path()));
        request.extensions_mut().insert(admitted);
        let start = trace::now();
        let response = next.run(request).instrument(runs::logged(&of)).await;
        if let Some(name) = recorded {
            spans::request(&of, name, start, &response);
        }
        Ok(response)
    };
    match timeout(REQUEST, answer).await {
        Ok(answer) => answer.unwrap_or_else(|refusal: Refusal| refusal.into_response()),
        Err(_) => Refusal::Timeout.into_response(),
    }
}

async fn count_refusals(State(gateway): State<Arc<Gateway>>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    if let Some(Reason(reason)) = response.extensions().get().copied() {
        tracing::debug!(reason, "a request is refused");
        Metrics::count(&gateway.metrics.refused, reason);
        // Another gateway would find the server down, too.
        if response.status() == StatusCode::SERVICE_UNAVAILABLE && reason != SERVER_DOWN {
            // The next request is to use a new connection, maybe to another gateway.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }
    response
}

/// A request's body: JSON, whole, in time.
struct Payload<T>(T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Payload<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let body = timeout(BODY, Bytes::from_request(request, state)).await.map_err(|_| Refusal::SlowBody)?;
        let body = body.map_err(|rejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Refusal::TooLarge,
            _ => Refusal::Malformed(rejection.body_text()),
        })?;
        serde_json::from_slice(&body).map(Self).map_err(|e| Refusal::Malformed(e.to_string()))
    }
}

type SharedState = State<Arc<Gateway>>;
type Runner = Extension<Admitted>;

async fn register(
    State(gateway): SharedState,
    Extension(runner): Runner,
    Payload(body): Payload<Register>,
) -> Result<Json<Option<Job>>, Refusal> {
    gateway.register(&runner, &body).await.map(Json)
}

async fn messages(State(gateway): SharedState, Extension(runner): Runner) -> Result<Response, Refusal> {
    let body = gateway.messages(&runner).await?;
    Ok(([(header::CONTENT_TYPE, "application/jsonl")], body).into_response())
}

async fn heartbeat(
    State(gateway): SharedState,
    Extension(runner): Runner,
    Payload(body): Payload<Heartbeat>,
) -> Result<StatusCode, Refusal> {
    gateway.heartbeat(&runner, &body).await.map(|()| StatusCode::NO_CONTENT)
}

async fn confirm(
    State(gateway): SharedState,
    Extension(runner): Runner,
    Payload(body): Payload<Confirm>,
) -> Result<StatusCode, Refusal> {
    gateway.confirm(&runner, &body).await.map(|()| StatusCode::NO_CONTENT)
}

async fn end(
    State(gateway): SharedState,
    Extension(runner): Runner,
    Payload(body): Payload<EndReport>,
) -> Result<StatusCode, Refusal> {
    gateway.end(&runner, &body).await.map(|()| StatusCode::NO_CONTENT)
}

/// Its body is not JSON, and may be larger than any other.
async fn events(State(gateway): SharedState, Extension(runner): Runner, request: Request) -> Result<Response, Refusal> {
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|h| h.to_str().ok()?.parse().ok());
    let body = gateway.limits.events.body(&runner.run, length.unwrap_or(MAX_EVENTS_BYTES), request.into_body());
    let (body, _room) = timeout(BODY, body).await.map_err(|_| Refusal::SlowBody)??;
    Ok(match gateway.events(&runner, body).await? {
        Answer::Stored(stored) => Json(stored).into_response(),
        Answer::Gap(stored) => (StatusCode::CONFLICT, Json(stored)).into_response(),
    })
}
