//! What requests ask for and what is answered, as JSON. Pure. Used by [`super::executions`] and [`super::kodosumi`].

use std::str::FromStr;

use k8s_openapi::jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Refusal;
use crate::{
    api::{Phase, names},
    database::{Filter, Page, Summary},
    server::archive::runs::Kept as KeptRun,
};

/// How many items a page has unless the request says so, and at most.
const LIMIT: (u32, u32) = (50, 500);
/// The most characters that are searched for.
const MAX_SEARCH: usize = 256;

/// The parameters of a list.
#[derive(Deserialize, JsonSchema, Default)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ListParameters {
    /// Of this namespace. Without it of all, for those who may read all.
    pub namespace: Option<String>,
    /// Of the job of this name.
    name: Option<String>,
    /// In this phase.
    phase: Option<String>,
    /// Of this entry point.
    entry_point: Option<String>,
    /// Whose job says that it belongs to this user.
    owner: Option<String>,
    /// Created at this time or later, such as `2026-01-31T12:00:00Z`.
    since: Option<String>,
    /// Created before this time.
    until: Option<String>,
    /// Whose inputs, result or error contain this text, in small or capital letters.
    search: Option<String>,
    /// How many, 50 if it isn't said, at most 500. A page may have fewer and yet not be the last.
    limit: Option<u32>,
    /// What the page before has said to go on with.
    #[serde(rename = "continue")]
    next: Option<String>,
}

impl ListParameters {
    /// As the database takes it.
    pub fn filter(self) -> Result<Filter, Refusal> {
        let malformed = |what: &str| Refusal::Malformed(what.into());
        let time = |text: Option<String>, what: &str| match text {
            Some(text) => match Timestamp::from_str(&text) {
                Ok(time) => Ok(Some(u32::try_from(time.as_second().max(0)).unwrap_or(u32::MAX))),
                Err(_) => Err(malformed(what)),
            },
            None => Ok(None),
        };
        if self.namespace.as_deref().is_some_and(|namespace| !names::is_object_name(namespace)) {
            return Err(malformed("namespace: no name of a namespace"));
        }
        if self.phase.as_ref().is_some_and(|phase| Phase::ALL.iter().all(|known| known.as_str() != phase)) {
            return Err(malformed("phase: no phase of an AgentJob"));
        }
        check_search(self.search.as_deref())?;
        let limit = self.limit.unwrap_or(LIMIT.0);
        if !(1..=LIMIT.1).contains(&limit) {
            return Err(malformed("limit: from 1 to 500"));
        }
        Ok(Filter {
            namespace: self.namespace,
            namespace_uid: None,
            name: self.name,
            phase: self.phase,
            entry_point: self.entry_point,
            owner: self.owner,
            since: time(self.since, "since: no time such as 2026-01-31T12:00:00Z")?,
            until: time(self.until, "until: no time such as 2026-01-31T12:00:00Z")?,
            search: self.search,
            before: match self.next {
                Some(text) => Some(text.parse().map_err(|_| malformed("continue: not what a page said"))?),
                None => None,
            },
            changed: None,
            limit,
        })
    }
}

/// Refuses what is too long to be searched for.
pub fn check_search(search: Option<&str>) -> Result<(), Refusal> {
    match search.is_some_and(|search| search.chars().count() > MAX_SEARCH) {
        true => Err(Refusal::Malformed("search: at most 256 characters".into())),
        false => Ok(()),
    }
}

