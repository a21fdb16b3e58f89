//! `koco-runner install DIR`: copies the runner into a pod whose images don't contain it. Called by [`super::main`] in
//! the operator's init container, which has no shell and no `cp`.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

/// Copies this program to `DIR/koco-runner`, complete and executable or not at all.
pub fn install(dir: &Path) -> io::Result<()> {
    let temporary = dir.join(format!(".koco-runner.{}", std::process::id()));
    let mut from = File::open("/proc/self/exe")?;
    let mut to = OpenOptions::new().write(true).create(true).truncate(true).mode(0o755).open(&temporary)?;
    io::copy(&mut from, &mut to)?;
    // The mode above is subject to the umask, this is not.
    to.set_permissions(fs::Permissions::from_mode(0o755))?;
    to.sync_all()?;
    drop(to);
    fs::rename(&temporary, dir.join("koco-runner"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_is_complete_and_executable() {
        let dir = std::env::temp_dir().join(format!("koco-install-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        install(&dir).unwrap();
        let metadata = fs::metadata(dir.join("koco-runner")).unwrap();
        assert_eq!(metadata.len(), fs::metadata("/proc/self/exe").unwrap().len());
        assert_eq!(metadata.permissions().mode() & 0o777, 0o755);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
        fs::remove_dir_all(&dir).unwrap();
    }
}
