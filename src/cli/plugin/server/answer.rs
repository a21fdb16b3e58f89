//! Why the server can't be reached, or refuses something, and what to do about it. Pure. Used by everything in this folder.

use serde::Deserialize;

use super::identity::{Account, Identity};
use crate::api::names;

/// The roles that the chart creates in koco's namespace for those who reach the server by port-forward: with the default
/// account, and with one of their own.
const READER: &str = names::ARCHIVE_READER;
const ACCESS: &str = "koco-archive-access";

/// What went wrong.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(in super::super) enum Trouble {
    /// The server isn't reached now: later it may be.
    #[error("koco's server can't be reached: {0}")]
    Away(String),
    /// The server says no, with this status.
    #[error("{words}")]
    Refused { status: u16, words: String },
    /// There is none.
    #[error("{0}")]
    Missing(String),
    /// The API server doesn't let the caller reach it.
    #[error("{0}")]
    Forbidden(String),
    /// It won't get better by itself.
    #[error("{0}")]
    Final(String),
}

impl Trouble {
    pub fn away(error: impl std::error::Error) -> Self {
        // What hyper says alone is little.
        let source = error.source().map(|source| format!(": {source}")).unwrap_or_default();
        Self::Away(format!("{error}{source}"))
    }

    pub fn unreadable() -> Self {
        Self::Final("the server's answer can't be read: use the plugin of the release that is installed".into())
    }

    /// Whether a second try may be answered.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Away(_) => true,
            Self::Refused { status, .. } => matches!(status, 408 | 429 | 500..),
            Self::Missing(_) | Self::Forbidden(_) | Self::Final(_) => false,
        }
    }

    /// Whether the server says that there is no such execution; it says so also of what may not be read.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Refused { status: 403 | 404, .. })
    }
}

/// What the server says with a refusal.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Body {
    message: String,
}

/// The server's refusal.
pub(super) fn refused(status: u16, body: &[u8], identity: &Identity) -> Trouble {
    let body: Body = serde_json::from_slice(body).unwrap_or_default();
    let message =
        Some(body.message).filter(|message| !message.is_empty()).unwrap_or_else(|| format!("status {status}"));
    let words = match (status, identity.account()) {
        (401, _) => format!(
            "the server does not take {identity}: {message}. It has to be of the audience {}: kubectl create token NAME \
             --audience {} > FILE, and --token-file FILE",
            names::SERVER_AUDIENCE,
            names::SERVER_AUDIENCE
        ),
        (403, Some(account)) => {
            let (namespace, name) = (account.namespace(), account.name());
            format!(
                "{identity} may not do that: {message}. What it may is what its roles say: have an administrator bind \
                 view, or edit to delete, to it (kubectl -n NAMESPACE create rolebinding NAME --clusterrole view \
                 --serviceaccount {namespace}:{name}), or name an account that may with --service-account"
            )
        }
        (403, None) => format!("{identity} may not do that: {message}"),
        (404 | 409 | 410 | 400, _) => message,
        _ => format!("the server refuses it: {message}"),
    };
    Trouble::Refused { status, words }
}

/// What the API server answers when the way to the server is looked for.
pub(super) fn lookup(error: kube::Error, namespace: &str, what: &str) -> Trouble {
    match &error {
        kube::Error::Api(status) if status.code == 403 => Trouble::Forbidden(format!(
            "you may not read {what} in {namespace}: have an administrator bind the role {ACCESS} to you (kubectl -n \
             {namespace} create rolebinding NAME --role {ACCESS} --user YOU), or go another way with --server: {}",
            status.message
        )),
        kube::Error::Api(status) if status.code == 401 => {
            Trouble::Final("not authenticated: the API server refuses the kubeconfig's credentials".into())
        }
        kube::Error::Api(status) => Trouble::Away(format!("{what} in {namespace}: {}", status.message)),
        error => Trouble::Away(format!("{what} in {namespace}: {error}")),
    }
}

/// There is no server.
pub(super) fn not_installed(namespace: &str) -> Trouble {
    Trouble::Missing(format!(
        "there is no koco server in the namespace {namespace}: install the chart with server.enabled=true, or name its \
         namespace with --operator-namespace"
    ))
}

