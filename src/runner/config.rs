//! The runner's settings, from its environment. Read once, by [`super::supervisor`].

use std::{env::VarError, path::PathBuf};

use crate::protocol::runner::{RunPath, env};

/// Why the environment is invalid.
#[derive(thiserror::Error, Debug)]
pub enum ConfigError {
    /// A variable is missing or not UTF-8.
    #[error("{0}: {1}")]
    Variable(&'static str, VarError),
    /// Not a number.
    #[error("{0}: {1}")]
    Number(&'static str, std::num::ParseIntError),
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
    /// Where the sources of further inputs are.
    pub inputs_dir: PathBuf,
    pub termination_log: PathBuf,
    pub termination_bytes: usize,
    pub run: RunPath,
}

impl Config {
    /// Reads the environment.
    pub fn from_env() -> Result<Self, ConfigError> {
        let get = |name: &'static str| std::env::var(name).map_err(|e| ConfigError::Variable(name, e));
        let state_dir = PathBuf::from(get(env::STATE_DIR)?);
        Ok(Self {
            gateway_url: get(env::GATEWAY_URL)?.trim_end_matches('/').to_owned(),
            gateway_ca: get(env::GATEWAY_CA)?,
            token_file: get(env::TOKEN_FILE)?.into(),
            inputs_dir: state_dir.with_file_name("inputs"),
            state_dir,
            termination_log: get(env::TERMINATION_LOG)?.into(),
            termination_bytes: get(env::TERMINATION_BYTES)?
                .parse()
                .map_err(|e| ConfigError::Number(env::TERMINATION_BYTES, e))?,
            run: RunPath { namespace: get(env::NAMESPACE)?, name: get(env::RUN)? },
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::{protocol::runner::paths, runner::files::Files};

    #[test]
    fn sources_of_inputs_are_beside_the_state() {
        assert_eq!(Path::new(paths::STATE_DIR).with_file_name("inputs"), Path::new(paths::INPUTS_DIR));
        let file = Files::new(Path::new(paths::STATE_DIR)).inputs();
        assert_eq!(file.parent(), Some(Path::new(paths::AGENT_INPUTS_DIR)), "the folder in memory");
    }
}
