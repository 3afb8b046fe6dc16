//! Bytes between a client and the runtime's streaming server once both have changed protocols: as they are, out of a WebSocket and into one, or with the
//! channels of a WebSocket (`v5.channel.k8s.io`) as the streams of SPDY.
//!
//! | channel | carries | as stream |
//! |---|---|---|
//! | 0 | the program's input | `stdin` |
//! | 1, 2 | its output | `stdout`, `stderr` |
//! | 3 | how it ended, a `Status` | `error` |
//! | 4 | sizes of the terminal | `resize` |
//! | 255 | the number of a channel that the client ends | the stream's end |
//!
//! Both directions run by themselves; who reads slowly holds back who writes, and a few kilobytes wait in between.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf, split};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::spdy;
use super::websocket::{self, Piece};

/// What is read from one side at a time.
const PIECE: usize = 16 * 1024;
/// Answers to pings that wait until there is room to send them; what is more is dropped, the next ping comes anyway.
const PONGS: usize = 4;
/// How long a client may take to hang up after the last byte: closed at once, what is under way to it could be lost.
const LINGER: Duration = Duration::from_secs(5);

const STDIN: u8 = 0;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const END: u8 = 255;
/// The streams by their channels, as they are called.
const NAMES: [&str; 5] = ["stdin", "stdout", "stderr", "error", "resize"];

/// Either side.
pub(super) trait Io: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Io for T {}

/// Carries bytes as they are until the runtime ends, or the client did and the runtime has nothing more to say.
pub(super) async fn plain(client: impl Io, runtime: impl Io) -> io::Result<()> {
    let (mut from_client, mut to_client) = split(client);
    let (mut from_runtime, mut to_runtime) = split(runtime);
    let out = async {
        tokio::io::copy(&mut from_runtime, &mut to_client).await?;
        to_client.shutdown().await
    };
    let into = async {
        let copied = tokio::io::copy(&mut from_client, &mut to_runtime).await;
        to_runtime.shutdown().await?;
        copied
    };
    both(out, into, None).await?;
    drain(&mut from_client).await;
    Ok(())
}

/// Carries what comes in a WebSocket's messages as bytes of a connection, and the other way round.
pub(super) async fn tunnel(client: impl Io, runtime: impl Io) -> io::Result<()> {
    let (mut from_client, mut to_client) = split(client);
    let (mut from_runtime, mut to_runtime) = split(runtime);
    let (pongs, mut asked) = mpsc::channel(PONGS);
    let out = async {
        let (mut piece, mut frame) = (BytesMut::with_capacity(PIECE), Vec::new());
        while let Some(read) = next(&mut from_runtime, &mut piece, &mut asked).await? {
            frame.clear();
            match read {
                Next::Ping(text) => answer_ping(&text, &mut frame),
                Next::Read => {
                    websocket::head(websocket::BINARY, piece.len(), &mut frame);
                    frame.extend_from_slice(&piece);
                    piece.clear();
                }
            }
            to_client.write_all(&frame).await?;
            to_client.flush().await?;
        }
        goodbye(&mut to_client).await
    };
    let into = async {
        let mut inbox = Inbox::new(&mut from_client, pongs);
        while let Some((_, _, bytes)) = inbox.next().await? {
            to_runtime.write_all(&bytes).await?;
            if inbox.buffer.is_empty() {
                to_runtime.flush().await?;
            }
        }
        to_runtime.shutdown().await
    };
    both(out, into, Some(LINGER)).await?;
    drain(&mut from_client).await;
    Ok(())
}

/// The streams of one command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Streams {
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) tty: bool,
}

/// Carries the channels of a WebSocket as streams of SPDY.
pub(super) async fn channels(client: impl Io, runtime: impl Io, streams: Streams) -> io::Result<()> {
    let (mut from_client, mut to_client) = split(client);
    let (mut from_runtime, mut to_runtime) = split(runtime);
    let numbers = open(&mut to_runtime, streams).await?;
    let (pongs, asked) = mpsc::channel(PONGS);
    let (spdy_pongs, spdy_asked) = mpsc::channel(PONGS);
    let out = to_channels(&mut from_runtime, &mut to_client, numbers, asked, spdy_pongs);
    let into = to_streams(&mut from_client, &mut to_runtime, numbers, pongs, spdy_asked);
    both(out, into, Some(LINGER)).await?;
    drain(&mut from_client).await;
    Ok(())
}

/// The numbers of streams by their channels; 0 where there is none.
type Numbers = [u32; NAMES.len()];

