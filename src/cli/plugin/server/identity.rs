//! Who asks the server: a token from a file, the kubeconfig's own if it is meant for the server, or one that is made for a
//! service account. Used by [`super`].
//!
//! The server takes tokens of the audience `koco` alone. A token for the API server is never shown to it: it would be
//! refused, and a server that is not what it seems could do with it all that its owner may.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::ServiceAccount,
};
use kube::{Api, Client, api::PostParams};
use serde_json::Value;

use super::answer::{self, Trouble};
use crate::api::names;

/// How long a token lives that is made: the shortest that there is, for a command needs it for seconds. What follows for
/// longer gets new ones.
const LIFETIME: Duration = Duration::from_secs(600);
/// At which age it is made anew.
const OLD: Duration = Duration::from_secs(480);

/// A service account.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Account {
    /// That of the command, if there is none.
    namespace: Option<String>,
    name: String,
}

impl Account {
    /// Reads `NAME`, `NAMESPACE/NAME` or the name of its user.
    pub fn parse(text: &str) -> Result<Self, String> {
        let user = text.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
        let (namespace, name) = match user.or_else(|| text.split_once('/')) {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, text),
        };
        if [namespace.unwrap_or(name), name].iter().all(|part| names::is_object_name(part)) {
            return Ok(Self { namespace: namespace.map(str::to_string), name: name.into() });
        }
        Err("no service account: NAME or NAMESPACE/NAME".into())
    }

    /// The one that the chart creates.
    pub fn reader(operator: &str) -> Self {
        Self { namespace: Some(operator.into()), name: names::ARCHIVE_READER.into() }
    }

    /// The same, with this namespace unless it has one.
    pub fn within(&self, namespace: &str) -> Self {
        Self { namespace: Some(self.namespace.clone().unwrap_or_else(|| namespace.into())), name: self.name.clone() }
    }

    pub fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or_default()
    }

    pub fn name(&self) -> &str {
        &self.name
    }
}

/// The kubeconfig's own token, as it has it.
#[derive(Clone)]
pub(in super::super) enum OwnToken {
    Text(String),
    File(PathBuf),
}

/// Where a token comes from.
enum Source {
    File(PathBuf),
    Own(String),
    Account(Account),
}

/// A token.
pub(super) struct Token {
    pub text: String,
    /// Whether it was not used before.
    pub is_new: bool,
}

/// Who asks. Of several possible, the first that the server takes.
pub(super) struct Identity {
    sources: Vec<Source>,
    /// The token that was made, and when.
    made: Option<(String, Instant)>,
}

impl Identity {
    pub fn of_file(file: &Path) -> Self {
        Self { sources: vec![Source::File(file.into())], made: None }
    }

    pub fn of_account(account: Account) -> Self {
        Self { sources: vec![Source::Account(account)], made: None }
    }

    /// The kubeconfig's token if it is meant for the server, and else the default account.
    pub fn by_default(own: Option<OwnToken>, account: Account) -> Self {
        let own = own.and_then(|own| match own {
            OwnToken::Text(text) => Some(text),
            OwnToken::File(file) => std::fs::read_to_string(file).ok(),
        });
        let own = own.map(|token| token.trim().to_string()).filter(|token| is_for(token, names::SERVER_AUDIENCE));
        let sources = own.map(Source::Own).into_iter().chain([Source::Account(account)]);
        Self { sources: sources.collect(), made: None }
    }

    /// The service account that asks, if it is one that tokens are made for.
    pub fn account(&self) -> Option<&Account> {
        match self.sources.first() {
            Some(Source::Account(account)) => Some(account),
            _ => None,
        }
    }

    /// A token that is valid for a while yet.
    pub async fn token(&mut self, client: &Client) -> Result<Token, Trouble> {
        let new = |text| Ok(Token { text, is_new: true });
        match self.sources.first() {
            // Read again each time: who put it there may renew it.
            Some(Source::File(file)) => {
                let wrong = |e| Trouble::Final(format!("{}: {e}", file.display()));
                new(std::fs::read_to_string(file).map_err(wrong)?.trim().to_string())
            }
            Some(Source::Own(token)) => new(token.clone()),
            Some(Source::Account(account)) => {
                if let Some((text, at)) = &self.made
                    && at.elapsed() < OLD
                {
                    return Ok(Token { text: text.clone(), is_new: false });
                }
                let text = made(client, account).await?;
                self.made = Some((text.clone(), Instant::now()));
                new(text)
            }
            None => Err(Trouble::Final("there is no token for the server".into())),
        }
    }

