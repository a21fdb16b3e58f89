//! The way to `koco server` for those who have a kubeconfig: [`route`] leads to it, [`identity`] says who asks, [`answer`]
//! explains what goes wrong. Used by `events`, `archive`, `open` and `doctor`.
//!
//! The connection is TLS from end to end, and checked against the server's own certificate authority, whichever way it
//! takes. Through a port-forward the API server passes bytes on, headers included, so the token that the server asks
//! for is an ordinary `Authorization`.

mod answer;
mod identity;
mod route;

use std::{path::PathBuf, time::Duration};

use clap::Args;
use futures::{Stream, StreamExt};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::{
    body::{Bytes, Incoming},
    client::conn::http1::{SendRequest, handshake},
};
use hyper_util::rt::TokioIo;
use kube::Client;
use serde_json::Value;
use tokio::time::timeout;
use url::Url;

pub(super) use self::{answer::Trouble, identity::OwnToken};
use self::{
    identity::{Account, Identity},
    route::Route,
};
use super::connect::Session;

/// How long a way to the server may take to open.
const OPEN: Duration = Duration::from_secs(20);
/// How long the server may take to begin its answer; it gives up before that.
const ANSWER: Duration = Duration::from_secs(30);
/// After how long without a byte an answer is taken for lost; a stream has a sign of life more often.
const SILENCE: Duration = Duration::from_secs(60);
/// The largest answer that is read whole: a page of events, and more.
const LARGEST: usize = 256 * 1024 * 1024;
/// The type of a stream of events.
const EVENT_STREAM: &str = "text/event-stream";
const HEADING: &str = "Reaching the server";

/// Where the server is, and who asks it.
#[derive(Args, Clone, Debug)]
pub(super) struct Access {
    /// Namespace that koco runs in
    #[arg(long, value_name = "NAMESPACE", env = "KOCO_NAMESPACE", default_value = "koco-system", help_heading = HEADING)]
    pub operator_namespace: String,
    /// Service account to read as, of the namespace of --namespace unless it names one; you need the right to create
    /// tokens for it. Default: koco-archive-reader in koco's namespace
    #[arg(long, value_name = "[NAMESPACE/]NAME", value_parser = Account::parse, help_heading = HEADING)]
    service_account: Option<Account>,
    /// File with a token to read with, of the audience koco
    #[arg(long, value_name = "FILE", conflicts_with = "service_account", help_heading = HEADING)]
    token_file: Option<PathBuf>,
    /// URL of the server, such as that of an ingress, instead of a port-forward to one of its pods
    #[arg(long, value_name = "URL", env = "KOCO_SERVER_URL", value_parser = route::url, help_heading = HEADING)]
    server: Option<Url>,
    /// With --server: file with the certificate authority of its certificate. Default: the public ones
    #[arg(long, value_name = "FILE", env = "KOCO_SERVER_CA", requires = "server", help_heading = HEADING)]
    server_ca: Option<PathBuf>,
    /// With --server: the name in its certificate. Default: the URL's
    #[arg(long, value_name = "NAME", requires = "server", help_heading = HEADING)]
    server_name: Option<String>,
}

impl Access {
    /// Where it is, if it is reached in another way than by the cluster's own objects.
    pub fn url(&self) -> Option<&Url> {
        self.server.as_ref()
    }
}

/// The server, for one command.
pub(super) struct Server {
    /// Makes tokens.
    client: Client,
    route: Route,
    identity: Identity,
    /// A connection that has answered before.
    idle: Option<SendRequest<String>>,
    limit: Option<Duration>,
}

/// What comes of a stream.
pub(super) type Chunks = std::pin::Pin<Box<dyn Stream<Item = Result<Bytes, Trouble>> + Send>>;

