//! Paths, who asks, how much of it, and time-outs. No request is answered before the API server has said who sends it.
//! Used by [`crate::server::run`].

mod error;
mod executions;
mod model;

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Extension, Json, Router,
    extract::{Request, State},
    http::{HeaderValue, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::get,
};
use k8s_openapi::api::authentication::v1::UserInfo;
use serde_json::{Value, json};
use tokio::time::timeout;

use self::error::Refusal;
use super::Server;
use crate::platform::http::{
    Connection,
    limits::{Buckets, Shares},
};

/// How long a request may take.
const REQUEST: Duration = Duration::from_secs(15);

/// How much may be asked.
pub struct Limits {
    /// Requests with a token that is not known, by the address they come from.
    strangers: Buckets<IpAddr>,
    /// Requests of users, by their name.
    users: Buckets<String>,
    /// Requests at a time, in all and of one user.
    places: Arc<Shares<String>>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { strangers: Buckets::new(100, 20.0), users: Buckets::new(100, 20.0), places: Shares::new(128, 16) }
    }
}

type SharedState = State<Arc<Server>>;
type User = Extension<UserInfo>;

/// The paths.
pub fn router(server: Arc<Server>) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/api/v1/executions", get(executions::list))
        .route("/api/v1/executions/{fid}", get(executions::get).delete(executions::delete))
        .method_not_allowed_fallback(|| async { Refusal::NoSuchMethod })
        .fallback(|| async { Refusal::NoSuchPath })
        .layer(from_fn_with_state(server.clone(), authenticate))
        .with_state(server)
}

/// Lets a request pass if its sender is known, and asks for no more than may be.
async fn authenticate(
    State(server): SharedState,
    Extension(connection): Extension<Connection>,
    mut request: Request,
    next: Next,
) -> Response {
    let answer = async {
        let token = request.headers().get(header::AUTHORIZATION).and_then(|h| h.to_str().ok());
        let limits = &server.limits;
        if !server.authenticator.knows(token) {
            // Each costs a question to the API server.
            limits.strangers.take(connection.address, Instant::now()).map_err(|_| Refusal::TooOften)?;
        }
        let user = server.authenticator.holder(token).await?;
        let name = user.username.clone().unwrap_or_default();
        limits.users.take(name.clone(), Instant::now()).map_err(|_| Refusal::TooOften)?;
        let _place = limits.places.enter(name).ok_or(Refusal::TooOften)?;
        request.extensions_mut().insert(user);
        Ok(next.run(request).await)
    };
    let mut response = match timeout(REQUEST, answer).await {
        Ok(answer) => answer.unwrap_or_else(|refusal: Refusal| refusal.into_response()),
        Err(_) => Refusal::Timeout.into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Whether the database answers.
async fn health(State(server): SharedState) -> Result<Json<Value>, Refusal> {
    server.database.ping().await?;
    Ok(Json(json!({ "status": "ok" })))
}
