//! What this tier does to a Temporal server of a test's own, beside killing it.

use nix::sys::signal::Signal;

use super::TemporalServer;

impl TemporalServer {
    /// It takes connections and answers nothing.
    pub fn freeze(&self) {
        self.process.signal(Signal::SIGSTOP);
    }

    pub fn thaw(&self) {
        self.process.signal(Signal::SIGCONT);
    }
}
