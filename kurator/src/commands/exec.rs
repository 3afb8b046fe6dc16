//! `kurator exec`: a command in a container, with its input, its output, its terminal and its exit code.
//!
//! Speaks what `kubectl` speaks: a WebSocket with the channels of `v5.channel.k8s.io`. The terminal is given back as it was, whatever happens.

mod frames;
mod terminal;

use std::io::{ErrorKind, IsTerminal as _, Read as _, Write};

use bytes::BytesMut;
use daemon::exit::{FAILED, Failure};
use http::Method;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use self::frames::{Message, next, write};
use self::terminal::Raw;
use crate::cli::{ExecArgs, Global};
use crate::client::Api;

const PROTOCOL: &str = "v5.channel.k8s.io";
/// Channels of the protocol.
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const END: u8 = 255;
/// What is read of the input at a time.
const PIECE: usize = 8 * 1024;
/// Pieces of the input that wait to be sent.
const WAITING: usize = 4;
/// Longest word on how a command ended.
const MAX_STATUS: usize = 64 * 1024;

pub(crate) async fn run(global: &Global, arguments: ExecArgs) -> Result<(), Failure> {
    let api = Api::find(global).await?;
    let terminal = arguments.tty && std::io::stdin().is_terminal();
    if arguments.tty && !terminal {
        crate::say::remark("Standard input is no terminal: the command gets none of its size.");
    }
    let stream = api
        .upgrade(Method::GET, &path(&global.namespace, &arguments), PROTOCOL)
        .await?;
    let raw = if takes_keys(&arguments, terminal) {
        Some(Raw::new()?)
    } else {
        None
    };
    let sizes = if terminal {
        signal(SignalKind::window_change()).ok()
    } else {
        None
    };
    let input = arguments.stdin.then(read_input);
    let status = exchange(stream, input, sizes, std::io::stdout()).await;
    drop(raw);
    // Whoever closes the pipe has read enough, as with `| head`.
    status?.map_or(Ok(()), |status| ended(&status))
}

/// Whether the keys are the command's. Where it gets no input they stay the user's, who could not interrupt it otherwise.
fn takes_keys(arguments: &ExecArgs, terminal: bool) -> bool {
    terminal && arguments.tty && arguments.stdin
}

fn path(namespace: &str, arguments: &ExecArgs) -> String {
    let mut query = vec!["stdout=true".to_owned()];
    // A terminal has one output.
    for (name, wanted) in [
        ("stdin", arguments.stdin),
        ("stderr", !arguments.tty),
        ("tty", arguments.tty),
    ] {
        if wanted {
            query.push(format!("{name}=true"));
        }
    }
    if let Some(container) = &arguments.container {
        query.push(format!("container={container}"));
    }
    query.extend(
        arguments
            .command
            .iter()
            .map(|word| format!("command={}", super::get::escaped(word))),
    );
    format!(
        "/api/v1/namespaces/{namespace}/pods/{}/exec?{}",
        arguments.pod,
        query.join("&")
    )
}

/// Standard input, read by a thread of its own: it ends with the process, whatever it waits for.
fn read_input() -> mpsc::Receiver<Vec<u8>> {
    let (pieces, input) = mpsc::channel(WAITING);
    std::thread::spawn(move || {
        let mut piece = vec![0; PIECE];
        while let Ok(read @ 1..) = std::io::stdin().lock().read(&mut piece) {
            if pieces.blocking_send(piece[..read].to_vec()).is_err() {
                return;
            }
        }
    });
    input
}

