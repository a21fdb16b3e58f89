//! The HTTP layer: paths, limits, authentication, errors as [`ErrorResponse`](crate::protocol::runner::ErrorResponse)s.
//! Every request passes [`guard`] before its body is read. Used by [`crate::gateway::run`].

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, FromRequest, Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::post,
};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::{
    auth::Caller,
    error::{Reason, Refusal},
};
use crate::{
    gateway::Gateway,
    platform::metrics::Metrics,
    protocol::runner::{
        Confirm, EndReport, Heartbeat, Job, PATH_CONFIRM, PATH_END, PATH_HEARTBEAT, PATH_MESSAGES, PATH_REGISTER,
        Register, Sender,
    },
};

/// The largest body, except of an end's report.
const MAX_BODY_BYTES: usize = 64 * 1024;
/// The largest report of an end: after the runner's own cuts, with room for longer encodings of numbers.
const MAX_OUTCOME_BYTES: usize = 256 * 1024;
/// How long a body may take to arrive.
const BODY: Duration = Duration::from_secs(5);
/// How long a request may take after that; a stream, until it begins.
const REQUEST: Duration = Duration::from_secs(15);

/// The paths that runners use.
pub fn router(gateway: Arc<Gateway>) -> Router {
    Router::new()
        .route(PATH_REGISTER, post(hello))
        .route(PATH_MESSAGES, post(orders))
        .route(PATH_HEARTBEAT, post(heartbeat))
        .route(PATH_CONFIRM, post(confirm))
        .route(PATH_END, post(outcome).layer(DefaultBodyLimit::max(MAX_OUTCOME_BYTES)))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(from_fn_with_state(gateway.clone(), guard))
        .fallback(|| async { Refusal::NoSuchPath })
        .method_not_allowed_fallback(|| async { Refusal::NoSuchMethod })
        .with_state(gateway)
}

/// Authentication, concurrency limit and time-out; counts refusals.
async fn guard(State(gateway): State<Arc<Gateway>>, mut request: Request, next: Next) -> Response {
    let header = request.headers().get(header::AUTHORIZATION).and_then(|h| h.to_str().ok()).map(str::to_string);
    let admitted = async {
        let place = gateway.requests.try_acquire().map_err(|_| Refusal::Busy)?;
        Ok::<_, Refusal>((gateway.authenticator.caller(header.as_deref()).await?, place))
    };
    let mut response = match admitted.await {
        Ok((caller, _place)) => {
            request.extensions_mut().insert(caller);
            timeout(REQUEST, next.run(request)).await.unwrap_or_else(|_| Refusal::Timeout.into_response())
        }
        Err(refusal) => {
            // A heartbeat may have been dropped, of an unknown runner: restart all liveness windows.
            if refusal.is_ours() {
                gateway.sessions.reset_liveness();
            }
            refusal.into_response()
        }
    };
    if let Some(Reason(reason)) = response.extensions().get().copied() {
        tracing::debug!(reason, "a request is refused");
        Metrics::count(&gateway.metrics.refused, reason);
        if response.status() == StatusCode::SERVICE_UNAVAILABLE {
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
type Known = Extension<Caller>;

async fn hello(
    State(gateway): SharedState,
    Extension(caller): Known,
    Payload(hello): Payload<Register>,
) -> Result<Json<Job>, Refusal> {
    gateway.hello(&caller, &hello).await.map(Json)
}

async fn orders(
    State(gateway): SharedState,
    Extension(caller): Known,
    Payload(sender): Payload<Sender>,
) -> Result<Response, Refusal> {
    let body = gateway.orders(&caller, &sender).await?;
    Ok(([(header::CONTENT_TYPE, "application/jsonl")], body).into_response())
}

async fn heartbeat(
    State(gateway): SharedState,
    Extension(caller): Known,
    Payload(heartbeat): Payload<Heartbeat>,
) -> Result<StatusCode, Refusal> {
    gateway.heartbeat(&caller, &heartbeat).await.map(|()| StatusCode::NO_CONTENT)
}

async fn confirm(
    State(gateway): SharedState,
    Extension(caller): Known,
    Payload(confirm): Payload<Confirm>,
) -> Result<StatusCode, Refusal> {
    gateway.confirm(&caller, &confirm).await.map(|()| StatusCode::NO_CONTENT)
}

async fn outcome(
    State(gateway): SharedState,
    Extension(caller): Known,
    Payload(report): Payload<EndReport>,
) -> Result<StatusCode, Refusal> {
    gateway.outcome(&caller, &report).await.map(|()| StatusCode::NO_CONTENT)
}
