//! Settings of the gateway alone. Parsed by the command line, read by [`crate::gateway::run`].

use std::net::SocketAddr;

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
}
