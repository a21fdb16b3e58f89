//! Who reads the pages: by a cookie that is the bearer token itself, so that the server keeps no sessions and no key, and
//! a session ends with its token. Used by [`super`] and by the rest of the API, which browsers read for streams.
//!
//! The cookie is taken for reading alone: a request that changes something needs the header, which no other site's page
//! can have a browser send. What sets or removes the cookie has to come from this site's own pages.

use axum::{
    body::to_bytes,
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, Method, header},
};
use serde::Deserialize;

use crate::server::http::Refusal;

/// The cookie. Browsers take a name that begins so from the site itself alone: over TLS, for all paths, and for no other
/// host's pages.
const COOKIE: &str = "__Host-koco-token";
/// Browsers keep no larger cookie than 4096 bytes, with its name.
const MAX_TOKEN: usize = 4000;
/// The largest form.
const MAX_FORM: usize = 32 * 1024;
/// What browsers say of a request's origin; no page's script can.
const SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// How a request has shown who sends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignedIn {
    /// By its header, which a program or a proxy in front has set.
    Header,
    /// By the cookie.
    Cookie,
}

/// Puts the token of a reading request's cookie where programs send theirs, unless there is one.
pub fn adopt(request: &mut Request) -> SignedIn {
    let reads = [Method::GET, Method::HEAD].contains(request.method());
    let headers = request.headers_mut();
    if !reads || headers.contains_key(header::AUTHORIZATION) {
        return SignedIn::Header;
    }
    let bearer = cookie(headers).and_then(|token| HeaderValue::try_from(format!("Bearer {token}")).ok());
    match bearer {
        Some(mut bearer) => {
            bearer.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, bearer);
            SignedIn::Cookie
        }
        None => SignedIn::Header,
    }
}

/// The token in the cookie.
fn cookie(headers: &HeaderMap) -> Option<&str> {
    let all = headers.get_all(header::COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    let mut pairs = all.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == COOKIE).map(|(_, token)| token).filter(|token| !token.is_empty())
}

/// Whether a page of this site sends a request: browsers say so, older ones by the origin alone.
pub fn same_origin(headers: &HeaderMap) -> bool {
    let text = |name: &HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    if let Some(site) = text(&SITE) {
        return site == "same-origin";
    }
    match (text(&header::ORIGIN), text(&header::HOST)) {
        (Some(origin), Some(host)) => !host.is_empty() && origin.strip_prefix("https://") == Some(host),
        _ => false,
    }
}

/// What the form sends.
#[derive(Deserialize, Default)]
#[serde(default)]
pub struct Form {
    /// The token.
    pub token: String,
    /// The page that was asked for.
    pub next: String,
}

impl Form {
    /// From a request's body.
    pub async fn read(request: Request) -> Result<Self, Refusal> {
        let body = to_bytes(request.into_body(), MAX_FORM).await.map_err(|_| Refusal::TooLarge)?;
        let mut form: Self =
            serde_urlencoded::from_bytes(&body).map_err(|_| Refusal::Malformed("the form can't be read".into()))?;
        form.token.retain(|c| !c.is_whitespace());
        form.next = local(&form.next).into();
        Ok(form)
    }

    /// The token as the header that programs send.
    pub fn header(&self) -> Result<HeaderMap, Refusal> {
        if self.token.is_empty() {
            return Err(Refusal::NoToken);
        }
        // Also: what can't stand in a cookie.
        if !self.token.chars().all(|c| c.is_ascii_alphanumeric() || "-_.~+/=".contains(c)) {
            return Err(Refusal::BadToken);
        }
        if self.token.len() > MAX_TOKEN {
            let long = "the token is too long for a cookie: have a proxy in front of the server send it";
            return Err(Refusal::Malformed(long.into()));
        }
        let value = HeaderValue::try_from(format!("Bearer {}", self.token)).map_err(|_| Refusal::BadToken)?;
        Ok(HeaderMap::from_iter([(header::AUTHORIZATION, value)]))
    }

    /// What makes the browser keep the token, until it is closed.
    pub fn set_cookie(&self) -> String {
        format!("{COOKIE}={}; Path=/; Secure; HttpOnly; SameSite=Strict", self.token)
    }
}

/// What makes the browser forget the token.
pub fn remove_cookie() -> String {
    format!("{COOKIE}=; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age=0")
}

