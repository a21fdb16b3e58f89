//! `/timeline`: executions as they come and go. Used by [`super::router`].

use axum::{Extension, Json, extract::State};
use k8s_openapi::{api::authentication::v1::UserInfo, jiff::Timestamp};
use serde::Serialize;
use serde_json::{json, value::RawValue};

use super::{
    super::{Refusal, SharedState, User, executions::confine, model::check_search},
    Asked, Parameters,
    execution::{Execution, seconds},
};
use crate::{
    api::names,
    database::{Fid, Filter, Summary},
    platform::clock,
    server::Server,
};

/// How many items a page has unless the request says so, and at most.
const LIMIT: (u32, u32) = (10, 100);
/// How many changes are answered at most.
const CHANGES: u32 = 100;
/// How much older than asked for changes may be, in milliseconds: the archive learns of an end after it.
const LATE: f64 = 60_000.0;

/// An execution in a list.
#[derive(Serialize)]
pub struct Item {
    fid: String,
    tags: [String; 0],
    summary: String,
    inputs: Box<RawValue>,
    status: &'static str,
    startup: String,
    finish: Option<String>,
    runtime: Option<f64>,
    locks: [String; 0],
}

/// A page.
#[derive(Serialize)]
pub struct List {
    items: Vec<Item>,
    query: Option<String>,
    /// For the next page; none if there is none.
    offset: Option<String>,
}

/// What has changed.
#[derive(Serialize)]
pub struct Changes {
    update: Vec<Item>,
    delete: Vec<String>,
    /// For the parameter `since` of the next question.
    timestamp: f64,
    query: Option<String>,
}

impl Item {
    /// Of an execution, by what is kept of its AgentJob, if that is not too large for a list.
    fn new(summary: Summary, object: Option<&String>) -> Self {
        let time = |millis| Timestamp::from_millisecond(millis).unwrap_or_default().to_string();
        let (startup, finish) = (time(summary.created), summary.ended().map(time));
        let execution = Execution::new(summary, object.map_or("{}", String::as_str));
        let inputs = match object {
            Some(_) => execution.inputs(),
            None => json!({ "dict": { "truncated": true } }).to_string(),
        };
        Self {
            fid: execution.summary.fid.to_string(),
            tags: [],
            inputs: RawValue::from_string(inputs).unwrap_or_default(),
            status: execution.status().as_str(),
            startup,
            finish,
            runtime: execution.runtime(),
            locks: [],
            summary: execution.summary.name,
        }
    }
}

/// `/timeline/list`: a page of the executions that the user may read, the newest first.
pub async fn list(State(server): SharedState, Extension(user): User, parameters: Asked) -> Result<Json<List>, Refusal> {
    let parameters = Parameters::of(parameters)?;
    let mut filter = filter(&server, &user, &parameters).await?;
    filter.limit = limit(parameters.number("pp")?)?;
    let malformed = |_| Refusal::Malformed("offset: a fid".into());
    filter.before = parameters.text("offset").map(|text| text.parse().map_err(malformed)).transpose()?;
    let page = server.database.list(&filter).await?;
    let offset = offset(page.items.last().map(|last| last.fid), page.next);
    Ok(Json(List { items: items(&server, page.items).await?, query: filter.search, offset }))
}

/// `/timeline/changes`: what has changed since a time, or from when on to ask.
pub async fn changes(
    State(server): SharedState,
    Extension(user): User,
    parameters: Asked,
) -> Result<Json<Changes>, Refusal> {
    let parameters = Parameters::of(parameters)?;
    let mut filter = filter(&server, &user, &parameters).await?;
    // Before the question: what changes meanwhile is answered to the next.
    let timestamp = seconds(clock::now().as_millisecond());
    let Some(since) = parameters.number::<f64>("since")? else {
        return Ok(Json(Changes { update: Vec::new(), delete: Vec::new(), timestamp, query: filter.search }));
    };
    (filter.changed, filter.limit) = (Some(changed(since)), CHANGES);
    let page = server.database.list(&filter).await?;
    let update = items(&server, page.items).await?;
    let delete = server.database.hidden(&filter).await?.iter().map(Fid::to_string).collect();
    Ok(Json(Changes { update, delete, timestamp, query: filter.search }))
}

