//! Runner pods: template, status, garbage collection, and the calls that create and delete them.
//! Used by the controller and the worker. Everything but [`client`], [`node`] and [`start`](start()) is pure.

pub mod client;
pub mod collect;
pub mod ending;
pub mod node;
mod settings;
#[cfg(feature = "operator")]
mod start;
pub mod template;
pub mod view;

pub use client::{CreateOutcome, PodError, Pods};
pub use node::NodeState;
pub use settings::{NoGateway, PodConfig, PodSettings};
#[cfg(feature = "operator")]
pub use start::{Started, start};
pub use template::RunnerPodSettings;
pub use view::{AgentContainer, PodView};
