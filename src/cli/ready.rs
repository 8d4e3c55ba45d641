//! Telling the world that the server takes connections: a line on standard output, `--ready-fd`, systemd.

use super::CliError;
use std::fs::File;
use std::io::Write;

/// Who is to be told. Made before the server starts, so that a wrong descriptor is found out early.
#[derive(Debug)]
pub(super) struct Ready {
    fd: Option<(u32, File)>,
}

impl Ready {
    /// `fd` is a descriptor that the parent process has left open for us.
    pub(super) fn new(fd: Option<u32>) -> Result<Ready, CliError> {
        let open = |fd: u32| {
            // Through /proc, because a bare number is not owned by anything that could be written to safely.
            let file = File::options().write(true).open(format!("/proc/self/fd/{fd}"));
            file.map(|file| (fd, file)).map_err(|source| CliError::ReadyFd { fd, source })
        };
        Ok(Ready { fd: fd.map(open).transpose()? })
    }

    /// Writes `line` to standard output and to the descriptor, and tells the service manager, when there is one.
    pub(super) fn announce(self, line: &str) -> Result<(), CliError> {
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "{line}").and_then(|()| stdout.flush()).map_err(CliError::Output)?;
        if let Some((fd, mut file)) = self.fd {
            // In one write: a reader may close its end after the first.
            file.write_all(format!("{line}\n").as_bytes())
                .map_err(|source| CliError::ReadyFd { fd, source })?;
        }
        // Without a service manager this does nothing.
        if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
            tracing::warn!(%error, "cannot notify the service manager (NOTIFY_SOCKET)");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::os::fd::AsRawFd;

    #[test]
    fn the_line_arrives_at_the_descriptor() {
        let (reader, writer) = std::io::pipe().unwrap();
        let ready = Ready::new(Some(u32::try_from(writer.as_raw_fd()).unwrap())).unwrap();
        ready.announce("ready").unwrap();
        let mut line = String::new();
        BufReader::new(reader).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
    }

    #[test]
    fn a_closed_descriptor_is_refused_before_anything_starts() {
        let error = Ready::new(Some(999_999)).unwrap_err().to_string();
        assert!(error.starts_with("--ready-fd 999999: "), "{error}");
    }
}