    /// The server takes the token no more, or never did. Whether another is worth a try.
    pub fn is_refused(&mut self, was_new: bool) -> bool {
        self.made = None;
        if was_new && self.sources.len() > 1 {
            self.sources.remove(0);
            return true;
        }
        !was_new
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.sources.first() {
            Some(Source::File(file)) => write!(f, "the token in {}", file.display()),
            Some(Source::Own(_)) => f.write_str("the kubeconfig's token"),
            Some(Source::Account(account)) => {
                write!(f, "the service account {}/{}", account.namespace(), account.name())
            }
            None => f.write_str("no token"),
        }
    }
}

/// Makes a token for an account.
async fn made(client: &Client, account: &Account) -> Result<String, Trouble> {
    let spec = TokenRequestSpec {
        audiences: vec![names::SERVER_AUDIENCE.into()],
        expiration_seconds: i64::try_from(LIFETIME.as_secs()).ok(),
        ..TokenRequestSpec::default()
    };
    let request = TokenRequest { spec, ..TokenRequest::default() };
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), account.namespace());
    let made = accounts.create_token_request(account.name(), &PostParams::default(), &request).await;
    let made = made.map_err(|e| answer::no_token(e, account))?;
    made.status.map(|status| status.token).ok_or_else(|| Trouble::Away("the API server made no token".into()))
}

/// Whether a token says that it is for this audience. What isn't a JSON Web Token says nothing.
fn is_for(token: &str, audience: &str) -> bool {
    let [_, payload, _] = token.split('.').collect::<Vec<_>>()[..] else { return false };
    let payload = BASE64_URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok();
    let payload = payload.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
    match payload.as_ref().and_then(|payload| payload.get("aud")) {
        Some(Value::String(one)) => one == audience,
        Some(Value::Array(all)) => all.iter().any(|one| one == audience),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn token(payload: Value) -> String {
        format!("e30.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(payload.to_string()))
    }

    #[test]
    fn a_token_for_the_api_server_is_never_shown_to_the_server() {
        assert!(
            is_for(&token(json!({ "aud": "koco" })), "koco") && is_for(&token(json!({ "aud": ["a", "koco"] })), "koco")
        );
        let others =
            [json!({ "aud": ["https://kubernetes.default.svc"] }), json!({ "aud": "kocoa" }), json!({}), json!(1)];
        let others: Vec<String> =
            others.into_iter().map(token).chain(["opaque".into(), "a.b.c".into(), "".into()]).collect();
        let default = || Account::reader("koco-system");
        for other in others {
            let identity = Identity::by_default(Some(OwnToken::Text(other.clone())), default());
            assert_eq!(identity.sources.len(), 1, "{other}");
            assert_eq!(identity.to_string(), "the service account koco-system/koco-archive-reader");
        }
        let own = OwnToken::Text(format!(" {}\n", token(json!({ "aud": "koco" }))));
        let mut identity = Identity::by_default(Some(own), default());
        assert_eq!(identity.to_string(), "the kubeconfig's token");
        assert!(identity.is_refused(true), "then the account");
        assert_eq!(identity.account(), Some(&default()));
        assert!(!identity.is_refused(true), "there is nothing left");
        assert!(identity.is_refused(false), "one that was taken before is made anew");
        assert_eq!(identity.account(), Some(&default()));
    }

    #[test]
    fn an_account_has_a_namespace() {
        let of =
            |text: &str| Account::parse(text).map(|a| a.within("here")).map(|a| (a.namespace().to_string(), a.name));
        let pair = |namespace: &str, name: &str| Ok((namespace.to_string(), name.to_string()));
        assert_eq!(of("a"), pair("here", "a"));
        assert_eq!(of("n/a"), pair("n", "a"));
        assert_eq!(of("system:serviceaccount:n:a"), pair("n", "a"));
        for wrong in ["", "n/", "/a", "n/a/b", "A", "system:serviceaccount:n"] {
            assert!(Account::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_file_is_read_each_time() {
        let file = std::env::temp_dir().join(format!("koco-token-{}", std::process::id()));
        let config = kube::Config::new("http://localhost:1".parse().unwrap());
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::try_from(config).unwrap();
        let mut identity = Identity::of_file(&file);
        assert!(matches!(identity.token(&client).await, Err(Trouble::Final(_))), "there is none");
        for text in ["a.b.c", "d.e.f"] {
            std::fs::write(&file, format!("{text}\n")).unwrap();
            let token = identity.token(&client).await.unwrap_or_else(|e| panic!("{e}"));
            assert_eq!((token.text.as_str(), token.is_new), (text, true));
        }
        std::fs::remove_file(&file).unwrap();
    }
}