/// What the user may read of what was asked for: of a namespace, else of all, else of that of the account.
async fn filter(server: &Server, user: &UserInfo, parameters: &Parameters) -> Result<Filter, Refusal> {
    let mut filter = Filter {
        namespace: parameters.text("namespace").map(String::from),
        search: parameters.text("q").map(String::from),
        ..Filter::default()
    };
    if filter.namespace.as_deref().is_some_and(|namespace| !names::is_object_name(namespace)) {
        return Err(Refusal::Malformed("namespace: no name of a namespace".into()));
    }
    check_search(filter.search.as_deref())?;
    confine(server, user, &mut filter, own_namespace(user)).await?;
    Ok(filter)
}

/// The namespace of a service account.
fn own_namespace(user: &UserInfo) -> Option<&str> {
    let account = user.username.as_deref()?.strip_prefix("system:serviceaccount:")?;
    account.split_once(':').map(|(namespace, _)| namespace)
}

fn limit(asked: Option<u32>) -> Result<u32, Refusal> {
    match asked.unwrap_or(LIMIT.0) {
        0 => Err(Refusal::Malformed("pp: from 1 to 100".into())),
        asked => Ok(asked.min(LIMIT.1)),
    }
}

/// Where the next page begins. A search may leave off further down than its last item.
fn offset(last: Option<Fid>, next: Option<Fid>) -> Option<String> {
    next.or(last).map(|fid| fid.to_string())
}

/// From when on changes are looked for, in milliseconds.
fn changed(since: f64) -> i64 {
    // It saturates.
    (since * 1000.0 - LATE) as i64
}

async fn items(server: &Server, found: Vec<Summary>) -> Result<Vec<Item>, Refusal> {
    let fids: Vec<Fid> = found.iter().map(|summary| summary.fid).collect();
    let objects = server.database.objects(&fids).await?;
    Ok(found.into_iter().map(|summary| (objects.get(&summary.fid), summary)).map(|(o, s)| Item::new(s, o)).collect())
}

#[cfg(test)]
mod tests {
    use super::{super::execution::tests::execution, *};

    fn item(phase: &str, object: Option<&str>) -> String {
        let object = object.map(String::from);
        serde_json::to_string(&Item::new(execution(phase, json!({})).summary, object.as_ref())).unwrap()
    }

    #[test]
    fn an_item_has_kodosumis_fields_in_their_order() {
        assert_eq!(
            item("Succeeded", Some(r#"{"spec":{"inputs":{"b":1.0,"a":2}}}"#)),
            concat!(
                r#"{"fid":"6955b900aabbccddeeff0011","tags":[],"summary":"report","inputs":{"dict":{"b":1.0,"a":2}},"#,
                r#""status":"finished","startup":"2026-01-01T00:00:00Z","finish":"2026-01-01T00:00:03.5Z","runtime":3.5,"locks":[]}"#
            )
        );
        let running = item("Running", Some("{}"));
        assert!(running.contains(r#""status":"running""#) && running.contains(r#""finish":null,"runtime":null"#));
        assert!(item("Running", None).contains(r#""inputs":{"dict":{"truncated":true}}"#));
    }

    #[test]
    fn the_next_page_begins_where_this_one_or_its_search_ends() {
        let fid = |n| Fid([n; 12]);
        assert_eq!(offset(None, None), None);
        assert_eq!(offset(Some(fid(5)), None), Some(fid(5).to_string()));
        assert_eq!(offset(Some(fid(5)), Some(fid(2))), Some(fid(2).to_string()));
        assert_eq!(offset(None, Some(fid(2))), Some(fid(2).to_string()));
    }

    #[test]
    fn numbers_are_kept_within_bounds() {
        assert_eq!([None, Some(1), Some(5000)].map(limit), [Ok(10), Ok(1), Ok(100)]);
        assert!(limit(Some(0)).is_err());
        assert_eq!((changed(1_767_225_600.5), changed(f64::NAN)), (1_767_225_540_500, 0));
        assert_eq!(changed(f64::INFINITY), i64::MAX);
    }

    #[test]
    fn a_service_account_has_a_namespace_of_its_own() {
        let user = |name: &str| UserInfo { username: Some(name.into()), ..UserInfo::default() };
        assert_eq!(own_namespace(&user("system:serviceaccount:a:b")), Some("a"));
        assert_eq!(own_namespace(&user("ann")), None);
        assert_eq!(own_namespace(&UserInfo::default()), None);
    }
}
