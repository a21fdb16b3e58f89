//! Settings of the server alone. Parsed by the command line, read by [`crate::server::run`].

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use axum::http::HeaderValue;
use clap::Args;

use crate::{
    api::{Seconds, whole_millis},
    database::{Location, Retention},
};

/// The server's own settings.
#[derive(Args, Clone, Debug)]
pub struct Settings {
    /// Address that people and programs read the archive at
    #[arg(long, env = "KOCO_SERVER_ADDR", default_value = "0.0.0.0:8445")]
    pub server_addr: SocketAddr,
    /// Secret with the server's certificate authority, or with a certificate of your own
    #[arg(long, env = "KOCO_SERVER_TLS_SECRET", default_value = "koco-server-tls")]
    pub server_tls_secret: String,
    /// The one user who may append events, by the name that the API server gives it: the gateways' service account, as
    /// system:serviceaccount:NAMESPACE:NAME. Without it none are taken
    #[arg(long, env = "KOCO_SERVER_GATEWAYS")]
    server_gateways: Option<String>,
    /// Origins of the pages that may ask for decoded payloads, such as that of Temporal's UI, separated by commas
    #[arg(long, env = "KOCO_SERVER_CODEC_ORIGINS", value_delimiter = ',')]
    pub server_codec_origins: Vec<HeaderValue>,
    /// Folder of SQLite's file, on a local disk
    #[arg(long, env = "KOCO_SERVER_DATA", default_value = "/var/lib/koco")]
    pub server_data: PathBuf,
    /// URL of a PostgreSQL of version 15 or later, in place of SQLite
    #[arg(long, env = "KOCO_DATABASE_URL", hide_env_values = true)]
    database_url: Option<Url>,
    /// How long events are kept after a job's end. 0: for ever
    #[arg(long, env = "KOCO_RETAIN_EVENTS", default_value = "720h", value_parser = Seconds::parse)]
    pub retain_events: Duration,
    /// How long executions are kept after a job's end. 0: for ever
    #[arg(long, env = "KOCO_RETAIN_EXECUTIONS", default_value = "4320h", value_parser = Seconds::parse)]
    pub retain_executions: Duration,
    /// How many bytes executions and events may take together before the oldest go, those of the namespace with the most
    /// first. 0: no limit. Without it, with SQLite, about 70 % of the volume
    #[arg(long, env = "KOCO_RETAIN_BYTES")]
    pub retain_bytes: Option<u64>,
}

/// A URL that may hold a password.
#[derive(Clone)]
struct Url(String);

impl From<String> for Url {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl std::fmt::Debug for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Url")
    }
}

impl Settings {
    /// Where the database is.
    pub fn location(&self) -> Location {
        match &self.database_url {
            Some(url) if !url.0.is_empty() => Location::Postgres(url.0.clone()),
            _ => Location::Sqlite(self.server_data.clone()),
        }
    }

    /// Who may append events.
    pub fn gateways(&self) -> Option<String> {
        self.server_gateways.clone().filter(|name| !name.is_empty())
    }

    /// How long things are kept, whatever their size.
    pub fn retention(&self) -> Retention {
        let millis = |time| Some(whole_millis(time)).filter(|millis| *millis > 0);
        Retention { events: millis(self.retain_events), executions: millis(self.retain_executions), max_bytes: None }
    }
}
