//! The panel: pages that people read in a browser. They are made here, whole, and work without a script; one script keeps
//! a job's page up to date. Nothing is changed by them but the browser's cookie. Used by [`super::router`].
//!
//! - [`session`]: who reads, by a cookie. [`jobs`]: the list. [`job`]: one job, by [`view`] and [`lines`]. [`problem`]: why
//!   a page is refused.
//! - What agents, and those who create jobs, have written is text: the templates escape it, [`text`] makes visible what
//!   would act, and the policy in [`HEADERS`] lets no script run but ours.

mod job;
mod jobs;
mod lines;
mod problem;
pub mod session;
mod text;
mod view;

use std::sync::Arc;

use askama::Template;
use axum::{
    Extension, Router,
    extract::{Request, State},
    http::{HeaderName, HeaderValue, StatusCode, header},
    middleware::{Next, from_fn, from_fn_with_state},
    response::{Html, IntoResponse, Redirect, Response},
    routing::{get, post},
};
use k8s_openapi::api::authentication::v1::UserInfo;
use tokio::time::timeout;

use self::{
    problem::Problem,
    session::{Form, SignedIn},
};
use super::{REQUEST, Refusal, SharedState, admit, sender};
use crate::{platform::http::Connection, server::Server};

/// What browsers are told about each answer.
const HEADERS: [(HeaderName, &str); 7] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'self'; frame-ancestors 'none'; object-src 'none'; base-uri 'none'; form-action 'self'",
    ),
    // Without a referrer, browsers would not say where a form comes from either.
    (header::REFERRER_POLICY, "same-origin"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("permissions-policy"), "camera=(), geolocation=(), microphone=()"),
];

/// The paths.
pub fn router(server: &Arc<Server>) -> Router<Arc<Server>> {
    let of_jobs = Router::new()
        .route("/jobs", get(jobs::page))
        .route("/jobs/{fid}", get(job::page))
        .route("/jobs/{fid}/summary", get(job::summary))
        .route_layer(from_fn_with_state(server.clone(), signed_in));
    let style = ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], include_str!("assets/panel.css"));
    let script = ([(header::CONTENT_TYPE, "text/javascript; charset=utf-8")], include_str!("assets/panel.js"));
    Router::new()
        .route("/", get(|| async { Redirect::to("/jobs") }))
        .route("/sign-in", get(sign_in_form).post(sign_in))
        .route("/sign-out", post(sign_out))
        .route("/assets/panel.css", get(move || async move { style }))
        .route("/assets/panel.js", get(move || async move { script }))
        // Browsers ask for it by themselves.
        .route("/favicon.ico", get(|| async { StatusCode::NO_CONTENT }))
        .merge(of_jobs)
        .route_layer(from_fn(with_headers))
}

async fn with_headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// What all pages show.
#[derive(Clone, Debug, Default)]
struct Frame {
    /// Who reads it, if that is known.
    user: Option<String>,
    /// Whether there is a cookie to be removed.
    can_sign_out: bool,
}

impl Frame {
    fn of(user: &UserInfo, how: SignedIn) -> Self {
        let name = user.username.as_deref().unwrap_or_default();
        Self { user: Some(text::visible(name)), can_sign_out: how == SignedIn::Cookie }
    }
}

