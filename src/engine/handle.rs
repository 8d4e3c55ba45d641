//! Control from any thread or async task.

use super::conn::ConnRef;
use super::handler::Connect;
use super::mailbox::{Command, Crew, SharedMessage, Wish};
use super::stats::WorkerReport;
use crate::time::Duration;
use crate::ws::{CloseCode, Message};
use std::sync::Arc;
use std::sync::mpsc;

/// Reaches the workers of one server or client from any thread. Cheap to clone. Nothing here waits for a worker
/// (but [`Handle::reports`]): a mailbox that is full is an error at once.
#[derive(Clone)]
pub struct Handle {
    pub(super) crew: Arc<Crew>,
}

/// Why a worker could not be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandleError {
    /// Mailboxes were full; those workers did not get it, all others did.
    #[error(
        "the mailboxes of {full} of {workers} workers are full (`mailbox_commands_max`, `mailbox_bytes_max`)"
    )]
    Full {
        /// How many were full.
        full: usize,
        /// How many workers it was for.
        workers: usize,
    },
    /// No such worker: the reference is another server's.
    #[error("there is no worker {worker}")]
    NoWorker {
        /// The index asked for.
        worker: usize,
    },
    /// No such group of ports.
    #[error("there is no group {group} of ports")]
    NoGroup {
        /// The index asked for.
        group: usize,
    },
}

impl Handle {
    /// Sends a message to one connection. A connection that is closed by then drops it, counted.
    ///
    /// # Errors
    /// The worker's mailbox is full.
    pub fn send(&self, conn: ConnRef, message: Message<'_>) -> Result<(), HandleError> {
        self.post(conn.worker, Command::Send { conn: conn.id, message: SharedMessage::new(message) })
    }

    /// Sends a message to every connection that is subscribed to `topic`, on every worker.
    ///
    /// # Errors
    /// Mailboxes were full: the other workers have it nevertheless, so do not simply repeat it.
    pub fn publish(&self, topic: &str, message: Message<'_>) -> Result<(), HandleError> {
        let topic: Arc<str> = topic.into();
        let message = SharedMessage::new(message);
        let full = self
            .crew
            .mailboxes()
            .filter(|mailbox| {
                !mailbox.push(Command::Publish { topic: topic.clone(), message: message.clone() })
            })
            .count();
        if full == 0 { Ok(()) } else { Err(HandleError::Full { full, workers: self.workers() }) }
    }

    /// Closes one connection, like [`Conn::close`](super::Conn::close).
    ///
    /// # Errors
    /// The worker's mailbox is full.
    pub fn close(&self, conn: ConnRef, code: CloseCode, reason: &str) -> Result<(), HandleError> {
        self.post(conn.worker, Command::Close { conn: conn.id, code, reason: reason.into() })
    }

    /// Opens a connection on the worker of the first group of ports whose turn it is.
    ///
    /// # Errors
    /// The worker's mailbox is full.
    pub fn connect(&self, connect: Connect) -> Result<(), HandleError> {
        self.connect_from(0, connect)
    }

    /// Opens a connection from the addresses of a group of ports: see
    /// [`Server::with_groups`](super::Server::with_groups).
    ///
    /// # Errors
    /// There is no such group, or the worker's mailbox is full.
    pub fn connect_from(&self, group: usize, connect: Connect) -> Result<(), HandleError> {
        let worker = self.crew.next_connect(group).ok_or(HandleError::NoGroup { group })?;
        self.post(worker, Command::Connect(Box::new(connect)))
    }

    /// Ends gracefully: accept nothing more, close every connection with 1001, and stop when all are gone or
    /// [`Deadlines::drain`](super::Deadlines::drain) has passed.
    pub fn drain(&self) {
        self.crew.set_wish(Wish::Drain);
    }

    /// Ends at once: connections are cut off.
    pub fn stop(&self) {
        self.crew.set_wish(Wish::Stop);
    }

    /// How many workers there are.
    pub fn workers(&self) -> usize {
        self.crew.workers()
    }

    /// The counters of every worker that answers, in the order of their answers. This blocks: for at most `wait`
    /// after the last answer.
    pub fn reports(&self, wait: Duration) -> Vec<WorkerReport> {
        let (sender, receiver) = mpsc::sync_channel(self.workers());
        for mailbox in self.crew.mailboxes() {
            // Whose mailbox is full does not answer.
            mailbox.push(Command::Report(sender.clone()));
        }
        drop(sender);
        std::iter::from_fn(|| receiver.recv_timeout(wait).ok()).collect()
    }

    fn post(&self, worker: usize, command: Command) -> Result<(), HandleError> {
        let mailbox = self.crew.mailbox(worker).ok_or(HandleError::NoWorker { worker })?;
        if mailbox.push(command) { Ok(()) } else { Err(HandleError::Full { full: 1, workers: 1 }) }
    }
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").field("workers", &self.workers()).finish()
    }
}
