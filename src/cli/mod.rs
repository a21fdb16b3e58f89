//! The command lines of the two programs that people call: `koco`, in [`program`], which starts the roles, and
//! `kubectl-koco`, in [`plugin`], which has none of them in it. The only module that may use all others.

#[cfg(feature = "operator")]
mod before_uninstall;
#[cfg(feature = "operator")]
mod check_inputs;
#[cfg(feature = "operator")]
pub mod crd;
#[cfg(feature = "operator")]
mod man;
#[cfg(feature = "operator")]
pub mod openapi;
pub mod plugin;
#[cfg(feature = "operator")]
mod program;
#[cfg(feature = "operator")]
mod roles;

#[cfg(feature = "operator")]
pub use program::main;