/// Opens what a command has, in the order in which clients do: first what tells its end.
async fn open(to_runtime: &mut WriteHalf<impl Io>, streams: Streams) -> io::Result<Numbers> {
    let (mut opener, mut frames, mut numbers) = (spdy::Opener::default(), Vec::new(), Numbers::default());
    let there = [
        (ERROR, true),
        (STDIN, streams.stdin),
        (1, streams.stdout),
        (2, streams.stderr),
        (RESIZE, streams.tty),
    ];
    for (channel, _) in there.into_iter().filter(|(_, wanted)| *wanted) {
        let channel = usize::from(channel);
        numbers[channel] = opener.open("streamtype", NAMES[channel], &mut frames);
    }
    to_runtime.write_all(&frames).await?;
    to_runtime.flush().await?;
    Ok(numbers)
}

async fn to_streams(
    from_client: &mut ReadHalf<impl Io>,
    to_runtime: &mut WriteHalf<impl Io>,
    numbers: Numbers,
    pongs: mpsc::Sender<Bytes>,
    mut spdy_asked: mpsc::Receiver<u32>,
) -> io::Result<()> {
    let mut inbox = Inbox::new(from_client, pongs);
    let mut channel = None;
    let mut frame = Vec::new();
    loop {
        frame.clear();
        let (first, last, mut bytes) = tokio::select! {
            biased;
            Some(id) = spdy_asked.recv() => {
                spdy::pong(id, &mut frame);
                to_runtime.write_all(&frame).await?;
                to_runtime.flush().await?;
                continue;
            }
            piece = inbox.next() => match piece? {
                Some(piece) => piece,
                None => return to_runtime.shutdown().await,
            },
        };
        if first {
            channel = None;
        }
        if channel.is_none() && !bytes.is_empty() {
            channel = Some(bytes.split_to(1)[0]);
        }
        match channel {
            Some(on @ (STDIN | RESIZE)) if numbers[usize::from(on)] != 0 && !bytes.is_empty() => {
                spdy::data(numbers[usize::from(on)], bytes.len(), false, &mut frame);
                frame.extend_from_slice(&bytes);
            }
            Some(END) if bytes.first() == Some(&STDIN) && numbers[usize::from(STDIN)] != 0 => {
                spdy::data(numbers[usize::from(STDIN)], 0, true, &mut frame);
            }
            // What nobody asked for goes nowhere.
            _ => {}
        }
        if last {
            channel = None;
        }
        if !frame.is_empty() {
            to_runtime.write_all(&frame).await?;
            to_runtime.flush().await?;
        }
    }
}

async fn to_channels(
    from_runtime: &mut ReadHalf<impl Io>,
    to_client: &mut WriteHalf<impl Io>,
    numbers: Numbers,
    mut asked: mpsc::Receiver<Bytes>,
    spdy_pongs: mpsc::Sender<u32>,
) -> io::Result<()> {
    let (mut decoder, mut piece, mut frame) = (spdy::Decoder::default(), BytesMut::with_capacity(PIECE), Vec::new());
    // What the program says and how it ends is waited for; its input ends with it.
    let mut open: Vec<u8> = (1..=ERROR)
        .filter(|channel| numbers[usize::from(*channel)] != 0)
        .collect();
    let mut told = false;
    while !open.is_empty() {
        let read = next(from_runtime, &mut piece, &mut asked).await?;
        frame.clear();
        match read {
            None => break,
            Some(Next::Ping(text)) => answer_ping(&text, &mut frame),
            Some(Next::Read) => {
                while let Some(from) = decoder.next(&mut piece).map_err(io::Error::other)? {
                    let over = match from {
                        spdy::Frame::Data { stream, last, bytes } => {
                            let channel = channel_of(&numbers, stream);
                            if let Some(channel) = channel.filter(|_| !bytes.is_empty()) {
                                websocket::head(websocket::BINARY, 1 + bytes.len(), &mut frame);
                                frame.push(channel);
                                frame.extend_from_slice(&bytes);
                                told |= channel == ERROR;
                            }
                            channel.filter(|_| last)
                        }
                        spdy::Frame::Reset { stream } => channel_of(&numbers, stream),
                        spdy::Frame::Ping(id) => {
                            // The server's have even numbers; an odd one would be an answer.
                            if id % 2 == 0 && spdy_pongs.try_send(id).is_err() {
                                tracing::trace!("A ping of the runtime is not answered: others wait.");
                            }
                            None
                        }
                        spdy::Frame::GoAway => None,
                    };
                    open.retain(|channel| Some(*channel) != over);
                }
            }
        }
        if !frame.is_empty() {
            to_client.write_all(&frame).await?;
            to_client.flush().await?;
        }
    }
    if !told {
        let status = r#"{"metadata":{},"status":"Failure","message":"the container runtime ended the connection without saying how the command ended","reason":"InternalError","code":500}"#;
        frame.clear();
        websocket::head(websocket::BINARY, 1 + status.len(), &mut frame);
        frame.push(ERROR);
        frame.extend_from_slice(status.as_bytes());
        to_client.write_all(&frame).await?;
    }
    goodbye(to_client).await
}