/// A page as it is answered.
fn rendered(status: StatusCode, page: &impl Template) -> Response {
    match page.render() {
        Ok(text) => (status, Html(text)).into_response(),
        Err(error) => {
            tracing::error!(%error, "a page can't be made");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// A page that says why another one is refused.
fn refused(refusal: &Refusal, page: &impl Template) -> Response {
    let mut response = rendered(refusal.status(), page);
    response.extensions_mut().insert(refusal.clone());
    response
}

/// Lets the request of a page pass if its sender is known; asks them to sign in if not.
async fn signed_in(
    State(server): SharedState,
    Extension(connection): Extension<Connection>,
    mut request: Request,
    next: Next,
) -> Response {
    let how = session::adopt(&mut request);
    request.extensions_mut().insert(how);
    let asked = request.uri().path_and_query().map(|path| path.as_str().to_string()).unwrap_or_default();
    match admit(&server, &connection, request, next).await {
        Ok(response) => response,
        Err(refusal @ Refusal::NoToken) => refused(&refusal, &SignIn::of(&asked, None)),
        Err(refusal @ Refusal::BadToken) => refused(&refusal, &SignIn::of(&asked, Some(&refusal))),
        Err(refusal) => Problem::new(refusal, Frame::default()).into_response(),
    }
}

/// The page that asks for a token.
#[derive(Template)]
#[template(path = "sign_in.html")]
struct SignIn {
    frame: Frame,
    /// The page that was asked for.
    next: String,
    /// Why a token was not taken.
    problem: Option<String>,
}

impl SignIn {
    fn of(next: &str, problem: Option<&Refusal>) -> Self {
        Self { frame: Frame::default(), next: session::local(next).into(), problem: problem.map(Refusal::to_string) }
    }
}

async fn sign_in_form() -> Response {
    rendered(StatusCode::OK, &SignIn::of("/jobs", None))
}

/// Takes a token, has it reviewed, and gives it to the browser.
async fn sign_in(
    State(server): SharedState,
    Extension(connection): Extension<Connection>,
    request: Request,
) -> Response {
    if !session::same_origin(request.headers()) {
        return Problem::new(Refusal::CrossOrigin, Frame::default()).into_response();
    }
    let mut next = String::new();
    let answer = async {
        let form = Form::read(request).await?;
        next.clone_from(&form.next);
        sender(&server, &connection, &form.header()?).await?;
        Ok(form)
    };
    let answer = timeout(REQUEST, answer).await.unwrap_or(Err(Refusal::Timeout));
    match answer {
        Ok(form) => ([(header::SET_COOKIE, form.set_cookie())], Redirect::to(&form.next)).into_response(),
        Err(refusal) => refused(&refusal, &SignIn::of(&next, Some(&refusal))),
    }
}

async fn sign_out(request: Request) -> Response {
    if !session::same_origin(request.headers()) {
        return Problem::new(Refusal::CrossOrigin, Frame::default()).into_response();
    }
    ([(header::SET_COOKIE, session::remove_cookie())], Redirect::to("/sign-in")).into_response()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use serde_json::{Value, json};

    use super::{problem::Wanted, *};

    /// Writes the pages that `tests/panel/run` opens in a browser.
    #[test]
    fn the_pages_that_browsers_check() {
        let user: UserInfo =
            serde_json::from_value(json!({ "username": "system:serviceaccount:demo:reader" })).unwrap();
        let frame = Frame::of(&user, SignedIn::Cookie);
        let problem = Problem::about(Refusal::Forbidden("get agentjobs/events"), frame.clone(), &Wanted::All, &user);
        let refused = Problem::new(Refusal::Database, frame);
        let sign_in = SignIn::of("/jobs", Some(&Refusal::BadToken));
        let headers: Value = HEADERS.iter().map(|(name, value)| (name.to_string(), json!(value))).collect();
        let all = [
            ("jobs.html", jobs::tests::sample(true)),
            ("none.html", jobs::tests::sample(false)),
            ("running.html", job::tests::sample(false)),
            ("ended.html", job::tests::sample(true)),
            ("sign-in.html", sign_in.render().unwrap()),
            ("forbidden.html", problem.render().unwrap()),
            ("refused.html", refused.render().unwrap()),
            ("headers.json", headers.to_string()),
        ];
        for (name, text) in all {
            assert!(text.contains("</html>") || name == "headers.json", "{name}: {text}");
            if let Some(folder) = std::env::var_os("KOCO_PANEL_PAGES") {
                std::fs::write(PathBuf::from(folder).join(name), text).unwrap();
            }
        }
    }
}
