//! Runner pods: template, status, garbage collection, and the calls that create and delete them.
//! Used by the controller and the worker. Everything but [`client`] is pure.

pub mod client;
pub mod collect;
pub mod ending;
mod settings;
pub mod template;
pub mod view;

pub use client::{CreateOutcome, PodError, Pods};
pub use settings::{NoGateway, PodConfig, PodSettings};
pub use template::RunnerPodSettings;
pub use view::{AgentContainer, PodView};
