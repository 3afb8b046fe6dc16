//! The hub's first word on a connection: come in, or why not.
//!
//! In TLS 1.3 a client is through with its handshake before the server has looked at its certificate, so without this word a refused
//! gateway would learn of it only when its first question stays unanswered. Over TCP a refusal stands in the same place; over QUIC the
//! connection's close carries it. Format: one byte 1 = welcome; or one byte 2, the code (u32), the reason's length (u16), the reason.

use std::io;

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::goodbye::Goodbye;

const WELCOME: u8 = 1;
const REFUSED: u8 = 2;
/// Nobody's reason is longer.
const MAX_REASON: u16 = 512;

/// Come in.
pub(crate) const fn welcome() -> [u8; 1] {
    [WELCOME]
}

/// Why not.
pub(crate) fn refusal(goodbye: &Goodbye) -> BytesMut {
    let reason = goodbye.reason();
    let mut out = BytesMut::with_capacity(7 + reason.len());
    out.put_u8(REFUSED);
    out.put_u32(goodbye.code.to_u32());
    out.put_u16(u16::try_from(reason.len()).expect("a reason is cut to 204 bytes"));
    out.put_slice(&reason);
    out
}

/// Reads the hub's word. The caller has the deadline.
pub(crate) async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Result<(), Goodbye>> {
    match from.read_u8().await? {
        WELCOME => Ok(Ok(())),
        REFUSED => {
            let code = from.read_u32().await?;
            let len = from.read_u16().await?;
            if len > MAX_REASON {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the hub's refusal is too long",
                ));
            }
            let mut reason = vec![0; usize::from(len)];
            from.read_exact(&mut reason).await?;
            Ok(Err(Goodbye::read(code, &reason)))
        }
        other => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("the hub greets with {other}"),
        )),
    }
}
