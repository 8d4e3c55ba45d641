//! The machine as its files show it, below a root that a test may put somewhere else.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// Bit of `CAP_NET_ADMIN` in the kernel's capability sets.
pub(super) const CAP_NET_ADMIN: u32 = 12;
/// Bit of `CAP_IPC_LOCK`.
pub(super) const CAP_IPC_LOCK: u32 = 14;
/// Bit of `CAP_SYS_ADMIN`.
pub(super) const CAP_SYS_ADMIN: u32 = 21;

/// Where to look.
#[derive(Debug)]
pub(super) struct Machine {
    root: PathBuf,
}

impl Machine {
    /// One whose /proc, /sys and /dev lie below `root`.
    pub(super) fn at(root: impl Into<PathBuf>) -> Machine {
        Machine { root: root.into() }
    }

    /// The contents of a file, trimmed; `None` when it is not there.
    pub(super) fn read(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.path(path)).ok().map(|text| text.trim().to_owned())
    }

    /// What follows `key:` or `key` in the first line of a file that begins with it, trimmed.
    pub(super) fn field(&self, path: &str, key: &str) -> Option<String> {
        let text = self.read(path)?;
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        Some(line.trim_start().trim_start_matches(':').trim().to_owned())
    }

    /// Whether a path exists.
    pub(super) fn exists(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// Opens a file for reading and writing, and closes it again.
    pub(super) fn open_read_write(&self, path: &str) -> io::Result<()> {
        File::options().read(true).write(true).open(self.path(path)).map(drop)
    }

    /// Whether this process may open a file for reading and writing. Does not open it: a VFIO group opens only once.
    pub(super) fn may_read_and_write(&self, path: &str) -> bool {
        use rustix::fs::Access;
        rustix::fs::access(self.path(path), Access::READ_OK | Access::WRITE_OK).is_ok()
    }

    /// The last name of what a symbolic link points at; `None` when it is no link.
    pub(super) fn link_name(&self, path: &str) -> Option<String> {
        let target = std::fs::read_link(self.path(path)).ok()?;
        target.file_name()?.to_str().map(str::to_owned)
    }

    /// The names in a directory, sorted; empty when it is not there.
    pub(super) fn list(&self, path: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.path(path)).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    /// Whether a capability is in this process's effective set.
    pub(super) fn has_capability(&self, bit: u32) -> bool {
        self.field("proc/self/status", "CapEff")
            .and_then(|hex| u64::from_str_radix(&hex, 16).ok())
            .is_some_and(|set| set >> bit & 1 == 1)
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(Path::new(path))
    }
}

/// How many numbers a list like `0-3,8` has; `None` when it is no such list.
pub(super) fn list_length(list: &str) -> Option<usize> {
    if list.is_empty() {
        return Some(0);
    }
    list.split(',').try_fold(0usize, |sum, range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        sum.checked_add(last.checked_sub(first)?.checked_add(1)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cores() {
        assert_eq!(list_length(""), Some(0));
        assert_eq!(list_length("0-3,8"), Some(5));
        assert_eq!(list_length("7"), Some(1));
        for bad in ["x", "3-1", "0-", ",", "0-18446744073709551615"] {
            assert_eq!(list_length(bad), None, "{bad}");
        }
    }
}
