use super::*;
use tokio::io::{DuplexStream, duplex};

/// A frame of a client, masked with nothing.
fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    websocket::head(opcode, payload.len(), &mut out);
    out[1] |= 0x80;
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(payload);
    out
}

/// A server's next frame: what it is, and its payload.
async fn receive(from: &mut DuplexStream) -> (u8, Vec<u8>) {
    let opcode = from.read_u8().await.unwrap() & 0x0f;
    let len = match from.read_u8().await.unwrap() {
        126 => usize::from(from.read_u16().await.unwrap()),
        127 => usize::try_from(from.read_u64().await.unwrap()).unwrap(),
        short => usize::from(short),
    };
    let mut payload = vec![0; len];
    from.read_exact(&mut payload).await.unwrap();
    (opcode, payload)
}

/// The next frame that the runtime is sent: first word, flags and the payload.
async fn spdy_frame(from: &mut DuplexStream) -> (u32, u8, Vec<u8>) {
    let first = from.read_u32().await.unwrap();
    let second = from.read_u32().await.unwrap();
    let mut payload = vec![0; usize::try_from(second & 0x00ff_ffff).unwrap()];
    from.read_exact(&mut payload).await.unwrap();
    (first, second.to_be_bytes()[0], payload)
}

fn spdy_data(stream: u32, last: bool, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    spdy::data(stream, bytes.len(), last, &mut out);
    out.extend_from_slice(bytes);
    out
}

const ALL: Streams = Streams {
    stdin: true,
    stdout: true,
    stderr: true,
    tty: false,
};

/// A command whose streams have been opened: its client, its runtime.
async fn opened(
    streams: Streams,
    count: usize,
) -> (DuplexStream, DuplexStream, tokio::task::JoinHandle<io::Result<()>>) {
    let (client, near) = duplex(4096);
    let (mut runtime, far) = duplex(4096);
    let carried = tokio::spawn(channels(near, far, streams));
    for number in 0..count {
        let (kind, _, payload) = spdy_frame(&mut runtime).await;
        assert_eq!(kind, 0x8003_0001);
        assert_eq!(payload[..4], u32::try_from(2 * number + 1).unwrap().to_be_bytes());
    }
    (client, runtime, carried)
}

