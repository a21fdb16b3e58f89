//! The client of the gateway: one function a request, no retries, no state. Used by [`super::link`],
//! [`super::report`] and, with connections of its own, by [`super::events`].

use std::{sync::Arc, time::Duration};

use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, header, redirect};
use serde::Serialize;
use serde_json::json;
use tokio::time::timeout;

use super::{config::Config, identity::Identity, tls};
use crate::{
    api::RunnerState,
    protocol::{
        events::{Batch, CONTENT_TYPE, Stored},
        runner::{
            Confirm, ControlMessage, EndReport, ErrorResponse, Heartbeat, Job, PING_SECONDS, Register, RunPath, verb,
        },
    },
};

/// How long a request may take; a heartbeat is limited by its interval instead.
const REQUEST: Duration = Duration::from_secs(5);
/// The report of an end is written to the API server before it is answered.
const END_REPORT: Duration = Duration::from_secs(15);
/// A batch of events may have to wait for a database.
const EVENTS: Duration = Duration::from_secs(30);
/// How long the stream may be idle: longer than the interval of pings.
const IDLE_LIMIT: Duration = Duration::from_secs(3 * PING_SECONDS);
/// The longest message.
const MAX_LINE_BYTES: usize = 64 * 1024;

/// Why a request failed.
#[derive(thiserror::Error, Debug)]
pub enum GatewayError {
    #[error(transparent)]
    Transport(#[from] reqwest::Error),
    #[error("{status} from the gateway: {message}")]
    Refused { status: StatusCode, message: String },
    #[error("the stream was idle for {0:?}")]
    Idle(Duration),
    #[error("a message of more than {MAX_LINE_BYTES} bytes")]
    LongLine,
}

impl GatewayError {
    /// Whether a retry is pointless: the job is gone or has ended, or the run is another pod's.
    pub fn is_final(&self) -> bool {
        self.is(&[StatusCode::FORBIDDEN, StatusCode::NOT_FOUND, StatusCode::GONE])
    }

    /// Whether the gateway answered with one of these.
    pub fn is(&self, statuses: &[StatusCode]) -> bool {
        matches!(self, Self::Refused { status, .. } if statuses.contains(status))
    }
}

/// Why the client can't be built.
#[derive(thiserror::Error, Debug)]
pub enum ClientError {
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    #[error(transparent)]
    Client(#[from] reqwest::Error),
}

/// A client of the gateway.
#[derive(Clone, Debug)]
pub struct Gateway {
    client: Client,
    url: String,
    run: RunPath,
    /// For the registration only.
    token: Arc<str>,
}

impl Gateway {
    /// Names are resolved in Rust: a static program must not load the name-service modules of the agent's image.
    pub fn new(config: &Config, identity: &Identity, token: String) -> Result<Self, ClientError> {
        let client = Client::builder()
            .tls_backend_preconfigured(tls::client_config(&config.gateway_ca, identity)?)
            .https_only(true)
            .hickory_dns(true)
            .no_proxy()
            .redirect(redirect::Policy::none())
            .connect_timeout(REQUEST)
            .tcp_nodelay(true)
            .tcp_keepalive(Duration::from_secs(PING_SECONDS))
            .tcp_user_timeout(IDLE_LIMIT)
            .user_agent(concat!("koco-runner/", env!("CARGO_PKG_VERSION")))
            .build()?;
        let Config { gateway_url, run, .. } = config.clone();
        Ok(Self { client, url: gateway_url, run, token: token.into() })
    }

    /// Registers the runner.
    pub async fn register(
        &self,
        (state, generation): (RunnerState, i64),
        has_job: bool,
    ) -> Result<Option<Job>, GatewayError> {
        let request = self.post(verb::REGISTER, &Register { state, generation, has_job }, REQUEST);
        Ok(send(request.bearer_auth(&self.token)).await?.json().await?)
    }

    /// Opens the stream of control messages.
    pub async fn messages(&self) -> Result<ControlStream, GatewayError> {
        let opening = send(self.request(Method::GET, verb::MESSAGES));
        let response = timeout(IDLE_LIMIT, opening).await.map_err(|_| GatewayError::Idle(IDLE_LIMIT))??;
        Ok(ControlStream { response, buffer: Vec::new() })
    }

    pub async fn heartbeat(&self, heartbeat: &Heartbeat, limit: Duration) -> Result<(), GatewayError> {
        send(self.post(verb::HEARTBEAT, heartbeat, limit)).await.map(drop)
    }

    pub async fn confirm(
        &self,
        (state, generation): (RunnerState, i64),
        problem: Option<String>,
    ) -> Result<(), GatewayError> {
        send(self.post(verb::CONFIRM, &Confirm { state, generation, problem }, REQUEST)).await.map(drop)
    }

    pub async fn report_end(&self, report: &EndReport) -> Result<(), GatewayError> {
        send(self.post(verb::END, report, END_REPORT)).await.map(drop)
    }

    /// Sends a batch: its first line, and the lines of its events. Returns what is stored, also if that leaves a gap.
    pub async fn events(&self, batch: Batch, mut lines: Vec<u8>) -> Result<Stored, GatewayError> {
        let first = format!("{}\n", json!(batch));
        lines.splice(..0, first.into_bytes());
        let request = self.request(Method::POST, verb::EVENTS).header(header::CONTENT_TYPE, CONTENT_TYPE);
        let request = request.timeout(EVENTS).body(lines);
        let response = request.send().await.map_err(reqwest::Error::without_url)?;
        let gap = response.status() == StatusCode::CONFLICT;
        let response = if gap { response } else { checked(response).await? };
        Ok(response.json().await?)
    }

    fn request(&self, method: Method, verb: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{}", self.url, self.run.path(verb)))
    }

    fn post(&self, verb: &str, body: &impl Serialize, limit: Duration) -> RequestBuilder {
        self.request(Method::POST, verb).json(body).timeout(limit)
    }
}

async fn send(request: RequestBuilder) -> Result<Response, GatewayError> {
    checked(request.send().await.map_err(reqwest::Error::without_url)?).await
}

async fn checked(response: Response) -> Result<Response, GatewayError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let message = response.json::<ErrorResponse>().await.map_or_else(|_| "no reason given".into(), |p| p.message);
    Err(GatewayError::Refused { status, message })
}

/// The stream of control messages.
#[derive(Debug)]
pub struct ControlStream {
    response: Response,
    buffer: Vec<u8>,
}

impl ControlStream {
    /// The next message; `None` if the gateway has closed the stream. A message of a newer gateway that this runner
    /// can't read counts as a ping.
    pub async fn next(&mut self) -> Result<Option<ControlMessage>, GatewayError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                if line.trim_ascii().is_empty() {
                    continue;
                }
                return Ok(Some(serde_json::from_slice(&line).unwrap_or(ControlMessage::Ping {})));
            }
            if self.buffer.len() > MAX_LINE_BYTES {
                return Err(GatewayError::LongLine);
            }
            match timeout(IDLE_LIMIT, self.response.chunk()).await.map_err(|_| GatewayError::Idle(IDLE_LIMIT))?? {
                Some(chunk) => self.buffer.extend_from_slice(&chunk),
                None => return Ok(None),
            }
        }
    }
}
