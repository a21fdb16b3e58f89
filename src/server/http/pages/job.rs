//! One job: what became of it, what it was given, and its events. Used by [`super::router`].

use askama::Template;
use axum::{
    Extension,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};

use super::{
    Frame,
    lines::{self, Lines, MOST, Parameters},
    problem::{Problem, Wanted},
    rendered,
    session::SignedIn,
    text::visible,
    view::{Given, Overview, kept},
};
use crate::{
    database::EventPage,
    platform::clock,
    server::{
        access::Verb,
        http::{Refusal, SharedState, User, executions::find, room::held},
    },
};

/// The page.
#[derive(Template)]
#[template(path = "job.html")]
struct Job {
    frame: Frame,
    name: String,
    fid: String,
    overview: Overview,
    given: Given,
    events: Lines,
}

/// The part of it that changes, for the script.
#[derive(Template)]
#[template(path = "overview.html")]
struct Part {
    fid: String,
    overview: Overview,
}

/// A job that the user may read.
pub async fn page(
    State(server): SharedState,
    Extension(user): User,
    Extension(how): Extension<SignedIn>,
    Path(fid): Path<String>,
    parameters: Result<Query<Parameters>, QueryRejection>,
) -> Response {
    let frame = Frame::of(&user, how);
    let answer = async {
        let Query(parameters) = parameters.map_err(|rejection| Refusal::Malformed(visible(&rejection.body_text())))?;
        let asked = parameters.read()?;
        let (summary, object) = find(&server, &user, Verb::Get, &fid).await?;
        let last = lines::end(asked, &summary);
        let before = server.database.page_before(summary.fid, last + 1, asked.part, MOST).await?;
        let page = EventPage { last, bytes: before.bytes };
        let name = user.username.clone().unwrap_or_default();
        let room = server.limits.room.take(name, page).ok_or(Refusal::TooOften)?;
        let found = server.database.read_part(summary.fid, before.after, page, asked.part).await?;
        let (now, kept) = (clock::now().as_millisecond(), kept(&object));
        let job = Job {
            frame: frame.clone(),
            name: visible(&summary.name),
            fid: summary.fid.to_string(),
            overview: Overview::of(&summary, &kept.status.unwrap_or_default(), now),
            given: Given::of(&kept.spec.unwrap_or_default(), kept.labels.as_ref()),
            events: Lines::of(&summary, asked, &found, before.after, last, now),
        };
        drop(found);
        let text = job.render().map_err(|error| {
            tracing::error!(%error, "a page can't be made");
            Refusal::Busy
        })?;
        Ok(([(header::CONTENT_TYPE, "text/html; charset=utf-8")], held(text, room)).into_response())
    };
    let answer: Result<Response, Refusal> = answer.await;
    answer.unwrap_or_else(|refusal| Problem::about(refusal, frame.clone(), &Wanted::Job, &user).into_response())
}

/// What changes of it.
pub async fn summary(
    State(server): SharedState,
    Extension(user): User,
    Extension(how): Extension<SignedIn>,
    Path(fid): Path<String>,
) -> Response {
    match find(&server, &user, Verb::Get, &fid).await {
        Ok((summary, object)) => {
            let status = kept(&object).status.unwrap_or_default();
            let overview = Overview::of(&summary, &status, clock::now().as_millisecond());
            rendered(StatusCode::OK, &Part { fid: summary.fid.to_string(), overview })
        }
        Err(refusal) => Problem::about(refusal, Frame::of(&user, how), &Wanted::Job, &user).into_response(),
    }
}

