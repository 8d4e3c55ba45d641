//! Certificates that are exchanged while a server runs: on SIGHUP, and when a file is another one.

use crate::time::Duration;
use crate::tls::ServerTls;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;

/// A thread that looks at the files now and then.
pub(super) struct CertificateWatch {
    /// Dropped, it ends the thread.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl CertificateWatch {
    pub(super) fn start(tls: Arc<ServerTls>, interval: Duration) -> std::io::Result<Self> {
        let (stop, stopped) = channel::<()>();
        let body = move || {
            while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                if tls.has_changed() {
                    reload(&tls, "a file changed");
                }
            }
        };
        let thread = std::thread::Builder::new().name("unsocket-tls".into()).spawn(body)?;
        Ok(CertificateWatch { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for CertificateWatch {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // It does not panic, and if it did there would be nobody to tell.
            let _ = thread.join();
        }
    }
}

/// Reads the files again, and says what came of it.
pub(super) fn reload(tls: &ServerTls, why: &str) {
    match tls.reload() {
        Ok(()) => tracing::info!("{why}: new connections use the certificates that were read again"),
        Err(error) => tracing::error!("{why}: the certificates stay as they were: {error}"),
    }
}
