//! Where Kodosumi's clients put their token, and in which form they are refused. Used by [`super::router`].

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderValue, header},
    middleware::Next,
    response::Response,
};
use serde::Serialize;

use super::super::Refusal;

/// The header, and the cookie.
const HEADER: &str = "KODOSUMI_API_KEY";
const COOKIE: &str = "kodosumi_jwt";

/// A refusal in Kodosumi's form.
#[derive(Serialize)]
struct Answer<'a> {
    error: &'static str,
    path: &'a str,
    detail: String,
    status_code: u16,
}

/// Reads the token from where Kodosumi's clients put it, unless there is a bearer token, and answers refusals in their form.
pub async fn translate(mut request: Request, next: Next) -> Response {
    if !request.headers().contains_key(header::AUTHORIZATION)
        && let Some(bearer) = bearer(request.headers())
    {
        request.headers_mut().insert(header::AUTHORIZATION, bearer);
    }
    let path = request.uri().path().to_string();
    let response = next.run(request).await;
    let Some(refusal) = response.extensions().get::<Refusal>() else { return response };
    let answer = serde_json::to_string(&answer(refusal, &path)).unwrap_or_default();
    let (mut parts, _) = response.into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, Body::from(answer))
}

/// The token of a client as a bearer token.
fn bearer(headers: &HeaderMap) -> Option<HeaderValue> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|cookies| cookies.to_str().ok());
    let mut cookies = cookies.flat_map(|cookies| cookies.split(';')).filter_map(|cookie| cookie.trim().split_once('='));
    let token = match headers.get(HEADER) {
        Some(token) => token.to_str().ok()?,
        None => cookies.find(|(name, _)| *name == COOKIE)?.1,
    };
    let mut bearer = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
    bearer.set_sensitive(true);
    Some(bearer)
}

fn answer<'a>(refusal: &Refusal, path: &'a str) -> Answer<'a> {
    let status = refusal.status();
    // The exceptions of its framework.
    let error = match status.as_u16() {
        400 => "ValidationException",
        401 => "NotAuthorizedException",
        403 => "PermissionDeniedException",
        404 => "NotFoundException",
        405 => "MethodNotAllowedException",
        429 => "TooManyRequestsException",
        503 => "ServiceUnavailableException",
        _ => "HTTPException",
    };
    let fid = path.rsplit('/').next().unwrap_or_default();
    let detail = match refusal {
        Refusal::NotFound => format!("Execution {fid} not found."),
        _ => refusal.to_string(),
    };
    Answer { error, path, detail, status_code: status.as_u16() }
}

#[cfg(test)]
mod tests {
    use axum::{Router, body::to_bytes, middleware::from_fn, routing::get};
    use serde_json::{Value, json};
    use tower::ServiceExt;

    use super::*;

    #[test]
    fn a_token_is_read_from_header_or_cookie() {
        let read = |pairs: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(*name, HeaderValue::from_str(value).unwrap());
            }
            bearer(&headers).map(|bearer| bearer.to_str().unwrap().to_string())
        };
        let expected = Some("Bearer a.b.c".to_string());
        assert_eq!(read(&[("kodosumi_api_key", "a.b.c")]), expected);
        assert_eq!(read(&[("cookie", "x=1; kodosumi_jwt=a.b.c; y")]), expected);
        assert_eq!(read(&[("cookie", "x=1"), ("cookie", "kodosumi_jwt=a.b.c")]), expected);
        assert_eq!(read(&[("cookie", "kodosumi_jwt=d.e.f"), ("kodosumi_api_key", "a.b.c")]), expected);
        assert_eq!(read(&[("cookie", "xkodosumi_jwt=a.b.c")]), None);
        assert_eq!(read(&[]), None);
    }

    #[tokio::test]
    async fn a_bearer_token_comes_first_and_refusals_have_kodosumis_form() {
        let echo = |headers: HeaderMap| async move { headers["authorization"].to_str().unwrap().to_string() };
        let router = Router::new()
            .route("/echo", get(echo))
            .route("/outputs/status/x", get(|| async { Refusal::NotFound }))
            .route("/busy", get(|| async { Refusal::TooOften }))
            .route("/fine", get(|| async { (axum::http::StatusCode::NOT_FOUND, "its own") }))
            .layer(from_fn(translate));
        let ask = async |path: &str, bearer: Option<&str>| {
            let request = Request::get(path).header("KODOSUMI_API_KEY", "a.b.c");
            let request = bearer.into_iter().fold(request, |request, bearer| request.header("authorization", bearer));
            let response = router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
            let status = response.status().as_u16();
            let body = to_bytes(response.into_body(), 1000).await.unwrap();
            (status, String::from_utf8(body.to_vec()).unwrap())
        };
        assert_eq!(ask("/echo", None).await.1, "Bearer a.b.c");
        assert_eq!(ask("/echo", Some("Bearer d.e.f")).await.1, "Bearer d.e.f");
        assert_eq!(ask("/fine", None).await, (404, "its own".into()));
        let (status, body) = ask("/outputs/status/x", None).await;
        assert_eq!(
            (status, body.as_str()),
            (
                404,
                r#"{"error":"NotFoundException","path":"/outputs/status/x","detail":"Execution x not found.","status_code":404}"#
            )
        );
        let (status, body) = ask("/busy", None).await;
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(
            (status, &body["status_code"], &body["error"]),
            (429, &json!(429), &json!("TooManyRequestsException"))
        );
    }
}
