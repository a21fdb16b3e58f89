//! The client of the gateway: one function a request, no retries, no state. Used by [`super::link`] and
//! [`super::report`].

use std::{path::PathBuf, time::Duration};

use reqwest::{Client, Response, StatusCode, redirect};
use serde::Serialize;
use tokio::time::timeout;

use super::{config::Config, tls};
use crate::{
    api::RunnerState,
    protocol::runner::{
        AgentEnd, Confirm, ControlMessage, EndReport, ErrorResponse, Heartbeat, Job, PATH_CONFIRM, PATH_END,
        PATH_HEARTBEAT, PATH_MESSAGES, PATH_REGISTER, PING_SECONDS, Register, Sender,
    },
};

/// How long a request may take; a heartbeat is limited by its interval instead.
const REQUEST: Duration = Duration::from_secs(5);
/// The report of an end is written to the API server before it is answered.
const END_REPORT: Duration = Duration::from_secs(15);
/// How long the stream may be idle: longer than the interval of pings.
const IDLE_LIMIT: Duration = Duration::from_secs(3 * PING_SECONDS);
/// The longest message.
const MAX_LINE_BYTES: usize = 64 * 1024;

/// Why a request failed.
#[derive(thiserror::Error, Debug)]
pub enum GatewayError {
    #[error("the token {0}: {1}")]
    Token(PathBuf, std::io::Error),
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
    token_file: PathBuf,
    sender: Sender,
}

impl Gateway {
    /// Names are resolved in Rust: a static program must not load the name-service modules of the agent's image.
    pub fn new(config: &Config) -> Result<Self, ClientError> {
        let client = Client::builder()
            .tls_backend_preconfigured(tls::client_config(&config.gateway_ca)?)
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
        let Config { gateway_url, token_file, sender, .. } = config.clone();
        Ok(Self { client, url: gateway_url, token_file, sender })
    }

    /// Registers the runner.
    pub async fn register(&self, (state, generation): (RunnerState, i64)) -> Result<Job, GatewayError> {
        let body = Register { sender: self.sender.clone(), state, generation };
        Ok(self.post(PATH_REGISTER, &body, Some(REQUEST)).await?.json().await?)
    }

    /// Opens the stream of control messages.
    pub async fn messages(&self) -> Result<ControlStream, GatewayError> {
        let opening = self.post(PATH_MESSAGES, &self.sender, None);
        let response = timeout(IDLE_LIMIT, opening).await.map_err(|_| GatewayError::Idle(IDLE_LIMIT))??;
        Ok(ControlStream { response, buffer: Vec::new() })
    }

    pub async fn heartbeat(
        &self,
        (state, generation): (RunnerState, i64),
        limit: Duration,
    ) -> Result<(), GatewayError> {
        let body = Heartbeat { sender: self.sender.clone(), state, generation };
        self.post(PATH_HEARTBEAT, &body, Some(limit)).await.map(drop)
    }

    pub async fn confirm(
        &self,
        (state, generation): (RunnerState, i64),
        problem: Option<String>,
    ) -> Result<(), GatewayError> {
        let body = Confirm { sender: self.sender.clone(), state, generation, problem };
        self.post(PATH_CONFIRM, &body, Some(REQUEST)).await.map(drop)
    }

    pub async fn report_end(&self, ending: &AgentEnd, generation: i64) -> Result<(), GatewayError> {
        let body = EndReport { sender: self.sender.clone(), generation, end: ending.clone() };
        self.post(PATH_END, &body, Some(END_REPORT)).await.map(drop)
    }

    async fn post(&self, path: &str, body: &impl Serialize, limit: Option<Duration>) -> Result<Response, GatewayError> {
        // Read each time: the kubelet renews it.
        let token =
            std::fs::read_to_string(&self.token_file).map_err(|e| GatewayError::Token(self.token_file.clone(), e))?;
        let mut request = self.client.post(format!("{}{path}", self.url)).bearer_auth(token.trim()).json(body);
        if let Some(limit) = limit {
            request = request.timeout(limit);
        }
        let response = request.send().await.map_err(reqwest::Error::without_url)?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let message = response.json::<ErrorResponse>().await.map_or_else(|_| "no reason given".into(), |p| p.message);
        Err(GatewayError::Refused { status, message })
    }
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
