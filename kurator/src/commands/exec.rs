//! `kurator exec`: a command in a container, with its input, its output, its terminal and its exit code.
//!
//! Speaks what `kubectl` speaks: a WebSocket with the channels of `v5.channel.k8s.io`. The terminal is given back as it was, whatever happens.

mod frames;
mod terminal;

use std::io::{IsTerminal as _, Read as _, Write as _};

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
    let raw = if terminal { Some(Raw::new()?) } else { None };
    let sizes = match raw {
        Some(_) => signal(SignalKind::window_change()).ok(),
        None => None,
    };
    let input = arguments.stdin.then(read_input);
    let status = exchange(stream, input, sizes).await;
    drop(raw);
    ended(&status?)
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

/// Carries input and output until the command has ended. What was said of its end.
async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send,
    mut input: Option<mpsc::Receiver<Vec<u8>>>,
    mut sizes: Option<Signal>,
) -> Result<Vec<u8>, Failure> {
    let broke = |e: std::io::Error| Failure::new(FAILED, format!("the connection broke off: {e}"));
    let (mut from, mut to) = tokio::io::split(stream);
    let (mut buffer, mut status) = (BytesMut::new(), Vec::new());
    if sizes.is_some() {
        to.write_all(&write(&size())).await.map_err(broke)?;
    }
    loop {
        while let Some(message) = next(&mut buffer).map_err(broke)? {
            match message {
                Message::Data(bytes) => match bytes.split_first() {
                    Some((&STDOUT, text)) => crate::say::bytes(text),
                    Some((&STDERR, text)) => drop(std::io::stderr().lock().write_all(text)),
                    Some((&ERROR, text)) if status.len() + text.len() <= MAX_STATUS => status.extend_from_slice(text),
                    _ => {}
                },
                Message::Pong(frame) => to.write_all(&frame).await.map_err(broke)?,
                Message::Close => return Ok(status),
            }
        }
        tokio::select! {
            biased;
            read = from.read_buf(&mut buffer) => if read.map_err(broke)? == 0 { return Ok(status) },
            Some(()) = resized(&mut sizes) => to.write_all(&write(&size())).await.map_err(broke)?,
            piece = pieces(&mut input) => {
                let message = match piece {
                    Some(piece) => [&[STDIN], piece.as_slice()].concat(),
                    None => {
                        input = None;
                        vec![END, STDIN]
                    }
                };
                to.write_all(&write(&message)).await.map_err(broke)?;
            }
        }
        to.flush().await.map_err(broke)?;
    }
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
        let (status, ()) = tokio::join!(exchange(near, Some(input), None), server);
        assert_eq!(status.unwrap(), b"{}");
    }
}
