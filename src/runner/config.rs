//! The runner's settings, from its environment. Read once, by [`super::supervisor`].

use std::{env::VarError, path::PathBuf};

use crate::protocol::{
    runner::{Sender, env},
    workflow::JobRef,
};

/// Why the environment is invalid.
#[derive(thiserror::Error, Debug)]
pub enum ConfigError {
    /// A variable is missing or not UTF-8.
    #[error("{0}: {1}")]
    Variable(&'static str, VarError),
    /// The number of the run is not a number.
    #[error("{name}: {source}", name = env::RUN_NUMBER)]
    RunNumber { source: std::num::ParseIntError },
}

/// The runner's settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// Without a trailing slash.
    pub gateway_url: String,
    /// PEM.
    pub gateway_ca: String,
    pub token_file: PathBuf,
    pub state_dir: PathBuf,
    pub termination_log: PathBuf,
    pub sender: Sender,
}

impl Config {
    /// Reads the environment.
    pub fn from_env() -> Result<Self, ConfigError> {
        let get = |name: &'static str| std::env::var(name).map_err(|e| ConfigError::Variable(name, e));
        Ok(Self {
            gateway_url: get(env::GATEWAY_URL)?.trim_end_matches('/').to_owned(),
            gateway_ca: get(env::GATEWAY_CA)?,
            token_file: get(env::TOKEN_FILE)?.into(),
            state_dir: get(env::STATE_DIR)?.into(),
            termination_log: get(env::TERMINATION_LOG)?.into(),
            sender: Sender {
                job: JobRef { namespace: get(env::NAMESPACE)?, name: get(env::NAME)?, uid: get(env::UID)? },
                run: get(env::RUN_NUMBER)?.parse().map_err(|source| ConfigError::RunNumber { source })?,
            },
        })
    }
}