/// The page to go to after signing in: one of ours, whatever a link says.
pub fn local(next: &str) -> &str {
    let ours = next == "/jobs" || next.starts_with("/jobs?") || next.starts_with("/jobs/");
    let plain = next.chars().all(|c| c.is_ascii_graphic() && c != '\\');
    if ours && plain { next } else { "/jobs" }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn request(method: &str, headers: &[(&str, &str)]) -> Request {
        let builder =
            headers.iter().fold(Request::builder().method(method), |b, (name, value)| b.header(*name, *value));
        builder.body(Body::empty()).unwrap()
    }

    fn adopted(method: &str, headers: &[(&str, &str)]) -> (SignedIn, Option<String>) {
        let mut request = request(method, headers);
        let how = adopt(&mut request);
        (how, request.headers().get("authorization").map(|value| value.to_str().unwrap().to_string()))
    }

    #[test]
    fn the_cookie_counts_for_reading_and_the_header_before_it() {
        let ours = ("cookie", "a=b; __Host-koco-token=a.b.c; c=d");
        assert_eq!(adopted("GET", &[ours]), (SignedIn::Cookie, Some("Bearer a.b.c".into())));
        assert_eq!(adopted("HEAD", &[ours]), (SignedIn::Cookie, Some("Bearer a.b.c".into())));
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
            assert_eq!(adopted(method, &[ours]), (SignedIn::Header, None), "{method}");
        }
        let header = ("authorization", "Bearer d.e.f");
        assert_eq!(adopted("GET", &[ours, header]), (SignedIn::Header, Some("Bearer d.e.f".into())));
        for other in ["koco-token=a.b.c", "x__Host-koco-token=a.b.c", "__Host-koco-token", "__Host-koco-token=", ""] {
            assert_eq!(adopted("GET", &[("cookie", other)]), (SignedIn::Header, None), "{other}");
        }
    }

    #[test]
    fn only_this_sites_pages_send_forms() {
        let site = |headers: &[(&str, &str)]| same_origin(request("POST", headers).headers());
        assert!(site(&[("sec-fetch-site", "same-origin"), ("origin", "https://a"), ("host", "b")]), "behind a proxy");
        assert!(site(&[("origin", "https://koco.example:8445"), ("host", "koco.example:8445")]));
        for other in ["cross-site", "same-site", "none", ""] {
            assert!(!site(&[("sec-fetch-site", other), ("origin", "https://a"), ("host", "a")]), "{other}");
        }
        for origin in ["http://a", "https://b", "https://a:1", "https://a.b", "null", ""] {
            assert!(!site(&[("origin", origin), ("host", "a")]), "{origin}");
        }
        assert!(!site(&[]) && !site(&[("host", "a")]) && !site(&[("origin", "https://"), ("host", "")]));
    }

    #[test]
    fn signing_in_leads_nowhere_else() {
        for ours in ["/jobs", "/jobs?phase=Failed&search=a%20b", "/jobs/6740c100aabbccddeeff0011?before=7"] {
            assert_eq!(local(ours), ours);
        }
        for other in [
            "",
            "/",
            "//evil",
            "/jobsite",
            "https://evil",
            "/\\evil",
            "/jobs/\\evil",
            "/jobs\r\nSet-Cookie: a=b",
            "javascript:alert(1)",
        ] {
            assert_eq!(local(other), "/jobs", "{other}");
        }
    }

    #[tokio::test]
    async fn a_form_holds_a_token() {
        let read = async |body: &'static str| Form::read(Request::new(Body::from(body))).await.unwrap();
        let form = read("token=+a.b%0A.c+&next=%2Fjobs%3Fx").await;
        assert_eq!((form.token.as_str(), form.next.as_str()), ("a.b.c", "/jobs?x"));
        assert_eq!(form.header().unwrap()["authorization"], "Bearer a.b.c");
        assert_eq!(form.set_cookie(), "__Host-koco-token=a.b.c; Path=/; Secure; HttpOnly; SameSite=Strict");
        assert_eq!(read("").await.header(), Err(Refusal::NoToken));
        assert_eq!(read("token=a%3Bb").await.header(), Err(Refusal::BadToken));
        let long = Form { token: "a".repeat(MAX_TOKEN + 1), next: String::new() };
        assert_eq!(long.header().unwrap_err().reason(), "Malformed");
        let large = Request::new(Body::from("x".repeat(MAX_FORM + 1)));
        assert_eq!(Form::read(large).await.err(), Some(Refusal::TooLarge));
    }
}
