//! What Kodosumi's clients read, at the paths and in the form that they know: `/outputs`, `/timeline`, `/health`. Used by
//! [`super::router`].
//!
//! Who may read what is decided as for `/api/v1`. What differs from Kodosumi, and why, is in `docs/kodosumi.md`.
//!
//! - [`execution`] is an execution in Kodosumi's words, from what the archive keeps of the AgentJob.
//! - [`outputs`], [`frames`] and [`page`] answer for one execution: its status, its events, its result.
//! - [`timeline`] has lists.
//! - [`render`] makes HTML of payloads.
//! - [`refusal`] says where the token is, and how a request is refused.

mod execution;
mod frames;
mod outputs;
mod page;
mod refusal;
mod render;
mod timeline;

use std::{collections::HashMap, sync::Arc};

use axum::{
    Json, Router,
    extract::{Query, State, rejection::QueryRejection},
    middleware::{from_fn, from_fn_with_state},
    routing::get,
};
use serde_json::{Value, json};

use super::{Refusal, SharedState, authenticate};
use crate::server::Server;

/// The paths.
pub(super) fn router(server: Arc<Server>) -> Router<Arc<Server>> {
    Router::new()
        .route("/health", get(health))
        .route("/outputs/status/{fid}", get(outputs::status))
        .route("/outputs/stream/{fid}", get(outputs::stream))
        .route("/outputs/main/{fid}", get(outputs::main))
        .route("/outputs/stdio/{fid}", get(outputs::stdio))
        .route("/outputs/raw/{fid}", get(outputs::raw))
        .route("/outputs/html/{fid}", get(outputs::html))
        .route("/timeline/list", get(timeline::list))
        .route("/timeline/changes", get(timeline::changes))
        .method_not_allowed_fallback(|| async { Refusal::NoSuchMethod })
        .route_layer(from_fn_with_state(server, authenticate))
        .route_layer(from_fn(refusal::translate))
}

/// Whether the database answers, with the keys that Kodosumi has. There is no Ray here, and no Python.
async fn health(State(server): SharedState) -> Result<Json<Value>, Refusal> {
    server.database.ping().await?;
    Ok(Json(json!({
        "status": "ok", "kodosumi_version": execution::VERSION, "python_version": null, "ray_version": null,
        "ray_status": [], "spooler_status": { "status": "ok" },
    })))
}

/// The query of a request.
type Asked = Result<Query<HashMap<String, String>>, QueryRejection>;

/// The parameters of a request. Those that are not known are ignored, as by Kodosumi.
struct Parameters(HashMap<String, String>);

impl Parameters {
    fn of(query: Asked) -> Result<Self, Refusal> {
        let Query(all) = query.map_err(|rejection| Refusal::Malformed(rejection.body_text()))?;
        Ok(Self(all))
    }

    fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|text| !text.is_empty())
    }

    /// Whether something is switched on; its name alone does that, too.
    fn flag(&self, name: &str, default: bool) -> Result<bool, Refusal> {
        match self.0.get(name).map(|text| text.to_lowercase()).as_deref() {
            None => Ok(default),
            Some("" | "1" | "true" | "t" | "yes" | "y" | "on") => Ok(true),
            Some("0" | "false" | "f" | "no" | "n" | "off") => Ok(false),
            Some(_) => Err(Refusal::Malformed(format!("{name}: true or false"))),
        }
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, Refusal> {
        let malformed = |_| Refusal::Malformed(format!("{name}: a number"));
        self.text(name).map(|text| text.parse().map_err(malformed)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(query: &str) -> Parameters {
        let uri = format!("/x?{query}").parse().unwrap();
        Parameters::of(Query::try_from_uri(&uri)).unwrap()
    }

    #[test]
    fn parameters_are_read_as_kodosumi_reads_them() {
        let all = parameters("extended&raw=0&pp=25&q=&since=1767225600.5&x=y");
        assert!(all.flag("extended", false).unwrap() && all.has("raw") && !all.has("q2"));
        assert_eq!((all.text("q"), all.text("x")), (None, Some("y")));
        assert_eq!((all.number("pp"), all.number("since")), (Ok(Some(25)), Ok(Some(1_767_225_600.5))));
        assert_eq!(all.number::<u32>("none"), Ok(None));
        for (text, expected) in [("true", true), ("1", true), ("On", true), ("false", false), ("0", false)] {
            assert_eq!(parameters(&format!("extended={text}")).flag("extended", !expected), Ok(expected));
        }
        assert!(parameters("extended=maybe").flag("extended", false).is_err());
        assert!(parameters("pp=x").number::<u32>("pp").is_err());
    }
}