impl Server {
    /// Finds out how the server is reached. No request to it is sent yet.
    pub async fn find(session: &Session, access: &Access) -> Result<Self, Trouble> {
        let client = session.client();
        let route = match &access.server {
            Some(url) => Route::direct(url, access.server_ca.as_deref(), access.server_name.as_deref())?,
            None => Route::forward(&client, &access.operator_namespace).await?,
        };
        let default = Account::reader(&access.operator_namespace);
        let identity = match (&access.token_file, &access.service_account) {
            (Some(file), _) => Identity::of_file(file),
            (None, Some(account)) => Identity::of_account(account.within(&session.namespace)),
            (None, None) => Identity::by_default(session.token.clone(), default),
        };
        Ok(Self { client, route, identity, idle: None, limit: session.limit })
    }

    /// What is at a path, as JSON.
    pub async fn get(&mut self, path: &str, parameters: &[(&str, String)]) -> Result<Value, Trouble> {
        let bytes = self.read(path, parameters).await?;
        serde_json::from_slice(&bytes).map_err(|_| Trouble::unreadable())
    }

    /// The bytes of what is at a path.
    pub async fn read(&mut self, path: &str, parameters: &[(&str, String)]) -> Result<Vec<u8>, Trouble> {
        let response = self.ask(&Method::GET, &target(path, parameters), &accepted("application/json")).await?;
        whole(response).await
    }

    /// Deletes what is at a path.
    pub async fn delete(&mut self, path: &str) -> Result<(), Trouble> {
        let response = self.ask(&Method::DELETE, &target(path, &[]), &accepted("application/json")).await?;
        whole(response).await.map(drop)
    }

    /// The events at a path after a row, as they come.
    pub async fn stream(&mut self, path: &str, after: i64) -> Result<Chunks, Trouble> {
        let mut headers = accepted(EVENT_STREAM);
        headers.insert("last-event-id", after.into());
        let response = self.ask(&Method::GET, &target(path, &[]), &headers).await?;
        // It lasts as long as the connection, which serves nothing else.
        self.idle = None;
        Ok(Box::pin(chunks(response)))
    }

    /// The answer to another's request, also if it is a refusal.
    pub async fn pass(
        &mut self,
        method: &Method,
        target: &str,
        headers: &HeaderMap,
    ) -> Result<Response<Incoming>, Trouble> {
        let answered = self.answer(method, target, headers).await;
        // What comes of it is passed on while others ask.
        self.idle = None;
        answered
    }

    /// Who is asked as, for people.
    pub fn asks_as(&self) -> String {
        self.identity.to_string()
    }

    /// An answer that is no refusal.
    async fn ask(&mut self, method: &Method, target: &str, headers: &HeaderMap) -> Result<Response<Incoming>, Trouble> {
        let answered = self.answer(method, target, headers).await?;
        let status = answered.status();
        if status.is_success() {
            return Ok(answered);
        }
        let body = whole(answered).await.unwrap_or_default();
        Err(answer::refused(status.as_u16(), &body, &self.identity))
    }

    /// An answer. Who has several tokens tries the next one where one isn't taken.
    async fn answer(
        &mut self,
        method: &Method,
        target: &str,
        headers: &HeaderMap,
    ) -> Result<Response<Incoming>, Trouble> {
        loop {
            let token = self.identity.token(&self.client).await?;
            let answered = self.send(method, target, headers, &token.text).await?;
            if answered.status() != StatusCode::UNAUTHORIZED || !self.identity.is_refused(token.is_new) {
                return Ok(answered);
            }
        }
    }

    /// An answer. A connection that has answered before may be closed by now: then a new one is asked.
    async fn send(
        &mut self,
        method: &Method,
        target: &str,
        headers: &HeaderMap,
        token: &str,
    ) -> Result<Response<Incoming>, Trouble> {
        if let Some(mut idle) = self.idle.take()
            && method == Method::GET
            && idle.ready().await.is_ok()
            && let Ok(response) = self.over(&mut idle, method, target, headers, token).await
        {
            self.idle = Some(idle);
            return Ok(response);
        }
        let opened = timeout(self.limit.unwrap_or(OPEN), self.route.open()).await;
        let stream = opened.map_err(|_| Trouble::Away("no connection in time".into()))??;
        let (mut sender, connection) = handshake(TokioIo::new(stream)).await.map_err(Trouble::away)?;
        tokio::spawn(connection);
        let response = self.over(&mut sender, method, target, headers, token).await?;
        self.idle = Some(sender);
        Ok(response)
    }

