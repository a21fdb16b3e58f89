//! Between the controller and the process of its own that judges inputs: `koco check-inputs`. Of one release always, for
//! it is the same program.

use serde::{Deserialize, Serialize};

use crate::api::RawJson;

/// The exit code of a process that found inputs that don't fit; its standard output says why. 0: they fit.
pub const UNFIT: u8 = 3;
/// How long it may compute, in seconds. The kernel ends it then, with SIGXCPU.
pub const PROCESSOR_SECONDS: u64 = 2;
/// How much memory it may have, in bytes, its program's 60 MB among them. The controller's container has room for it.
pub const MEMORY_BYTES: u64 = 192 << 20;
/// The exit code of a Rust program that has panicked.
pub const PANICKED: u8 = 101;

/// What it reads from its standard input, as JSON.
#[derive(Serialize, Deserialize, Debug)]
pub struct Question {
    /// The JSON Schema.
    pub schema: RawJson,
    /// What is to fit it.
    pub inputs: RawJson,
}
