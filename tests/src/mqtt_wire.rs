//! The least MQTT 3.1.1 client that can measure a broker: one socket, packets written and read by hand, nothing queued in between.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// What came from the broker.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming {
    /// CONNACK with its return code.
    ConnAck(u8),
    /// SUBACK.
    SubAck,
    /// PUBACK of a packet id.
    PubAck(u16),
    /// PUBLISH; the packet id is 0 for QoS 0.
    Publish {
        /// Topic.
        topic: String,
        /// Payload.
        payload: Vec<u8>,
        /// Packet id to acknowledge.
        id: u16,
    },
    /// Anything else, by its type.
    Other(u8),
}

/// The reading half.
#[derive(Debug)]
pub struct Reader {
    from: OwnedReadHalf,
    buffer: Vec<u8>,
    start: usize,
}

/// The writing half.
#[derive(Debug)]
pub struct Writer(OwnedWriteHalf);

/// Connects with a clean session and waits for the CONNACK.
///
/// # Errors
/// No connection, or refused.
pub async fn connect(address: &str, client_id: &str) -> io::Result<(Reader, Writer)> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (from, to) = stream.into_split();
    let (mut reader, mut writer) = (
        Reader {
            from,
            buffer: Vec::with_capacity(64 * 1024),
            start: 0,
        },
        Writer(to),
    );
    let mut body = b"\x00\x04MQTT\x04\x02\x00\x00".to_vec();
    text(&mut body, client_id);
    writer.0.write_all(&packet(0x10, &body)).await?;
    match reader.next().await? {
        Incoming::ConnAck(0) => Ok((reader, writer)),
        other => Err(io::Error::other(format!("not connected: {other:?}"))),
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn packet(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + 5);
    out.push(kind);
    let mut length = body.len();
    loop {
        let low = u8::try_from(length % 128).unwrap_or(0);
        length /= 128;
        out.push(if length > 0 { low | 0x80 } else { low });
        if length == 0 {
            break;
        }
    }
    out.extend_from_slice(body);
    out
}

/// A PUBLISH with QoS 1.
pub fn publish(topic: &str, id: u16, payload: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(topic.len() + payload.len() + 4);
    text(&mut body, topic);
    body.extend_from_slice(&id.to_be_bytes());
    body.extend_from_slice(payload);
    packet(0x32, &body)
}

impl Writer {
    /// Writes bytes made by [`publish`].
    ///
    /// # Errors
    /// The connection broke.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes).await
    }

    /// SUBSCRIBE to one filter with QoS 1; the SUBACK is read by the reader.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn subscribe(&mut self, filter: &str) -> io::Result<()> {
        let mut body = vec![0, 1];
        text(&mut body, filter);
        body.push(1);
        self.0.write_all(&packet(0x82, &body)).await
    }

    /// PUBACK.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn acknowledge(&mut self, id: u16) -> io::Result<()> {
        self.0.write_all(&packet(0x40, &id.to_be_bytes())).await
    }
}

impl Reader {
    /// The next packet.
    ///
    /// # Errors
    /// The connection broke, or the broker sent nonsense.
    pub async fn next(&mut self) -> io::Result<Incoming> {
        loop {
            if let Some((incoming, used)) = parse(&self.buffer[self.start..])? {
                self.start += used;
                if self.start == self.buffer.len() {
                    self.buffer.clear();
                    self.start = 0;
                }
                return Ok(incoming);
            }
            if self.start > 0 {
                self.buffer.drain(..self.start);
                self.start = 0;
            }
            if self.from.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

fn parse(data: &[u8]) -> io::Result<Option<(Incoming, usize)>> {
    let nonsense = || io::Error::other("the broker sent a malformed packet");
    let Some(&kind) = data.first() else { return Ok(None) };
    let (mut length, mut at) = (0_usize, 1);
    loop {
        let Some(&byte) = data.get(at) else { return Ok(None) };
        length |= usize::from(byte & 0x7f) << (7 * (at - 1));
        at += 1;
        if byte & 0x80 == 0 {
            break;
        }
        if at > 4 {
            return Err(nonsense());
        }
    }
    let Some(body) = data.get(at..at + length) else {
        return Ok(None);
    };
    let number = |i: usize| {
        body.get(i..i + 2)
            .map(|b| u16::from_be_bytes([b[0], b[1]]))
            .ok_or_else(nonsense)
    };
    let incoming = match kind >> 4 {
        2 => Incoming::ConnAck(*body.get(1).ok_or_else(nonsense)?),
        3 => {
            let topic_end = 2 + usize::from(number(0)?);
            let topic = body.get(2..topic_end).ok_or_else(nonsense)?;
            let has_id = kind & 0x06 != 0;
            let id = if has_id { number(topic_end)? } else { 0 };
            let payload = body
                .get(topic_end + if has_id { 2 } else { 0 }..)
                .ok_or_else(nonsense)?;
            Incoming::Publish {
                topic: String::from_utf8_lossy(topic).into_owned(),
                payload: payload.to_vec(),
                id,
            }
        }
        4 => Incoming::PubAck(number(0)?),
        9 => Incoming::SubAck,
        other => Incoming::Other(other),
    };
    Ok(Some((incoming, at + length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_survive_their_own_round() {
        let sent = publish("a/b", 7, &[9; 300]);
        assert_eq!(parse(&sent[..sent.len() - 1]).unwrap(), None);
        let (got, used) = parse(&sent).unwrap().unwrap();
        assert_eq!(
            got,
            Incoming::Publish {
                topic: "a/b".into(),
                payload: vec![9; 300],
                id: 7
            }
        );
        assert_eq!(used, sent.len());
        assert!(parse(b"\x30\xff\xff\xff\xff\xff").is_err());
        assert_eq!(parse(b"\x40\x02\x01\x02").unwrap().unwrap().0, Incoming::PubAck(0x0102));
    }
}
