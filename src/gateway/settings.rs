//! Settings of the gateway alone. Parsed by the command line, read by [`crate::gateway::run`].

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;

/// The gateway's own settings.
#[derive(Args, Clone, Debug)]
pub struct Settings {
    /// Address that runner pods connect to
    #[arg(long, env = "KOCO_GATEWAY_ADDR", default_value = "0.0.0.0:8443")]
    pub gateway_addr: SocketAddr,
    /// Secret with the gateway's certificate authority, or with a certificate of your own
    #[arg(long, env = "KOCO_GATEWAY_TLS_SECRET", default_value = "koco-gateway-tls")]
    pub gateway_tls_secret: String,
    /// URL of the server, which keeps agents' events. Without it no events are kept
    #[arg(long, env = "KOCO_SERVER_URL")]
    pub server_url: Option<String>,
    /// File with the gateway's token for the server, of the audience koco
    #[arg(long, env = "KOCO_SERVER_TOKEN_FILE", default_value = "/var/run/secrets/koco/server/token")]
    pub server_token_file: PathBuf,
    /// OTLP endpoint that agents get as OTEL_EXPORTER_OTLP_ENDPOINT, where their template names none
    #[arg(long, env = "KOCO_AGENT_OTLP_ENDPOINT")]
    pub agent_otlp_endpoint: Option<String>,
}
