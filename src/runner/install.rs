//! `koco-runner install BIN_DIR TOKEN COPY`: copies the runner into a pod whose images don't contain it, and the
//! token to where the runner can remove it. Called by [`super::main`] in the operator's init container, which has no
//! shell and no `cp`.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

/// Not readable, so that the kernel closes the process that runs it to other users from its first instruction on.
const EXECUTABLE: u32 = 0o111;
/// The user of the agent's image is not known here.
const READABLE: u32 = 0o444;

/// What is in a folder of this mode anybody may remove.
const OPEN: u32 = 0o777;

/// Copies this program to `bin_dir/koco-runner` and `token` to `token_copy`, each complete or not at all.
pub fn install(bin_dir: &Path, token: &Path, token_copy: &Path) -> io::Result<()> {
    copy(Path::new("/proc/self/exe"), &bin_dir.join("koco-runner"), EXECUTABLE)?;
    if let Some(folder) = token_copy.parent() {
        fs::create_dir_all(folder)?;
        fs::set_permissions(folder, fs::Permissions::from_mode(OPEN))?;
    }
    copy(token, token_copy, READABLE)
}

fn copy(from: &Path, path: &Path, mode: u32) -> io::Result<()> {
    let temporary = path.with_extension(std::process::id().to_string());
    let mut from = File::open(from)?;
    let mut to = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
    io::copy(&mut from, &mut to)?;
    // The mode above is subject to the umask, this is not.
    to.set_permissions(fs::Permissions::from_mode(mode))?;
    to.sync_all()?;
    drop(to);
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copies_are_complete_and_have_their_modes() {
        let dir = std::env::temp_dir().join(format!("koco-install-{}", std::process::id()));
        let (bin, folder, token) = (dir.join("bin"), dir.join("once"), dir.join("projected"));
        fs::create_dir_all(&bin).unwrap();
        fs::write(&token, "a.b.c").unwrap();
        // A restarted sandbox runs it again.
        for _ in 0..2 {
            install(&bin, &token, &folder.join("token")).unwrap();
            let program = fs::metadata(bin.join("koco-runner")).unwrap();
            assert_eq!(program.len(), fs::metadata("/proc/self/exe").unwrap().len());
            assert_eq!(program.permissions().mode() & 0o777, 0o111);
            let copied = fs::metadata(folder.join("token")).unwrap();
            assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o7777, 0o777, "not sticky");
            assert_eq!((copied.len(), copied.permissions().mode() & 0o777), (5, 0o444));
            assert_eq!((fs::read_dir(&bin).unwrap().count(), fs::read_dir(&folder).unwrap().count()), (1, 1));
        }
        fs::remove_dir_all(&dir).unwrap();
    }
}