    async fn over(
        &self,
        sender: &mut SendRequest<String>,
        method: &Method,
        target: &str,
        headers: &HeaderMap,
        token: &str,
    ) -> Result<Response<Incoming>, Trouble> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{target}", self.route.prefix()))
            .header(header::HOST, self.route.host())
            .header(header::USER_AGENT, concat!("kubectl-koco/", env!("CARGO_PKG_VERSION")))
            .header(header::AUTHORIZATION, format!("Bearer {token}"));
        for (name, value) in headers {
            request = request.header(name, value);
        }
        // Of a token that no header can hold.
        let request = request.body(String::new()).map_err(|e| Trouble::Final(format!("the request: {e}")))?;
        let answered = timeout(self.limit.unwrap_or(ANSWER), sender.send_request(request)).await;
        answered.map_err(|_| Trouble::Away("no answer in time".into()))?.map_err(Trouble::away)
    }
}

/// The header that says which type an answer is to have.
fn accepted(of: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(of))])
}

/// The path with its parameters, escaped.
fn target(path: &str, parameters: &[(&str, String)]) -> String {
    let url = Url::parse_with_params(&format!("https://server{path}"), parameters);
    match url.as_ref().map(|url| (url.path(), url.query().filter(|query| !query.is_empty()))) {
        Ok((path, Some(query))) => format!("{path}?{query}"),
        _ => path.to_string(),
    }
}

/// What comes of an answer.
fn chunks(response: Response<Incoming>) -> impl Stream<Item = Result<Bytes, Trouble>> + Send {
    let body = response.into_body().into_data_stream();
    futures::stream::unfold(Some(body), async |body| {
        let mut body = body?;
        match timeout(SILENCE, body.next()).await {
            Ok(Some(Ok(bytes))) => Some((Ok(bytes), Some(body))),
            Ok(Some(Err(error))) => Some((Err(Trouble::away(error)), None)),
            Ok(None) => None,
            Err(_) => Some((Err(Trouble::Away("the answer has stopped".into())), None)),
        }
    })
}

/// All of an answer.
async fn whole(response: Response<Incoming>) -> Result<Vec<u8>, Trouble> {
    let (mut all, mut chunks) = (Vec::new(), Box::pin(chunks(response)));
    while let Some(chunk) = chunks.next().await {
        all.extend_from_slice(&chunk?);
        if all.len() > LARGEST {
            return Err(Trouble::unreadable());
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        access: Access,
    }

    #[test]
    fn parameters_are_escaped() {
        let parameters = [("search", "a b&c=ü/?#".to_string()), ("limit", "5".into())];
        assert_eq!(
            target("/api/v1/executions", &parameters),
            "/api/v1/executions?search=a+b%26c%3D%C3%BC%2F%3F%23&limit=5"
        );
        assert_eq!(target("/health", &[]), "/health");
    }

    #[test]
    fn a_connection_is_never_unverified() {
        let parse = |line: &str| Line::try_parse_from(["x"].into_iter().chain(line.split_whitespace()));
        assert!(parse("--server https://koco.example.com/archive --server-ca f --server-name n").is_ok());
        for wrong in ["--server http://koco.example.com", "--server koco", "--server-ca f", "--server-name n"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert!(parse("--token-file f --service-account a").is_err(), "one identity");
        assert_eq!(parse("").unwrap_or_else(|e| panic!("{e}")).access.operator_namespace, "koco-system");
    }
}
