//! The list of jobs: a filter, a table, and the way to older ones. Used by [`super::router`].

use askama::Template;
use axum::{
    Extension,
    extract::{RawQuery, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};

use super::{
    Frame,
    problem::{Problem, Wanted},
    rendered,
    session::SignedIn,
    text::{Moment, duration, visible},
};
use crate::{
    api::Phase,
    database::{Filter, Page, Summary},
    platform::clock,
    server::http::{Refusal, SharedState, User, executions::listed, model::ListParameters},
};

/// How many jobs a page has unless its address says so.
const LIMIT: &str = "100";

/// What an address asks for: the parameters of the API, of which a form may leave some empty, and with times as browsers
/// send them.
#[derive(Clone, Debug, Default, PartialEq)]
struct Asked(Vec<(String, String)>);

impl Asked {
    fn read(query: &str) -> Result<Self, Refusal> {
        let pairs: Vec<(String, String)> = serde_urlencoded::from_str(query)
            .map_err(|_| Refusal::Malformed("the address has parameters that can't be read".into()))?;
        let given = pairs.into_iter().map(|(name, value)| (name, value.trim().to_string()));
        Ok(Self(given.filter(|(_, value)| !value.is_empty()).collect()))
    }

    fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(other, _)| other == name).map_or("", |(_, value)| value)
    }

    /// As the database takes it.
    fn filter(&self) -> Result<Filter, Refusal> {
        let mut pairs: Vec<(&str, String)> = self
            .0
            .iter()
            .map(|(name, value)| match name.as_str() {
                "since" | "until" => (name.as_str(), in_utc(value)),
                _ => (name.as_str(), value.clone()),
            })
            .collect();
        if self.get("limit").is_empty() {
            pairs.push(("limit", LIMIT.into()));
        }
        let malformed = |error: String| Refusal::Malformed(visible(&error));
        let text = serde_urlencoded::to_string(&pairs).map_err(|e| malformed(e.to_string()))?;
        let parameters: ListParameters = serde_urlencoded::from_str(&text).map_err(|e| malformed(e.to_string()))?;
        parameters.filter()
    }

    fn wanted(&self) -> Wanted {
        match self.get("namespace") {
            "" => Wanted::All,
            namespace => Wanted::Namespace(namespace.into()),
        }
    }

    /// The address of the same list from an execution on, or of its first page.
    fn address(&self, next: Option<&str>) -> String {
        let pairs = self.0.iter().filter(|(name, _)| name != "continue");
        let pairs = pairs.map(|(name, value)| (name.as_str(), value.as_str())).chain(next.map(|fid| ("continue", fid)));
        let query = serde_urlencoded::to_string(pairs.collect::<Vec<_>>()).unwrap_or_default();
        if query.is_empty() { "/jobs".into() } else { format!("/jobs?{query}") }
    }
}

/// A time as a form sends it, which has no zone.
fn in_utc(text: &str) -> String {
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    match shape.as_str() {
        "0000-00-00" => format!("{text}T00:00:00Z"),
        "0000-00-00T00:00" => format!("{text}:00Z"),
        "0000-00-00T00:00:00" => format!("{text}Z"),
        _ => text.into(),
    }
}

/// A value as a form shows it again: its field takes no zone.
fn without_zone(text: &str) -> String {
    in_utc(text).trim_end_matches('Z').into()
}

/// What the form shows.
#[derive(Clone, Debug, PartialEq)]
struct Fields {
    namespace: String,
    entry_point: String,
    since: String,
    until: String,
    search: String,
    phases: Vec<Choice>,
}

#[derive(Clone, Debug, PartialEq)]
struct Choice {
    name: &'static str,
    chosen: bool,
}

impl Fields {
    fn of(asked: &Asked) -> Self {
        let phase = asked.get("phase");
        let choice = |known: Phase| Choice { name: known.as_str(), chosen: known.as_str() == phase };
        Self {
            namespace: asked.get("namespace").into(),
            entry_point: asked.get("entryPoint").into(),
            since: without_zone(asked.get("since")),
            until: without_zone(asked.get("until")),
            search: asked.get("search").into(),
            phases: Phase::ALL.into_iter().map(choice).collect(),
        }
    }
}

