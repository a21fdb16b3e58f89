//! What this tier does to a Temporal server of a test's own, beside killing it.

use std::path::Path;

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

    /// A copy of its data; it must not run.
    pub fn back_up(&self) {
        copy(&self.folder, &self.folder.with_extension("copy"));
    }

    /// Puts the copy in the place of its data; it must not run.
    pub fn restore(&self) {
        std::fs::remove_dir_all(&self.folder).expect("the data");
        std::fs::rename(self.folder.with_extension("copy"), &self.folder).expect("the copy");
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for file in std::fs::read_dir(from).expect("a folder") {
        let file = file.expect("a file");
        std::fs::copy(file.path(), to.join(file.file_name())).expect("a copy");
    }
}
