//! The client of the gateway: one function a request, no retries, no state. Used by [`super::link`] and [`super::report`].

use std::{path::PathBuf, time::Duration};

use reqwest::{Client, Response, StatusCode, redirect};
use serde::Serialize;
use tokio::time::timeout;

use super::{config::Config, tls};
use crate::{
    api::RunnerState,
    protocol::runner::{
        Confirm, Ending, ErrorResponse, Heartbeat, Hello, Job, Order, PATH_CONFIRM, PATH_HEARTBEAT, PATH_HELLO,
        PATH_ORDERS, PATH_OUTCOME, PING_SECONDS, Report, Sender,
    },
};

/// How long a request may take, but a heartbeat, which has its interval.
const REQUEST: Duration = Duration::from_secs(5);
/// An outcome goes on to Temporal and the API server before it is answered.
const OUTCOME: Duration = Duration::from_secs(15);
/// How long a stream of orders may be silent.
const SILENCE: Duration = Duration::from_secs(3 * PING_SECONDS);
/// The longest order.
const MAX_LINE_BYTES: usize = 64 * 1024;

/// Why there is no answer, or not the right one.
#[derive(thiserror::Error, Debug)]
pub enum GatewayError {
    #[error("the token {0}: {1}")]
    Token(PathBuf, std::io::Error),
    #[error(transparent)]
    Transport(#[from] reqwest::Error),
    #[error("{status} from the gateway: {message}")]
    Refused { status: StatusCode, message: String },
    #[error("the stream of orders was silent for {0:?}")]
    Silent(Duration),
    #[error("an order of more than {MAX_LINE_BYTES} bytes")]
    LongLine,
}

impl GatewayError {
    /// Whether it is of no use to ask again: the job is gone or over, or another pod's.
    pub fn is_final(&self) -> bool {
        self.is(&[StatusCode::FORBIDDEN, StatusCode::NOT_FOUND, StatusCode::GONE])
    }

    /// Whether the gateway answered with one of these.
    pub fn is(&self, statuses: &[StatusCode]) -> bool {
        matches!(self, Self::Refused { status, .. } if statuses.contains(status))
    }
}

/// Why there is no client.
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
    /// Names are resolved in Rust: a static program must not load the name-service modules of somebody's image.
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
            .tcp_user_timeout(SILENCE)
            .user_agent(concat!("koco-runner/", env!("CARGO_PKG_VERSION")))
            .build()?;
        let Config { gateway_url, token_file, sender, .. } = config.clone();
        Ok(Self { client, url: gateway_url, token_file, sender })
    }

    /// Reports in.
    pub async fn hello(&self, (state, seq): (RunnerState, i64)) -> Result<Job, GatewayError> {
        let body = Hello { sender: self.sender.clone(), state, seq };
        Ok(self.post(PATH_HELLO, &body, Some(REQUEST)).await?.json().await?)
    }

    /// Opens the stream of orders.
    pub async fn orders(&self) -> Result<Orders, GatewayError> {
        let opening = self.post(PATH_ORDERS, &self.sender, None);
        let response = timeout(SILENCE, opening).await.map_err(|_| GatewayError::Silent(SILENCE))??;
        Ok(Orders { response, buffer: Vec::new() })
    }

    pub async fn heartbeat(&self, (state, seq): (RunnerState, i64), limit: Duration) -> Result<(), GatewayError> {
        let body = Heartbeat { sender: self.sender.clone(), state, seq };
        self.post(PATH_HEARTBEAT, &body, Some(limit)).await.map(drop)
    }

    pub async fn confirm(&self, (state, seq): (RunnerState, i64), problem: Option<String>) -> Result<(), GatewayError> {
        let body = Confirm { sender: self.sender.clone(), state, seq, problem };
        self.post(PATH_CONFIRM, &body, Some(REQUEST)).await.map(drop)
    }

    pub async fn outcome(&self, ending: &Ending, seq: i64) -> Result<(), GatewayError> {
        let body = Report { sender: self.sender.clone(), seq, ending: ending.clone() };
        self.post(PATH_OUTCOME, &body, Some(OUTCOME)).await.map(drop)
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

/// A stream of orders.
#[derive(Debug)]
pub struct Orders {
    response: Response,
    buffer: Vec<u8>,
}

impl Orders {
    /// The next order; `None` if the gateway has closed the stream. What a newer gateway may say that we don't know is
    /// taken as a sign of life.
    pub async fn next(&mut self) -> Result<Option<Order>, GatewayError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                if line.trim_ascii().is_empty() {
                    continue;
                }
                return Ok(Some(serde_json::from_slice(&line).unwrap_or(Order::Ping {})));
            }
            if self.buffer.len() > MAX_LINE_BYTES {
                return Err(GatewayError::LongLine);
            }
            match timeout(SILENCE, self.response.chunk()).await.map_err(|_| GatewayError::Silent(SILENCE))?? {
                Some(chunk) => self.buffer.extend_from_slice(&chunk),
                None => return Ok(None),
            }
        }
    }
}
