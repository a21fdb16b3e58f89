//! Paths, who asks, how much of it, and time-outs. No request is answered before the API server has said who sends it.
//! Used by [`crate::server::run`].

mod append;
mod codec;
mod error;
mod events;
mod executions;
mod kodosumi;
mod model;
mod openapi;
mod pages;
mod room;
mod stream;

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Extension, Json, Router,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use k8s_openapi::api::authentication::v1::UserInfo;
use tokio::time::timeout;

use self::error::Refusal;
pub use self::openapi::document;
use super::Server;
use crate::{
    database::Fid,
    platform::{
        http::{
            Connection,
            limits::{Buckets, Shares},
        },
        recent::Recent,
    },
    protocol::events::append_path,
};

/// How long a request may take.
const REQUEST: Duration = Duration::from_secs(15);
/// The most bytes of events that are not committed yet, in all and of one namespace.
const BYTES: (usize, usize) = (64 * 1024 * 1024, 32 * 1024 * 1024);
/// How many executions' namespaces are known.
const NAMESPACES: usize = 16_384;

/// How much may be asked.
pub struct Limits {
    /// Requests with a token that is not known, by the address they come from.
    strangers: Buckets<IpAddr>,
    /// Requests of users, by their name.
    users: Buckets<String>,
    /// Requests at a time, in all and of one user.
    places: Arc<Shares<String>>,
    /// Streams at a time, in all and of one user.
    streams: Arc<Shares<String>>,
    /// Bytes of events that are not committed yet, by their namespace.
    bytes: Arc<Shares<String>>,
    /// Bytes of events that clients have not taken yet.
    room: room::Room,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            strangers: Buckets::new(100, 20.0),
            users: Buckets::new(100, 20.0),
            places: Shares::new(128, 16),
            streams: Shares::new(2048, 32),
            bytes: Shares::new(BYTES.0, BYTES.1),
            room: room::Room::default(),
        }
    }
}

impl Limits {
    /// How many streams are open.
    pub fn streams(&self) -> usize {
        self.streams.held()
    }
}

/// The namespaces of executions.
pub type Namespaces = Recent<Fid, Result<String, Refusal>>;

/// None is known yet.
pub fn namespaces() -> Namespaces {
    Recent::new(NAMESPACES)
}

type SharedState = State<Arc<Server>>;
type User = Extension<UserInfo>;

/// The paths.
pub fn router(server: Arc<Server>) -> Router {
    let gateways = Router::new()
        .route(&append_path("{fid}", "{run}"), post(append::append))
        .route_layer(from_fn_with_state(server.clone(), only_gateways));
    let codec = codec::router().route_layer(from_fn_with_state(server.clone(), authenticate));
    // A browser asks first whether it may ask, without a token.
    let codec = codec.layer(codec::cors(&server.origins));
    Router::new()
        .route("/openapi.json", get(|| async { Json(document()) }))
        .route("/api/v1/executions", get(executions::list))
        .route("/api/v1/executions/{fid}", get(executions::get).delete(executions::delete))
        .route("/api/v1/executions/{fid}/events", get(events::read))
        .method_not_allowed_fallback(|| async { Refusal::NoSuchMethod })
        .fallback(|| async { Refusal::NoSuchPath })
        .layer(from_fn_with_state(server.clone(), authenticate))
        .merge(pages::router(&server))
        .merge(kodosumi::router(server.clone()))
        .merge(gateways)
        .merge(codec)
        .layer(from_fn_with_state(server.clone(), count))
        .with_state(server)
}

/// Counts answers, and why requests are refused.
async fn count(State(server): SharedState, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    server.metrics.answered(response.status());
    if let Some(refusal) = response.extensions().get::<Refusal>() {
        server.metrics.refused.of([refusal.reason()]).inc();
    }
    response
}

/// Who sends a request.
async fn sender(server: &Server, connection: &Connection, headers: &HeaderMap) -> Result<UserInfo, Refusal> {
    let token = headers.get(header::AUTHORIZATION).and_then(|h| h.to_str().ok());
    if !server.authenticator.knows(token) {
        // Each costs a question to the API server.
        server.limits.strangers.take(connection.address, Instant::now()).map_err(|_| Refusal::TooOften)?;
    }
    Ok(server.authenticator.holder(token).await?)
}

/// Lets a request pass if a gateway sends it. How much gateways may ask is bounded by bytes alone: each speaks for many.
async fn only_gateways(
    State(server): SharedState,
    Extension(connection): Extension<Connection>,
    request: Request,
    next: Next,
) -> Response {
    let answer = async {
        let user = sender(&server, &connection, request.headers()).await?;
        if server.gateways.is_none() || user.username != server.gateways {
            return Err(Refusal::Forbidden("append events, as only gateways may"));
        }
        connection.is_known();
        Ok(next.run(request).await)
    };
    match timeout(REQUEST, answer).await {
        Ok(answer) => answer.unwrap_or_else(|refusal: Refusal| refusal.into_response()),
        Err(_) => Refusal::Timeout.into_response(),
    }
}

/// Lets a request pass if its sender is known, and asks for no more than may be.
async fn admit(
    server: &Server,
    connection: &Connection,
    mut request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    let answer = async {
        let user = sender(server, connection, request.headers()).await?;
        let limits = &server.limits;
        let name = user.username.clone().unwrap_or_default();
        limits.users.take(name.clone(), Instant::now()).map_err(|_| Refusal::TooOften)?;
        let _place = limits.places.enter(name).ok_or(Refusal::TooOften)?;
        request.extensions_mut().insert(user);
        Ok(next.run(request).await)
    };
    timeout(REQUEST, answer).await.unwrap_or(Err(Refusal::Timeout))
}

/// The same for programs, and for the scripts of pages.
async fn authenticate(
    State(server): SharedState,
    Extension(connection): Extension<Connection>,
    mut request: Request,
    next: Next,
) -> Response {
    pages::session::adopt(&mut request);
    let answer = admit(&server, &connection, request, next).await;
    let mut response = answer.unwrap_or_else(|refusal| refusal.into_response());
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_namespace_takes_all_the_room_for_what_is_not_committed() {
        let (limits, mib) = (Limits::default(), 1024 * 1024);
        let take = |namespace: &str| limits.bytes.enter_with(namespace.into(), 8 * mib);
        let ours: Vec<_> = (0..99).map_while(|_| take("a")).collect();
        assert_eq!(ours.len(), 4);
        assert!(take("b").is_some());
        drop(ours);
        assert!(take("a").is_some());
    }
}