#[tokio::test]
async fn channels_become_streams_and_streams_channels() {
    // error 1, stdin 3, stdout 5, stderr 7
    let (mut client, mut runtime, carried) = opened(ALL, 4).await;
    client.write_all(&frame(websocket::BINARY, b"\x00hello")).await.unwrap();
    assert_eq!(spdy_frame(&mut runtime).await, (3, 0, b"hello".to_vec()));
    client.write_all(&frame(websocket::BINARY, b"\xff\x00")).await.unwrap();
    assert_eq!(spdy_frame(&mut runtime).await, (3, 1, Vec::new()));
    // A size of a terminal that there is not goes nowhere; a ping is answered meanwhile.
    client.write_all(&frame(websocket::BINARY, b"\x04{}")).await.unwrap();
    client.write_all(&frame(9, b"there?")).await.unwrap();
    assert_eq!(receive(&mut client).await, (websocket::PONG, b"there?".to_vec()));
    runtime.write_all(&spdy_data(5, false, b"out")).await.unwrap();
    assert_eq!(receive(&mut client).await, (websocket::BINARY, b"\x01out".to_vec()));
    runtime.write_all(&spdy_data(7, true, b"err")).await.unwrap();
    assert_eq!(receive(&mut client).await, (websocket::BINARY, b"\x02err".to_vec()));
    let mut ping = Vec::new();
    spdy::pong(2, &mut ping);
    runtime.write_all(&ping).await.unwrap();
    assert_eq!(spdy_frame(&mut runtime).await, (0x8003_0006, 0, vec![0, 0, 0, 2]));
    runtime
        .write_all(&spdy_data(1, true, b"{\"status\":\"Success\"}"))
        .await
        .unwrap();
    assert_eq!(
        receive(&mut client).await,
        (websocket::BINARY, b"\x03{\"status\":\"Success\"}".to_vec())
    );
    // Its end may be told without a word.
    runtime
        .write_all(&[0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 5, 0, 0, 0, 5])
        .await
        .unwrap();
    assert_eq!(receive(&mut client).await, (websocket::CLOSE, vec![3, 232]));
    drop(client);
    carried.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_message_in_pieces_is_one_channels() {
    let (mut client, mut runtime, _carried) = opened(ALL, 4).await;
    let mut first = frame(websocket::BINARY, b"\x00ab");
    first[0] &= 0x7f;
    client.write_all(&first).await.unwrap();
    assert_eq!(spdy_frame(&mut runtime).await, (3, 0, b"ab".to_vec()));
    client.write_all(&frame(0, b"\x00cd")).await.unwrap();
    assert_eq!(spdy_frame(&mut runtime).await, (3, 0, b"\x00cd".to_vec()));
    // Cut within its first byte's frame.
    let next = frame(websocket::BINARY, b"\x00ef");
    client.write_all(&next[..7]).await.unwrap();
    client.write_all(&next[7..]).await.unwrap();
    let mut text = Vec::new();
    while text.len() < 2 {
        text.extend(spdy_frame(&mut runtime).await.2);
    }
    assert_eq!(text, b"ef");
}

#[tokio::test]
async fn a_runtime_that_breaks_off_is_a_failure() {
    let (mut client, runtime, carried) = opened(
        Streams {
            tty: true,
            stderr: false,
            ..ALL
        },
        4,
    )
    .await;
    drop(runtime);
    let (opcode, payload) = receive(&mut client).await;
    assert_eq!((opcode, payload[0]), (websocket::BINARY, 3));
    let status: serde_json::Value = serde_json::from_slice(&payload[1..]).unwrap();
    assert_eq!(
        (&status["status"], &status["reason"]),
        (&"Failure".into(), &"InternalError".into())
    );
    assert_eq!(receive(&mut client).await.0, websocket::CLOSE);
    drop(client);
    carried.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_client_that_hangs_up_ends_the_runtimes_side() {
    let (mut client, mut runtime, carried) = opened(ALL, 4).await;
    client.write_all(&frame(websocket::CLOSE, &[3, 232])).await.unwrap();
    assert_eq!(runtime.read(&mut [0; 8]).await.unwrap(), 0);
    drop((client, runtime));
    // Nobody is left to be told.
    assert!(carried.await.unwrap().is_err());
}

#[tokio::test]
async fn a_tunnel_carries_bytes_of_any_number_both_ways() {
    let (mut client, near) = duplex(4096);
    let (mut runtime, far) = duplex(4096);
    let carried = tokio::spawn(tunnel(near, far));
    let sent: Vec<u8> = (0..100_000_u32).map(|i| i.to_le_bytes()[0]).collect();
    let there = async {
        for piece in sent.chunks(30_000) {
            client.write_all(&frame(websocket::BINARY, piece)).await.unwrap();
        }
        client.write_all(&frame(9, b"p")).await.unwrap();
        assert_eq!(receive(&mut client).await, (websocket::PONG, b"p".to_vec()));
        client
    };
    let back = async {
        let mut got = vec![0; sent.len()];
        runtime.read_exact(&mut got).await.unwrap();
        assert!(got == sent);
        runtime
    };
    let (mut client, mut runtime) = tokio::join!(there, back);
    let there = async {
        runtime.write_all(&sent).await.unwrap();
        drop(runtime);
    };
    let back = async {
        let mut got = Vec::new();
        loop {
            match receive(&mut client).await {
                (websocket::BINARY, bytes) => got.extend(bytes),
                (opcode, _) => break assert_eq!(opcode, websocket::CLOSE),
            }
        }
        assert!(got == sent);
        drop(client);
    };
    tokio::join!(there, back);
    carried.await.unwrap().unwrap();
}

#[tokio::test]
async fn who_has_said_all_may_still_listen() {
    let (mut client, near) = duplex(64);
    let (mut runtime, far) = duplex(64);
    let carried = tokio::spawn(plain(near, far));
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    let mut asked = String::new();
    runtime.read_to_string(&mut asked).await.unwrap();
    assert_eq!(asked, "question");
    runtime.write_all(b"answer").await.unwrap();
    drop(runtime);
    let mut answered = String::new();
    client.read_to_string(&mut answered).await.unwrap();
    assert_eq!(answered, "answer");
    carried.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_hangs_up_is_left() {
    let (mut client, near) = duplex(64);
    let (runtime, far) = duplex(64);
    let carried = tokio::spawn(plain(near, far));
    drop(runtime);
    assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
    carried.await.unwrap().unwrap();
}