/// Carries input and output until the command has ended. What was said of its end; `None` when nobody reads its output any more.
///
/// Reading never waits for writing: a command that prints before it reads would wait for us, and we for it.
async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send,
    mut input: Option<mpsc::Receiver<Vec<u8>>>,
    mut sizes: Option<Signal>,
    mut output: impl Write,
) -> Result<Option<Vec<u8>>, Failure> {
    let broke = |e: std::io::Error| Failure::new(FAILED, format!("the connection broke off: {e}"));
    let (mut from, mut to) = tokio::io::split(stream);
    let (mut buffer, mut status) = (BytesMut::new(), Vec::new());
    let (mut out, mut waiting) = (BytesMut::new(), false);
    if sizes.is_some() {
        out.extend_from_slice(&write(&size()));
    }
    loop {
        while let Some(message) = next(&mut buffer).map_err(broke)? {
            match message {
                Message::Data(bytes) => match bytes.split_first() {
                    // Not by `say`, which ends the process and with it what gives the terminal back.
                    Some((&STDOUT, text)) => match output.write_all(text).and_then(|()| output.flush()) {
                        Ok(()) => {}
                        Err(e) if e.kind() == ErrorKind::BrokenPipe => return Ok(None),
                        Err(e) => return Err(Failure::new(FAILED, format!("the output cannot be written: {e}"))),
                    },
                    Some((&STDERR, text)) => drop(std::io::stderr().lock().write_all(text)),
                    Some((&ERROR, text)) if status.len() + text.len() <= MAX_STATUS => status.extend_from_slice(text),
                    _ => {}
                },
                Message::Pong(frame) => out.extend_from_slice(&frame),
                Message::Close => return Ok(Some(status)),
            }
        }
        // Stays true while all is written and only the flush is still to be done.
        waiting |= !out.is_empty();
        // Not biased: neither endless output nor endless input may keep the other from its turn.
        tokio::select! {
            read = from.read_buf(&mut buffer) => if read.map_err(broke)? == 0 { return Ok(Some(status)) },
            sent = send(&mut to, &mut out), if waiting => {
                waiting = false;
                if sent.is_err() {
                    // Nothing goes there any more, but how the command ended may still be on its way here.
                    out.clear();
                    (input, sizes) = (None, None);
                }
            }
            Some(()) = resized(&mut sizes) => out.extend_from_slice(&write(&size())),
            piece = pieces(&mut input), if !waiting => {
                let message = match piece {
                    Some(piece) => [&[STDIN], piece.as_slice()].concat(),
                    None => {
                        input = None;
                        vec![END, STDIN]
                    }
                };
                out.extend_from_slice(&write(&message));
            }
        }
    }
}

/// Sends all of `out`. Dropped on the way, it leaves what is still to be sent.
async fn send(to: &mut (impl AsyncWrite + Unpin), out: &mut BytesMut) -> std::io::Result<()> {
    to.write_all_buf(out).await?;
    to.flush().await
}

async fn pieces(input: &mut Option<mpsc::Receiver<Vec<u8>>>) -> Option<Vec<u8>> {
    match input {
        Some(input) => input.recv().await,
        None => std::future::pending().await,
    }
}

async fn resized(sizes: &mut Option<Signal>) -> Option<()> {
    match sizes {
        Some(sizes) => sizes.recv().await,
        None => std::future::pending().await,
    }
}

fn size() -> Vec<u8> {
    let (width, height) = terminal::size();
    let mut message = vec![RESIZE];
    message.extend_from_slice(format!("{{\"Width\":{width},\"Height\":{height}}}").as_bytes());
    message
}