/// A job in the table.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    fid: String,
    namespace: String,
    name: String,
    phase: PhaseWord,
    entry_point: String,
    attempt: i64,
    error: String,
    created: Moment,
    duration: String,
    deleted: bool,
}

impl Row {
    fn of(s: &Summary, now: i64) -> Self {
        Self {
            fid: s.fid.to_string(),
            namespace: visible(&s.namespace),
            name: visible(&s.name),
            phase: PhaseWord::of(&s.phase),
            entry_point: visible(&s.entry_point),
            attempt: s.attempt,
            error: visible(&s.error),
            created: Moment::of(s.created, now),
            duration: s.started.map(|at| duration(at, s.ended().unwrap_or(now))).unwrap_or_default(),
            deleted: s.deleted.is_some(),
        }
    }
}

/// A phase, and the class of its colour, which says no more than the word.
#[derive(Clone, Debug, PartialEq)]
pub struct PhaseWord {
    pub word: String,
    pub class: &'static str,
}

impl PhaseWord {
    pub fn of(phase: &str) -> Self {
        let class = match Phase::ALL.into_iter().find(|known| known.as_str() == phase) {
            Some(Phase::Succeeded) => "good",
            Some(Phase::Failed) => "bad",
            Some(Phase::Running) => "busy",
            Some(Phase::Paused | Phase::Retrying | Phase::Cancelling) => "held",
            Some(Phase::Pending | Phase::Cancelled) | None => "idle",
        };
        Self { word: if phase.is_empty() { "None yet".into() } else { visible(phase) }, class }
    }
}

/// The page.
#[derive(Template)]
#[template(path = "jobs.html")]
struct Jobs {
    frame: Frame,
    fields: Fields,
    rows: Vec<Row>,
    /// The address of the next page.
    older: Option<String>,
    /// That of the first, on another.
    newest: Option<String>,
}

impl Jobs {
    fn of(frame: Frame, asked: &Asked, page: &Page, now: i64) -> Self {
        Self {
            frame,
            fields: Fields::of(asked),
            rows: page.items.iter().map(|summary| Row::of(summary, now)).collect(),
            older: page.next.map(|fid| asked.address(Some(&fid.to_string()))),
            newest: (!asked.get("continue").is_empty()).then(|| asked.address(None)),
        }
    }
}