/// There is one, and it does not run.
pub(super) fn none_ready(namespace: &str) -> Trouble {
    Trouble::Away(format!(
        "none of its pods is ready: kubectl -n {namespace} describe pods -l app.kubernetes.io/component=server"
    ))
}

/// What answers is not the server, or not one that is trusted.
pub(super) fn not_trusted(words: &str) -> Trouble {
    Trouble::Final(format!(
        "{words}: what answers has no certificate of the authority that is expected. Of an ingress, name the authority \
         with --server-ca and the name in the certificate with --server-name"
    ))
}

/// The API server makes no token for an account.
pub(super) fn no_token(error: kube::Error, account: &Account) -> Trouble {
    let (namespace, name) = (account.namespace(), account.name());
    let others = "name an account of your own with --service-account, or a token's file with --token-file";
    match &error {
        kube::Error::Api(status) if status.code == 403 => {
            let role = match name {
                READER => format!(
                    "bind the role {READER} to you (kubectl -n {namespace} create rolebinding NAME --role {READER} --user YOU)"
                ),
                _ => "give you the right to create serviceaccounts/token of it".into(),
            };
            Trouble::Forbidden(format!(
                "you may not create tokens for the service account {namespace}/{name}: have an administrator {role}, \
                 {others}: {}",
                status.message
            ))
        }
        kube::Error::Api(status) if status.code == 404 => Trouble::Final(format!(
            "there is no service account {namespace}/{name}: {others}. The chart creates {READER} with \
             server.reader.create=true"
        )),
        kube::Error::Api(status) if status.code < 500 && status.code != 429 => {
            Trouble::Final(format!("a token for the service account {namespace}/{name}: {}", status.message))
        }
        error => Trouble::Away(format!("a token for the service account {namespace}/{name}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn api(code: u16) -> kube::Error {
        let status = json!({ "code": code, "message": "the API server's words", "status": "Failure" });
        kube::Error::Api(Box::new(serde_json::from_value(status).unwrap()))
    }

    #[test]
    fn each_refusal_says_what_to_do() {
        let account = Account::parse("team/reader").unwrap();
        let identity = Identity::of_account(account.clone());
        let body = |message: &str| json!({ "reason": "R", "message": message }).to_string().into_bytes();
        let said = |status, message: &str| refused(status, &body(message), &identity).to_string();
        let cases = [
            (said(401, "no"), vec!["the service account team/reader", "kubectl create token NAME --audience koco"]),
            (said(403, "no"), vec!["--serviceaccount team:reader", "--service-account"]),
            (said(409, "delete it first"), vec!["delete it first"]),
            (said(503, "busy"), vec!["refuses it: busy"]),
            (refused(502, b"<html>", &identity).to_string(), vec!["status 502"]),
            (
                lookup(api(403), "koco-system", "x").to_string(),
                vec!["--role koco-archive-access", "-n koco-system", "the API server's words"],
            ),
            (no_token(api(403), &account).to_string(), vec!["team/reader", "--token-file", "the API server's words"]),
            (
                no_token(api(404), &account).to_string(),
                vec!["there is no service account team/reader", "--service-account"],
            ),
            (not_installed("n").to_string(), vec!["server.enabled=true", "--operator-namespace"]),
            (none_ready("n").to_string(), vec!["kubectl -n n describe pods"]),
        ];
        for (said, words) in cases {
            assert!(words.iter().all(|word| said.contains(word)), "{words:?}: {said}");
        }
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let identity = Identity::of_account(Account::parse("a").unwrap());
        for (status, passes) in [
            (400, false),
            (401, false),
            (403, false),
            (404, false),
            (410, false),
            (429, true),
            (500, true),
            (503, true),
        ] {
            assert_eq!(refused(status, b"", &identity).may_pass(), passes, "{status}");
        }
        assert!(none_ready("n").may_pass() && lookup(api(503), "n", "x").may_pass());
        assert!(
            !not_installed("n").may_pass() && !lookup(api(403), "n", "x").may_pass() && !not_trusted("x").may_pass()
        );
        assert!(!no_token(api(403), &Account::parse("a").unwrap()).may_pass());
    }
}