/// A page of a list.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ExecutionList")]
pub struct List {
    /// The executions, the newest first.
    items: Vec<Item>,
    /// For the parameter `continue` of the next page, if there may be one.
    #[serde(rename = "continue", skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

impl From<Page> for List {
    fn from(page: Page) -> Self {
        let next = page.next.map(|fid| fid.to_string());
        Self { items: page.items.into_iter().map(Item::from).collect(), next }
    }
}

/// An execution in a list.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Execution")]
#[serde(rename_all = "camelCase")]
pub struct Item {
    /// Its id.
    fid: String,
    /// The namespace of its AgentJob.
    namespace: String,
    /// The name of its AgentJob.
    name: String,
    /// The UID of its AgentJob.
    uid: String,
    /// Who it belongs to, if that is said.
    #[serde(skip_serializing_if = "String::is_empty")]
    owner: String,
    /// What it runs.
    entry_point: String,
    /// What runs it, once that is resolved.
    #[serde(skip_serializing_if = "String::is_empty")]
    execution_mode: String,
    /// The phase of its AgentJob.
    #[serde(skip_serializing_if = "String::is_empty")]
    phase: String,
    /// How many times the agent was started.
    attempt: i64,
    /// The type of the last error, if there is one.
    #[serde(skip_serializing_if = "String::is_empty")]
    error_type: String,
    /// When its AgentJob was created.
    creation_time: String,
    /// When its agent first started.
    #[serde(skip_serializing_if = "Option::is_none")]
    start_time: Option<String>,
    /// When it reached its final phase.
    #[serde(skip_serializing_if = "Option::is_none")]
    completion_time: Option<String>,
    /// When its AgentJob was found to be gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    deletion_time: Option<String>,
}

impl From<Summary> for Item {
    fn from(s: Summary) -> Self {
        let time = |millis: i64| Timestamp::from_millisecond(millis).unwrap_or_default().to_string();
        Self {
            fid: s.fid.to_string(),
            namespace: s.namespace,
            name: s.name,
            uid: s.uid,
            owner: s.owner,
            entry_point: s.entry_point,
            execution_mode: s.mode,
            phase: s.phase,
            attempt: s.attempt,
            error_type: s.error,
            creation_time: time(s.created),
            start_time: s.started.map(time),
            completion_time: s.finished.map(time),
            deletion_time: s.deleted.map(time),
        }
    }
}

/// An execution with all that is kept.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ExecutionDetail")]
#[serde(rename_all = "camelCase")]
pub struct Whole {
    #[serde(flatten)]
    pub item: Item,
    /// Its runs, in their order: each is a pod that runs, or ran, one of its attempts.
    #[schemars(with = "Vec<KeptRun<'static>>")]
    pub runs: Vec<Box<RawValue>>,
    /// Labels, spec and status of the AgentJob, as far as they are kept.
    #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
    pub job: Box<RawValue>,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn filter(parameters: Value) -> Result<Filter, String> {
        let parameters: ListParameters = serde_json::from_value(parameters).map_err(|e| e.to_string())?;
        parameters.filter().map_err(|e| e.to_string())
    }

    #[test]
    fn parameters_become_a_filter() {
        let all = json!({ "namespace": "a", "name": "n", "phase": "Failed", "entryPoint": "e", "owner": "o", "search": "x", "limit": 7,
            "since": "2026-01-01T00:00:00Z", "until": "2026-01-01T01:00:00+01:00", "continue": "6740c100aabbccddeeff0011" });
        let found = filter(all).unwrap();
        assert_eq!((found.since, found.until, found.limit), (Some(1_767_225_600), Some(1_767_225_600), 7));
        assert_eq!(found.name.as_deref(), Some("n"));
        assert_eq!(found.before.unwrap().to_string(), "6740c100aabbccddeeff0011");
        assert_eq!(filter(json!({})).unwrap(), Filter { limit: 50, ..Filter::default() });
    }

    #[test]
    fn nonsense_is_refused_with_its_name() {
        for (name, value) in [
            ("namespace", json!("../x")),
            ("phase", json!("Done")),
            ("since", json!("yesterday")),
            ("until", json!("")),
            ("limit", json!(0)),
            ("limit", json!(501)),
            ("continue", json!("x")),
            ("search", json!("x".repeat(257))),
            ("nonsense", json!("x")),
        ] {
            let error = filter(json!({ name: value })).unwrap_err();
            assert!(error.contains(name), "{error}");
        }
    }
}
