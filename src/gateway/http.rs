//! The HTTP layer: paths, limits, authentication, errors as [`Problem`](crate::protocol::runner::Problem)s. Every request
//! passes [`guard`] before its body is read. Used by [`super::run`].

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Json, Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, Request, State, rejection::BytesRejection},
    http::{HeaderValue, StatusCode, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::post,
};
use serde::de::DeserializeOwned;

use super::{
    Gateway,
    auth::Caller,
    error::{Reason, Refusal},
};
use crate::{
    platform::metrics::Metrics,
    protocol::runner::{Job, PATH_CONFIRM, PATH_HEARTBEAT, PATH_HELLO, PATH_ORDERS, PATH_OUTCOME},
};

/// The largest body but an outcome's.
const MAX_BODY_BYTES: usize = 64 * 1024;
/// The largest outcome. What is recorded is cut to far less.
const MAX_OUTCOME_BYTES: usize = 1024 * 1024;
/// How long a request may take, its body included; a stream of orders, until it begins.
const REQUEST: Duration = Duration::from_secs(15);

type Body_ = Result<Bytes, BytesRejection>;

/// The paths that runners use.
pub fn router(gateway: Arc<Gateway>) -> Router {
    Router::new()
        .route(PATH_HELLO, post(hello))
        .route(PATH_ORDERS, post(orders))
        .route(PATH_HEARTBEAT, post(heartbeat))
        .route(PATH_CONFIRM, post(confirm))
        .route(PATH_OUTCOME, post(outcome).layer(DefaultBodyLimit::max(MAX_OUTCOME_BYTES)))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(from_fn_with_state(gateway.clone(), guard))
        .fallback(|| async { Refusal::NoSuchPath })
        .method_not_allowed_fallback(|| async { Refusal::NoSuchMethod })
        .with_state(gateway)
}

/// Who it is, how much at once, how long; and what was refused is counted.
async fn guard(State(gateway): State<Arc<Gateway>>, mut request: Request, next: Next) -> Response {
    let answer = async {
        let _place = gateway.requests.try_acquire().map_err(|_| Refusal::Busy)?;
        let answered = async {
            let header = request.headers().get(header::AUTHORIZATION).and_then(|h| h.to_str().ok());
            let caller = gateway.auth.caller(header).await?;
            request.extensions_mut().insert(caller);
            Ok(next.run(request).await)
        };
        tokio::time::timeout(REQUEST, answered).await.unwrap_or(Err(Refusal::Timeout))
    };
    let mut response = answer.await.unwrap_or_else(IntoResponse::into_response);
    if let Some(Reason(reason)) = response.extensions().get().copied() {
        tracing::debug!(reason, "a request is refused");
        Metrics::count(&gateway.metrics.refused, reason);
        if response.status() == StatusCode::SERVICE_UNAVAILABLE {
            gateway.sessions.deaf();
            // Another gateway may hear: the next request is to find its way anew.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }
    response
}

fn parse<T: DeserializeOwned>(body: Body_) -> Result<T, Refusal> {
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Refusal::TooLarge,
        _ => Refusal::Malformed(rejection.body_text()),
    })?;
    serde_json::from_slice(&body).map_err(|e| Refusal::Malformed(e.to_string()))
}

type Us = State<Arc<Gateway>>;

async fn hello(State(us): Us, Extension(caller): Extension<Caller>, body: Body_) -> Result<Json<Job>, Refusal> {
    us.hello(&caller, &parse(body)?).await.map(Json)
}

async fn orders(State(us): Us, Extension(caller): Extension<Caller>, body: Body_) -> Result<Response, Refusal> {
    let body: Body = us.orders(&caller, &parse(body)?).await?;
    Ok(([(header::CONTENT_TYPE, "application/jsonl")], body).into_response())
}

async fn heartbeat(State(us): Us, Extension(caller): Extension<Caller>, body: Body_) -> Result<StatusCode, Refusal> {
    us.take_heartbeat(&caller, &parse(body)?).await.map(|()| StatusCode::NO_CONTENT)
}

async fn confirm(State(us): Us, Extension(caller): Extension<Caller>, body: Body_) -> Result<StatusCode, Refusal> {
    us.confirm(&caller, &parse(body)?).await.map(|()| StatusCode::NO_CONTENT)
}

async fn outcome(State(us): Us, Extension(caller): Extension<Caller>, body: Body_) -> Result<StatusCode, Refusal> {
    us.outcome(&caller, &parse(body)?).await.map(|()| StatusCode::NO_CONTENT)
}
