//! `koco man`: the manual pages of the kubectl plugin, from its command line. Called by `make man`.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use super::plugin;

#[derive(Args)]
pub(super) struct Arguments {
    /// The folder to write them to, such as share/man/man1
    directory: PathBuf,
}

pub(super) fn write(arguments: &Arguments) -> anyhow::Result<()> {
    let folder = &arguments.directory;
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    clap_mangen::generate_to(plugin::command(), folder).with_context(|| folder.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_has_a_page() {
        let folder = std::env::temp_dir().join(format!("koco-man-{}", std::process::id()));
        write(&Arguments { directory: folder.clone() }).unwrap();
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(read("kubectl-koco.1").contains("kubectl"));
        for command in plugin::command().get_subcommands() {
            let page = read(&format!("kubectl-koco-{}.1", command.get_name()));
            assert!(page.contains("\\-\\-namespace") && page.contains(".SH"), "{page}");
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
