//! The two halves of a stream at the hub.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use quinn_proto::{ConnectionError, FinishError, ReadError, StreamId, VarInt, WriteError};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::conn::{HubConnection, Way};
use crate::connection::closed;

fn lost(e: ConnectionError) -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, closed(e))
}

fn given_up(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, what.to_owned())
}

/// This side's half. Dropped, it is finished.
pub(crate) struct SendHalf {
    connection: HubConnection,
    stream: StreamId,
}

impl SendHalf {
    pub(super) const fn new(connection: HubConnection, stream: StreamId) -> Self {
        Self { connection, stream }
    }

    /// Resolves when the peer has everything, or does not want it.
    ///
    /// # Errors
    /// When the connection ended first.
    pub(crate) async fn stopped(&self) -> io::Result<()> {
        self.connection.stopped(self.stream).await.map_err(lost)
    }
}

impl AsyncWrite for SendHalf {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.connection.state();
        if let Some(e) = &state.error {
            return Poll::Ready(Err(lost(e.clone())));
        }
        let written = match state.machine.send_stream(self.stream).write(buf) {
            Ok(written) => written,
            Err(WriteError::Blocked) => {
                state.wait(self.stream, Way::Write, cx.waker());
                return Poll::Pending;
            }
            Err(WriteError::Stopped(_)) => return Poll::Ready(Err(given_up("the peer does not read it any more"))),
            Err(WriteError::ClosedStream) => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        };
        drop(state);
        self.connection.nudge();
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let finished = self.connection.state().machine.send_stream(self.stream).finish();
        Poll::Ready(match finished {
            Ok(()) => {
                self.connection.nudge();
                Ok(())
            }
            Err(FinishError::Stopped(_)) => Ok(()),
            Err(FinishError::ClosedStream) => Err(io::ErrorKind::BrokenPipe.into()),
        })
    }
}

impl Drop for SendHalf {
    fn drop(&mut self) {
        let mut state = self.connection.state();
        state.forget(self.stream, Way::Write);
        if state.error.is_some() {
            return;
        }
        let mut stream = state.machine.send_stream(self.stream);
        let changed = match stream.finish() {
            Ok(()) => true,
            Err(FinishError::Stopped(code)) => stream.reset(code).is_ok(),
            // Finished before.
            Err(FinishError::ClosedStream) => false,
        };
        drop(state);
        if changed {
            self.connection.nudge();
        }
    }
}

/// The peer's half. Dropped before its end, the peer is told that nobody reads.
pub(crate) struct RecvHalf {
    connection: HubConnection,
    stream: StreamId,
    /// Everything was read.
    ended: bool,
    /// The peer gave it up.
    reset: bool,
}

impl RecvHalf {
    pub(super) const fn new(connection: HubConnection, stream: StreamId) -> Self {
        Self {
            connection,
            stream,
            ended: false,
            reset: false,
        }
    }
}

/// What stopped a read.
enum Stop {
    Full,
    End,
    At(ReadError),
}

impl AsyncRead for RecvHalf {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.reset {
            return Poll::Ready(Err(given_up("the peer gave it up")));
        }
        if this.ended || buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let mut state = this.connection.state();
        let (stop, tell) = {
            let mut stream = state.machine.recv_stream(this.stream);
            let mut chunks = match stream.read(true) {
                Ok(chunks) => chunks,
                Err(e) => return Poll::Ready(Err(io::Error::new(io::ErrorKind::NotConnected, e.to_string()))),
            };
            let stop = loop {
                match chunks.next(buf.remaining()) {
                    Ok(Some(chunk)) => buf.put_slice(&chunk.bytes),
                    Ok(None) => break Stop::End,
                    Err(e) => break Stop::At(e),
                }
                if buf.remaining() == 0 {
                    break Stop::Full;
                }
            };
            (stop, chunks.finalize().should_transmit())
        };
        let read = buf.filled().len() > before;
        let polled = match stop {
            Stop::Full => Poll::Ready(Ok(())),
            Stop::End => {
                this.ended = true;
                Poll::Ready(Ok(()))
            }
            Stop::At(ReadError::Reset(_)) => {
                this.reset = true;
                if read {
                    Poll::Ready(Ok(()))
                } else {
                    Poll::Ready(Err(given_up("the peer gave it up")))
                }
            }
            Stop::At(ReadError::Blocked) if read => Poll::Ready(Ok(())),
            Stop::At(ReadError::Blocked) => match state.error.clone() {
                Some(e) => Poll::Ready(Err(lost(e))),
                None => {
                    state.wait(this.stream, Way::Read, cx.waker());
                    Poll::Pending
                }
            },
        };
        drop(state);
        if tell {
            this.connection.nudge();
        }
        polled
    }
}

impl Drop for RecvHalf {
    fn drop(&mut self) {
        let mut state = self.connection.state();
        state.forget(self.stream, Way::Read);
        if self.ended || self.reset || state.error.is_some() {
            return;
        }
        // It may have ended in the meantime.
        let told = state.machine.recv_stream(self.stream).stop(VarInt::from_u32(0));
        drop(state);
        if told.is_ok() {
            self.connection.nudge();
        }
    }
}