/// The jobs that the user may read: of one namespace, or of all.
pub async fn page(
    State(server): SharedState,
    Extension(user): User,
    Extension(how): Extension<SignedIn>,
    RawQuery(query): RawQuery,
) -> Response {
    let frame = Frame::of(&user, how);
    let asked = match Asked::read(query.as_deref().unwrap_or_default()) {
        Ok(asked) => asked,
        Err(refusal) => return Problem::new(refusal, frame).into_response(),
    };
    let found = async { listed(&server, &user, asked.filter()?).await };
    match found.await {
        Ok(page) => {
            let now = clock::now().as_millisecond();
            rendered(StatusCode::OK, &Jobs::of(frame, &asked, &page, now))
        }
        Err(refusal) => Problem::about(refusal, frame, &asked.wanted(), &user).into_response(),
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::database::Fid;

    pub fn summary(n: u8) -> Summary {
        Summary {
            fid: Fid([n; 12]),
            namespace: "demo".into(),
            namespace_uid: "u".into(),
            name: format!("job-{n}"),
            uid: "u".into(),
            owner: String::new(),
            entry_point: "text:main".into(),
            mode: "Direct".into(),
            phase: "Running".into(),
            attempt: 1,
            error: String::new(),
            created: 1_767_225_600_000,
            started: Some(1_767_225_610_000),
            finished: None,
            deleted: None,
            last_row: 0,
            run: 1,
        }
    }

    /// The page with jobs of each phase, or with none.
    pub fn sample(some: bool) -> String {
        let asked = Asked::read("namespace=demo&since=2026-01-01T00:00&search=rain").unwrap();
        let phases = Phase::ALL.into_iter().zip(1..).filter(|_| some);
        let items = phases.map(|(phase, n)| Summary {
            phase: phase.as_str().into(),
            error: if phase == Phase::Failed { "AgentFailed".into() } else { String::new() },
            finished: phase.is_terminal().then_some(1_767_225_700_000),
            deleted: (n % 2 == 0).then_some(1_767_225_800_000),
            entry_point: format!("a-package.with.a-long-name.{}:main", "module.".repeat(n.into())),
            ..summary(n)
        });
        let page = Page { items: items.collect(), next: some.then_some(Fid([1; 12])) };
        let frame = Frame { user: Some("system:serviceaccount:demo:reader".into()), can_sign_out: true };
        Jobs::of(frame, &asked, &page, 1_767_229_200_000).render().unwrap()
    }

    #[test]
    fn an_address_becomes_a_filter() {
        let asked = |query| Asked::read(query).unwrap();
        let found = asked("namespace=demo&phase=&entryPoint=&since=2026-01-01T00%3A00&until=2026-01-02&search=+rain+");
        let filter = found.filter().unwrap();
        assert_eq!((filter.namespace.as_deref(), filter.phase), (Some("demo"), None));
        assert_eq!((filter.since, filter.until), (Some(1_767_225_600), Some(1_767_312_000)));
        assert_eq!((filter.search.as_deref(), filter.limit), (Some("rain"), 100));
        assert_eq!(Fields::of(&found).until, "2026-01-02T00:00:00");
        assert_eq!(Fields::of(&asked("since=2026-01-01T00:00:00Z")).since, "2026-01-01T00:00:00");
        for bad in [
            "phase=x",
            "namespace=..%2F",
            "limit=0",
            "since=x",
            "nonsense=1",
            "continue=x",
            "phase=Failed&phase=Failed",
        ] {
            assert_eq!(asked(bad).filter().unwrap_err().reason(), "Malformed", "{bad}");
        }
    }

    #[test]
    fn pages_follow_each_other_with_the_same_filter() {
        let asked = Asked::read("namespace=demo&search=a%26b&continue=060606060606060606060606").unwrap();
        let page = Page { items: vec![summary(5)], next: Some(Fid([5; 12])) };
        let jobs = Jobs::of(Frame::default(), &asked, &page, 0);
        assert_eq!(jobs.older.as_deref(), Some("/jobs?namespace=demo&search=a%26b&continue=050505050505050505050505"));
        assert_eq!(jobs.newest.as_deref(), Some("/jobs?namespace=demo&search=a%26b"));
        let jobs = Jobs::of(Frame::default(), &Asked::default(), &Page { items: vec![], next: None }, 0);
        assert_eq!((jobs.older.as_deref(), jobs.newest.as_deref()), (None, None));
        let text = jobs.render().unwrap();
        assert!(text.contains("No jobs"), "{text}");
    }

    #[test]
    fn a_row_shows_its_job() {
        let mut s = summary(1);
        let row = Row::of(&s, s.created + 70_000);
        assert_eq!((row.created.ago.as_str(), row.duration.as_str()), ("70s ago", "60s"));
        assert_eq!((row.phase.word.as_str(), row.phase.class), ("Running", "busy"));
        (s.finished, s.deleted, s.phase) = (Some(s.created + 20_000), Some(s.created + 30_000), "Succeeded".into());
        let row = Row::of(&s, s.created + 70_000);
        assert_eq!((row.duration.as_str(), row.deleted, row.phase.class), ("10s", true, "good"));
        (s.started, s.phase) = (None, String::new());
        let row = Row::of(&s, s.created);
        assert_eq!((row.duration.as_str(), row.phase.word.as_str()), ("", "None yet"));
    }

    #[test]
    fn what_users_have_written_is_text() {
        let hostile = "\"><script>alert(1)</script>\u{1b}[31m\u{202e}";
        let s = Summary { entry_point: hostile.into(), error: hostile.into(), phase: hostile.into(), ..summary(1) };
        let asked = Asked::read("search=%22%3E%3Cscript%3E&namespace=%3Cb%3E").unwrap();
        let page = Page { items: vec![s], next: None };
        let text = Jobs::of(Frame::default(), &asked, &page, 0).render().unwrap();
        assert!(!text.contains("<script>") && !text.contains("<b>") && !text.contains("\"><script"), "{text}");
        assert!(!text.contains(['\u{1b}', '\u{202e}']) && text.contains(r"\u{202e}"), "{text}");
    }
}
