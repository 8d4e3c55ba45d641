//! A stream that answers everything of one read with one write.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Bytes kept back at most; more is written at once.
const KEPT_MAX: usize = 64 * 1024;

/// A TCP stream whose writes are kept back until there is nothing more to read.
///
/// A server that flushes after each message spends a system call on each, however many came together. All the servers
/// here are given this stream, whose flush does nothing: what they wrote leaves when the socket has nothing more to read,
/// or [`KEPT_MAX`] is reached. So each of them is measured with as few system calls as it can do with.
pub struct Batched {
    stream: TcpStream,
    kept: Vec<u8>,
    written: usize,
}

impl Batched {
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, kept: Vec::new(), written: 0 }
    }

    fn write_kept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.kept.len() {
            let n = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.kept[self.written..]))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += n;
        }
        self.kept.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Batched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_read(cx, buf) {
            Poll::Pending => {
                // Should the socket be full, this task is woken when it can be written, and comes here again.
                if let Poll::Ready(Err(error)) = self.write_kept(cx) {
                    return Poll::Ready(Err(error));
                }
                Poll::Pending
            }
            ready => ready,
        }
    }
}

impl AsyncWrite for Batched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.kept.len() >= KEPT_MAX {
            ready!(self.write_kept(cx))?;
        }
        if self.kept.is_empty() && buf.len() >= KEPT_MAX {
            return Pin::new(&mut self.stream).poll_write(cx, buf);
        }
        self.kept.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.write_kept(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