fn channel_of(numbers: &Numbers, stream: u32) -> Option<u8> {
    let at = numbers.iter().position(|number| *number == stream && stream != 0)?;
    u8::try_from(at).ok()
}

/// What there is to do next.
enum Next {
    /// Bytes were read.
    Read,
    /// The client wants this back.
    Ping(Bytes),
}

/// Reads, or takes a ping. `None`: the other side has ended.
async fn next(
    from: &mut ReadHalf<impl Io>,
    piece: &mut BytesMut,
    asked: &mut mpsc::Receiver<Bytes>,
) -> io::Result<Option<Next>> {
    piece.reserve(PIECE);
    tokio::select! {
        biased;
        Some(text) = asked.recv() => Ok(Some(Next::Ping(text))),
        read = from.read_buf(piece) => Ok((read? > 0).then_some(Next::Read)),
    }
}

/// A client's WebSocket, read.
struct Inbox<'a, C> {
    from: &'a mut ReadHalf<C>,
    decoder: websocket::Decoder,
    buffer: BytesMut,
    pongs: mpsc::Sender<Bytes>,
}

impl<'a, C: Io> Inbox<'a, C> {
    fn new(from: &'a mut ReadHalf<C>, pongs: mpsc::Sender<Bytes>) -> Self {
        Self {
            from,
            decoder: websocket::Decoder::default(),
            buffer: BytesMut::new(),
            pongs,
        }
    }

    /// The next part of a message: whether it is the first, the last, and its bytes. `None`: the client has ended. Safe to drop half-way.
    async fn next(&mut self) -> io::Result<Option<(bool, bool, BytesMut)>> {
        loop {
            let piece = self.decoder.next(&mut self.buffer);
            match piece.map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))? {
                Some(Piece::Data { first, last, bytes }) => return Ok(Some((first, last, bytes))),
                Some(Piece::Ping(text)) => {
                    if self.pongs.try_send(text).is_err() {
                        tracing::trace!("A ping is not answered: others wait.");
                    }
                }
                Some(Piece::Pong) => {}
                Some(Piece::Close) => return Ok(None),
                None => {
                    self.buffer.reserve(PIECE);
                    if self.from.read_buf(&mut self.buffer).await? == 0 {
                        return Ok(None);
                    }
                }
            }
        }
    }
}

fn answer_ping(text: &[u8], out: &mut Vec<u8>) {
    websocket::head(websocket::PONG, text.len(), out);
    out.extend_from_slice(text);
}

/// Ends a WebSocket as one should.
async fn goodbye(to_client: &mut WriteHalf<impl Io>) -> io::Result<()> {
    let mut frame = Vec::new();
    websocket::head(websocket::CLOSE, 2, &mut frame);
    frame.extend_from_slice(&1000_u16.to_be_bytes());
    to_client.write_all(&frame).await?;
    to_client.shutdown().await
}

/// Runs both directions until the runtime's is over. The client's may end before, and must not end the other by that; where it can hear nothing
/// more, the other ends `after` that.
async fn both<T>(
    out: impl Future<Output = io::Result<()>>,
    into: impl Future<Output = io::Result<T>>,
    after: Option<Duration>,
) -> io::Result<()> {
    let (mut out, mut into) = (std::pin::pin!(out), std::pin::pin!(into));
    tokio::select! {
        biased;
        ended = &mut out => return ended,
        over = &mut into => match (over, after) {
            // A client that broke off, or a runtime that takes nothing more: what it still says is sent, if anybody hears it.
            (Err(e), _) => return timeout(LINGER, out).await.unwrap_or(Err(e)),
            (Ok(_), Some(after)) => return timeout(after, out).await.unwrap_or(Ok(())),
            (Ok(_), None) => {}
        }
    }
    out.await
}

/// Reads away what a client still sends, until it hangs up.
async fn drain(from: &mut ReadHalf<impl Io>) {
    let rest = async {
        let mut piece = [0; 1024];
        while from.read(&mut piece).await.is_ok_and(|read| read > 0) {}
    };
    // Patience has an end; the connection is closed either way.
    timeout(LINGER, rest).await.unwrap_or_default();
}

#[cfg(test)]
mod tests;
