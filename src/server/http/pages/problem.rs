//! A page that is refused: why, which right is missing, and how to look at it with kubectl. Used by [`super`].

use askama::Template;
use axum::response::{IntoResponse, Response};
use k8s_openapi::api::authentication::v1::UserInfo;

use super::{Frame, refused, text::visible};
use crate::server::http::Refusal;

/// The most groups of a user that a command names.
const GROUPS: usize = 32;

/// What somebody wanted to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The jobs of all namespaces.
    All,
    /// The jobs of one.
    Namespace(String),
    /// A job, whose namespace is not told to those who may not read it.
    Job,
}

/// The right that it takes.
#[derive(Debug, PartialEq, Eq)]
pub struct Right {
    /// In words.
    pub words: String,
    /// The command that says whether the user has it.
    pub command: String,
}

impl Right {
    /// To read that, for this user.
    pub fn of(wanted: &Wanted, user: &UserInfo) -> Self {
        let (place, flag) = match wanted {
            Wanted::All => ("in all namespaces".to_string(), "--all-namespaces".to_string()),
            Wanted::Namespace(name) => {
                (format!("in the namespace {}", visible(name)), format!("--namespace={}", word(name)))
            }
            Wanted::Job => {
                ("in the namespace of the job, or for the job by its name".into(), "--namespace=NAMESPACE".into())
            }
        };
        let mut command = format!("kubectl auth can-i get agentjobs.kodosumi.io --subresource=events {flag}");
        let name = user.username.as_deref().unwrap_or_default();
        command.push_str(&format!(" --as={}", word(name)));
        // Those of service accounts the API server knows.
        if !name.starts_with("system:serviceaccount:") {
            for group in user.groups.iter().flatten().take(GROUPS) {
                command.push_str(&format!(" --as-group={}", word(group)));
            }
        }
        Self { words: format!("get on agentjobs/events (API group kodosumi.io) {place}"), command }
    }
}

/// A word of a shell's command, with nothing in it that the shell or the page would act on.
fn word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:@/=+".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.into();
    }
    format!("'{}'", visible(text).replace('\n', "\\n").replace('\t', "\\t").replace('\'', r"'\''"))
}

/// A refusal as a page.
#[derive(Template)]
#[template(path = "problem.html")]
pub struct Problem {
    frame: Frame,
    title: &'static str,
    message: String,
    right: Option<Right>,
    /// Whether a namespace may be asked for instead.
    asks_for_namespace: bool,
    refusal: Refusal,
}

impl Problem {
    /// One that is not about rights.
    pub fn new(refusal: Refusal, frame: Frame) -> Self {
        Self {
            title: title(&refusal),
            message: refusal.to_string(),
            frame,
            right: None,
            asks_for_namespace: false,
            refusal,
        }
    }

    /// One that may be.
    pub fn about(refusal: Refusal, frame: Frame, wanted: &Wanted, user: &UserInfo) -> Self {
        let forbidden = matches!(refusal, Refusal::Forbidden(_));
        Self {
            right: forbidden.then(|| Right::of(wanted, user)),
            asks_for_namespace: forbidden && *wanted != Wanted::Job,
            ..Self::new(refusal, frame)
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        tracing::debug!(reason = self.refusal.reason(), "a page is refused");
        refused(&self.refusal, &self)
    }
}

fn title(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::NoToken | Refusal::BadToken => "Sign in",
        Refusal::Forbidden(_) => "A right is missing",
        Refusal::CrossOrigin => "Not from this site",
        Refusal::NotFound | Refusal::Deleted | Refusal::Ended | Refusal::NoSuchPath => "Not found",
        Refusal::Malformed(_) | Refusal::TooLarge | Refusal::NoSuchMethod | Refusal::JobExists => "This can't be read",
        Refusal::TooOften | Refusal::Busy | Refusal::Timeout => "Too much at a time",
        Refusal::ApiServer | Refusal::Database | Refusal::DiskFull => "Unavailable",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn user(name: &str, groups: &[&str]) -> UserInfo {
        serde_json::from_value(json!({ "username": name, "groups": groups })).unwrap()
    }

    #[test]
    fn a_right_is_named_with_the_command_that_shows_it() {
        let account = user("system:serviceaccount:demo:reader", &["system:serviceaccounts"]);
        let right = Right::of(&Wanted::Namespace("demo".into()), &account);
        assert_eq!(right.words, "get on agentjobs/events (API group kodosumi.io) in the namespace demo");
        assert_eq!(
            right.command,
            "kubectl auth can-i get agentjobs.kodosumi.io --subresource=events --namespace=demo \
             --as=system:serviceaccount:demo:reader"
        );
        let right = Right::of(&Wanted::All, &user("ann@example.com", &["team a", "b"]));
        assert!(
            right.command.ends_with("--all-namespaces --as=ann@example.com --as-group='team a' --as-group=b"),
            "{right:?}"
        );
        assert!(Right::of(&Wanted::Job, &account).command.contains("--namespace=NAMESPACE --as="));
    }

    #[test]
    fn a_name_is_one_word_for_a_shell() {
        for (text, expected) in [
            ("ann", "ann"),
            ("", "''"),
            ("a b", "'a b'"),
            ("$(rm -rf ~)", "'$(rm -rf ~)'"),
            ("a'; rm -rf ~; '", r"'a'\''; rm -rf ~; '\'''"),
            ("a\nrm", r"'a\nrm'"),
            ("a\u{202e}b", r"'a\u{202e}b'"),
        ] {
            assert_eq!(word(text), expected);
        }
    }

    #[test]
    fn a_namespace_may_be_named_where_all_are_refused() {
        let user = user("ann", &[]);
        let about = |refusal, wanted: Wanted| Problem::about(refusal, Frame::default(), &wanted, &user);
        let page = about(Refusal::Forbidden("get"), Wanted::All).render().unwrap();
        assert!(page.contains("name=\"namespace\"") && page.contains("can-i get agentjobs.kodosumi.io"), "{page}");
        let page = about(Refusal::Forbidden("get"), Wanted::Job).render().unwrap();
        assert!(!page.contains("name=\"namespace\"") && page.contains("--namespace=NAMESPACE"), "{page}");
        let page = about(Refusal::Busy, Wanted::All).render().unwrap();
        assert!(!page.contains("can-i") && page.contains("overloaded"), "{page}");
    }
}
