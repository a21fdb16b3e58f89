//! A volume of a process's own: a tmpfs in a mount namespace of its own, which ends with it.

use std::{os::unix::fs::MetadataExt, path::Path};

/// The beginning of a command that executes the program after it with such a volume, of a size such as `64m`, mounted on
/// that folder. The program has the command's pid.
pub fn words(folder: &Path, size: &str) -> Vec<String> {
    let script = format!("mount -t tmpfs -o size={size} tmpfs \"$0\" && exec \"$@\"");
    // Without root a user namespace lets it mount.
    let options = if std::fs::metadata("/proc/self").expect("/proc/self").uid() == 0 { "-m" } else { "-rm" };
    let folder = folder.display().to_string();
    ["unshare", options, "sh", "-c", &script, &folder].map(Into::into).into()
}