/// The end of a command as our own.
fn ended(status: &[u8]) -> Result<(), Failure> {
    let status: Value = serde_json::from_slice(status).unwrap_or_default();
    if status["status"] == "Success" {
        return Ok(());
    }
    let causes = status["details"]["causes"].as_array().into_iter().flatten();
    let code = causes
        .filter(|cause| cause["reason"] == "ExitCode")
        .find_map(|cause| cause["message"].as_str()?.parse::<u8>().ok());
    let message = status["message"]
        .as_str()
        .unwrap_or("the connection ended before the command did");
    Err(match code {
        Some(code) => Failure::new(code, format!("the command ended with exit code {code}"))
            .hint("this is the command's own exit code"),
        None => Failure::new(FAILED, message),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::ExecArgs;

    fn arguments(tty: bool) -> ExecArgs {
        ExecArgs {
            pod: "web-1".to_owned(),
            container: None,
            stdin: true,
            tty,
            command: vec!["sh".to_owned(), "-c".to_owned(), "echo a&b".to_owned()],
        }
    }

    #[test]
    fn words_of_a_command_stay_words() {
        assert_eq!(
            path("shop", &arguments(false)),
            "/api/v1/namespaces/shop/pods/web-1/exec?stdout=true&stdin=true&stderr=true&command=sh&command=-c&command=echo%20a%26b"
        );
        assert!(!path("shop", &arguments(true)).contains("stderr"));
    }

    #[test]
    fn a_commands_exit_code_is_ours() {
        assert!(ended(br#"{"status":"Success"}"#).is_ok());
        let failed = br#"{"status":"Failure","reason":"NonZeroExitCode","message":"m","details":{"causes":[{"reason":"ExitCode","message":"7"}]}}"#;
        assert_eq!(ended(failed).unwrap_err().code, 7);
        let broken = ended(br#"{"status":"Failure","message":"no such command"}"#).unwrap_err();
        assert_eq!((broken.code, broken.what.as_str()), (FAILED, "no such command"));
        assert_eq!(ended(b"").unwrap_err().code, FAILED);
    }

    #[tokio::test]
    async fn input_goes_in_and_the_end_comes_back() {
        let (near, mut far) = tokio::io::duplex(1024);
        let (pieces, input) = mpsc::channel(1);
        pieces.send(b"hello".to_vec()).await.unwrap();
        drop(pieces);
        let server = async {
            let mut said = Vec::new();
            // Two frames: five bytes and the channel, and the end of the input.
            let mut frame = [0; 12];
            far.read_exact(&mut frame).await.unwrap();
            said.extend(frames::unmasked(&frame));
            let mut frame = [0; 8];
            far.read_exact(&mut frame).await.unwrap();
            said.extend(frames::unmasked(&frame));
            assert_eq!(said, b"\x00hello\xff\x00");
            far.write_all(b"\x82\x03\x03{}\x88\x02\x03\xe8").await.unwrap();
        };
        let (status, ()) = tokio::join!(exchange(near, Some(input), None, std::io::sink()), server);
        assert_eq!(status.unwrap().unwrap(), b"{}");
    }

    #[tokio::test]
    async fn a_command_that_prints_before_it_reads_is_read_while_input_waits() {
        const PIECES: usize = 500;
        const PRINTED: usize = 1000;
        let (near, mut far) = tokio::io::duplex(64);
        let (pieces, input) = mpsc::channel(1);
        let user = async move {
            for _ in 0..PIECES {
                pieces.send(vec![b'i'; 100]).await.unwrap();
            }
        };
        let server = async {
            for _ in 0..PRINTED {
                far.write_all(&[&[0x82, 101, STDOUT], [b'o'; 100].as_slice()].concat())
                    .await
                    .unwrap();
            }
            for _ in 0..PIECES {
                let mut frame = [0; 6 + 101];
                far.read_exact(&mut frame).await.unwrap();
                assert_eq!(frames::unmasked(&frame), [&[STDIN], [b'i'; 100].as_slice()].concat());
            }
            let mut end = [0; 6 + 2];
            far.read_exact(&mut end).await.unwrap();
            assert_eq!(frames::unmasked(&end), [END, STDIN]);
            far.write_all(b"\x82\x03\x03{}\x88\x02\x03\xe8").await.unwrap();
        };
        let mut output = Vec::new();
        let all = async { tokio::join!(exchange(near, Some(input), None, &mut output), server, user) };
        let (status, (), ()) = tokio::time::timeout(std::time::Duration::from_secs(20), all)
            .await
            .expect("both sides wait for each other");
        assert_eq!(status.unwrap().unwrap(), b"{}");
        assert_eq!(output, vec![b'o'; 100 * PRINTED]);
    }

    /// An output that cannot be written to.
    struct Shut(ErrorKind);

    impl Write for Shut {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn an_output_nobody_reads_is_an_end_and_one_that_fails_a_failure() {
        for (kind, ends) in [(ErrorKind::BrokenPipe, true), (ErrorKind::StorageFull, false)] {
            let (near, mut far) = tokio::io::duplex(64);
            // Stays open: the end is ours.
            far.write_all(b"\x82\x03\x01hi").await.unwrap();
            let status = exchange(near, None, None, Shut(kind)).await;
            assert_eq!(matches!(status, Ok(None)), ends, "{kind}");
            assert_eq!(status.is_err(), !ends, "{kind}");
        }
    }

    #[tokio::test]
    async fn how_a_command_ended_is_read_when_its_input_cannot_be_sent() {
        let (near, mut far) = tokio::io::duplex(64);
        let (pieces, input) = mpsc::channel(1);
        pieces.send(b"more".to_vec()).await.unwrap();
        far.write_all(b"\x82\x03\x03{}\x88\x02\x03\xe8").await.unwrap();
        drop(far);
        let status = exchange(near, Some(input), None, std::io::sink()).await;
        assert_eq!(status.unwrap().unwrap(), b"{}");
    }

    #[test]
    fn the_terminal_is_passed_on_only_with_the_input() {
        let with_input = arguments(true);
        assert!(takes_keys(&with_input, true) && !takes_keys(&with_input, false));
        let without_input = ExecArgs {
            stdin: false,
            ..arguments(true)
        };
        assert!(!takes_keys(&without_input, true));
        assert!(!takes_keys(&arguments(false), true));
    }
}