#[cfg(test)]
pub mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        database::{Event, Kind, StoredEvent, Summary},
        server::http::pages::{jobs::tests::summary, lines::Asked, view::Fact},
    };

    fn job(summary: &Summary, object: Value, events: &[StoredEvent]) -> Job {
        let kept = kept(&object.to_string());
        let asked = Asked { before: None, part: crate::database::Part::All };
        Job {
            frame: Frame::default(),
            name: visible(&summary.name),
            fid: summary.fid.to_string(),
            overview: Overview::of(summary, &kept.status.unwrap_or_default(), summary.created + 60_000),
            given: Given::of(&kept.spec.unwrap_or_default(), kept.labels.as_ref()),
            events: Lines::of(summary, asked, events, 0, 10, summary.created + 60_000),
        }
    }

    /// The page of a job with 500 events, which runs or has ended.
    pub fn sample(ended: bool) -> String {
        let condition = |kind: &str, status: &str, reason: &str| {
            json!({ "type": kind, "status": status, "reason": reason, "lastTransitionTime": "2026-01-01T00:00:30Z",
                "message": "What is happening, and what to do next, in a sentence that takes some room." })
        };
        let phase = if ended { "Succeeded" } else { "Running" };
        let mut object = json!({
            "labels": { "team": "a" },
            "spec": { "inputs": { "text": "rain", "numbers": [1, 2.0] }, "pausePolicy": "Freeze", "disruptionPolicy": "Count",
                "timeouts": { "execution": "1h" },
                "containers": [{ "name": "agent", "image": "registry.example/agents/text:1", "env": ["TOKEN", "LEVEL"] }] },
            "status": { "activeRun": 3, "runnerPod": "job-1-abc", "resolved": { "retryPolicy": { "maximumAttempts": 3 } },
                "error": { "type": "AgentFailed", "message": "exit code 1\nTraceback: a line" },
                "progress": { "percent": 40, "message": "reads the sources", "time": "2026-01-01T00:00:50Z" },
                "conditions": [condition("Ready", "True", "Accepted"), condition("Succeeded", "Unknown", phase)] }
        });
        if ended {
            object["status"]["result"] = json!({ "answer": "umbrella", "confidence": 0.5 });
        }
        let mut s = Summary { attempt: 2, phase: phase.into(), owner: "ann".into(), last_row: 1000, ..summary(1) };
        s.finished = ended.then_some(s.created + 20_000);
        let kind = |row: i64| {
            if row % 7 == 0 {
                Kind::Result
            } else if row % 5 == 0 {
                Kind::Stderr
            } else {
                Kind::Stdout
            }
        };
        let event = |row: i64| Event {
            ts: 1_767_225_600.0 + row as f64,
            kind: kind(row),
            payload: format!("line {row} {}", "with some words ".repeat((row % 9) as usize)),
        };
        let events: Vec<_> = (501..=1000).map(|row| StoredEvent { row, run: 3, seq: row, event: event(row) }).collect();
        let mut page = job(&s, object, &events);
        let asked = Asked { before: None, part: crate::database::Part::All };
        page.events = Lines::of(&s, asked, &events, 500, 1000, s.created + 60_000);
        page.frame = Frame { user: Some("system:serviceaccount:demo:reader".into()), can_sign_out: true };
        page.render().unwrap()
    }

    fn fact(facts: &[Fact], name: &str) -> String {
        let found = facts.iter().find(|fact| fact.name == name);
        found.map(|f| f.moment.as_ref().map_or(f.text.clone(), |m| m.ago.clone())).unwrap_or_default()
    }

    #[test]
    fn a_job_shows_what_became_of_it() {
        let object = json!({
            "labels": { "team": "a" },
            "spec": { "inputs": { "text": "x" }, "pausePolicy": "Freeze", "timeouts": { "execution": "1h" },
                "containers": [{ "name": "agent", "image": "i:1", "env": ["A", "B"] }] },
            "status": { "activeRun": 3, "runnerPod": "job-1-abc", "result": { "answer": 1.0 },
                "resolved": { "retryPolicy": { "maximumAttempts": 3 } },
                "retry": { "failures": 1, "retryAfter": "2026-01-01T00:02:00Z" },
                "progress": { "percent": 400, "message": "reads", "usage": { "inputTokens": 12 }, "time": "" },
                "spent": { "activeMillis": 5, "usage": { "outputTokens": 7 } },
                "error": { "type": "AgentFailed", "message": "exit code 1" },
                "conditions": [{ "type": "Succeeded", "status": "Unknown", "reason": "Retrying", "message": "again",
                    "lastTransitionTime": "2026-01-01T00:00:30Z" }] }
        });
        let s = Summary { attempt: 2, phase: "Retrying".into(), ..summary(1) };
        let found = job(&s, object, &[]);
        let o = &found.overview;
        assert_eq!((o.phase.word.as_str(), o.reason.as_str(), o.message.as_str()), ("Retrying", "Retrying", "again"));
        assert_eq!(o.error, Some(("AgentFailed".into(), "exit code 1".into())));
        assert_eq!(o.result.as_ref().unwrap().text, "{\n  \"answer\": 1.0\n}");
        let of = |name| fact(&o.attempts, name);
        assert_eq!(
            [of("Attempt"), of("Newest run"), of("Its pod"), of("Failed attempts"), of("Not before"), of("Reported")],
            ["2 of 3", "3", "job-1-abc", "1", "in 60s", "12 input tokens, 7 output tokens"]
        );
        let progress = o.progress.as_ref().unwrap();
        assert_eq!((progress.percent, progress.message.as_str()), (Some(100), "reads"));
        assert_eq!((fact(&o.facts, "Created"), fact(&o.facts, "Duration")), ("60s ago".into(), "50s".into()));
        assert_eq!(o.conditions[0].since.as_ref().unwrap().ago, "30s ago");
        let given = &found.given;
        assert_eq!(given.containers, [("agent".to_string(), "i:1".to_string(), "A, B".to_string())]);
        assert_eq!(fact(&given.facts, "Time-outs"), r#"{"execution":"1h"}"#);
        let text = found.render().unwrap();
        for part in ["Retrying", "exit code 1", "job-1-abc", "Freeze", "i:1", "team", "answer"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn a_job_of_which_little_is_known_has_a_page() {
        let s = Summary { phase: String::new(), started: None, attempt: 0, ..summary(1) };
        for object in
            [json!({}), json!({ "spec": null, "status": null }), json!({ "status": { "conditions": 7 } }), json!(7)]
        {
            let text = job(&s, object, &[]).render().unwrap();
            assert!(text.contains("None yet") && text.contains("job-1"), "{text}");
        }
    }

    #[test]
    fn what_agents_have_written_is_text() {
        let hostile = "</pre><img src=x onerror=alert(1)>\"'>\u{1b}[2J\u{202e}";
        let object = json!({
            "labels": { hostile: hostile },
            "spec": { "inputs": { hostile: hostile }, "containers": [{ "name": hostile, "image": hostile, "env": [hostile] }],
                "pausePolicy": hostile },
            "status": { "result": { hostile: hostile }, "runnerPod": hostile, "workflow": { "id": hostile },
                "progress": { "percent": 1, "message": hostile, "time": hostile },
                "error": { "type": hostile, "message": hostile },
                "conditions": [{ "type": "Succeeded", "status": hostile, "reason": hostile, "message": hostile,
                    "lastTransitionTime": hostile }] }
        });
        let s = Summary { phase: hostile.into(), entry_point: hostile.into(), owner: hostile.into(), ..summary(1) };
        let event =
            |row, kind| StoredEvent { row, run: 1, seq: row, event: Event { ts: 1.0, kind, payload: hostile.into() } };
        let events: Vec<_> = (1..).zip(Kind::ALL).map(|(row, kind)| event(row, kind)).collect();
        let text = job(&s, object, &events).render().unwrap();
        assert!(!text.contains("<img") && !text.contains("onerror=alert(1)>"), "{text}");
        assert!(!text.contains(['\u{1b}', '\u{202e}']), "{text}");
        assert!(text.matches("alert(1)").count() > 30, "all of it is shown: {text}");
    }
}
