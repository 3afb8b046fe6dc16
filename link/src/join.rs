//! Enrolment on the wire: one question, one answer, on a connection that only the hub's certificate secures.
//!
//! The gateway ([`join`]) sends its token's secret only after the handshake has shown a hub whose CA has the token's pin. The hub
//! ([`serve`]) reads one capped frame with a deadline, asks its caller, answers and closes. Who is admitted is the caller's decision.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use proto::join::{Admitted, JoinCode, JoinRefusal, JoinRequest, JoinResponse};
use proto::{Codec, CodecError};
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::connection::{Closed, Connection, Stream, StreamKind};
use crate::dial::{DialError, Dialer};
use crate::goodbye::{CloseCode, Goodbye};
use crate::pki::{Cert, NODE_PREFIX, NodeKey, Pin};

/// The hub reads the question within this.
const QUESTION_DEADLINE: Duration = Duration::from_secs(5);
/// The gateway waits for the answer: the hub signs, and writes down that it did.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);
/// The answer is handed over within this.
const FINISH_DEADLINE: Duration = Duration::from_secs(3);

/// Why a gateway could not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinFailure {
    /// The hub was not reached, or is not the one the token is for.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The hub said no.
    #[error(transparent)]
    Refused(#[from] JoinRefusal),
    /// The hub's answer is not usable.
    #[error("the hub's answer cannot be used: {0}")]
    Answer(String),
    /// The connection ended before the answer.
    #[error("the connection ended before the answer: {0}")]
    Lost(String),
    /// No answer in time.
    #[error("the hub did not answer in time")]
    Timeout,
}

/// Joins: dials (`dialer` from [`Dialer::join`]), asks, and checks the answer before anybody believes it: the CA has the pin, the
/// certificate is for `key` and for the name in the answer.
///
/// # Errors
/// See [`JoinFailure`].
pub async fn join(
    dialer: &Dialer,
    addrs: &[String],
    pin: Pin,
    key: &NodeKey,
    request: JoinRequest,
) -> Result<Admitted, JoinFailure> {
    let connection = dialer.dial(addrs).await?;
    let answered = timeout(ANSWER_DEADLINE, ask(&connection, request)).await;
    connection.close(&Goodbye::new(CloseCode::Normal, ""));
    let admitted = match answered {
        Ok(answer) => answer?,
        Err(_) => return Err(JoinFailure::Timeout),
    };
    check(&admitted, pin, key)?;
    Ok(admitted)
}

async fn ask(connection: &Connection, request: JoinRequest) -> Result<Admitted, JoinFailure> {
    let lost = |e: io::Error| match connection.close_reason() {
        Some(Closed::Peer(goodbye)) => JoinFailure::Dial(DialError::Refused(goodbye)),
        _ => JoinFailure::Lost(e.to_string()),
    };
    let mut stream = connection
        .open(StreamKind::Join)
        .await
        .map_err(|e| lost(io::Error::other(e)))?;
    let mut out = BytesMut::new();
    Codec::handshake()
        .encode(&request.into_frame(), &mut out)
        .map_err(|e| JoinFailure::Answer(e.to_string()))?;
    stream.write_all(&out).await.map_err(lost)?;
    stream.flush().await.map_err(lost)?;
    let frame = read_frame(&mut stream).await.map_err(lost)?;
    match JoinResponse::from_frame(frame).map_err(|e| JoinFailure::Answer(e.to_string()))? {
        JoinResponse::Admitted(admitted) => Ok(admitted),
        JoinResponse::Refused(refusal) => Err(JoinFailure::Refused(refusal)),
    }
}

fn check(admitted: &Admitted, pin: Pin, key: &NodeKey) -> Result<(), JoinFailure> {
    let wrong = |what: &str| JoinFailure::Answer(what.to_owned());
    let ca = CertificateDer::from(admitted.ca.to_vec());
    if Pin::of(&ca).ok() != Some(pin) {
        return Err(wrong("it names another CA than the token"));
    }
    let leaf = admitted
        .cert_chain
        .first()
        .ok_or_else(|| wrong("it has no certificate"))?;
    let leaf = Cert::parse(&CertificateDer::from(leaf.to_vec())).map_err(|e| wrong(&e.to_string()))?;
    if leaf.pin != key.pin() {
        return Err(wrong("its certificate is for another key"));
    }
    if leaf.common_name.strip_prefix(NODE_PREFIX) != Some(admitted.node_name.as_str()) {
        return Err(wrong("its certificate is for another name"));
    }
    Ok(())
}

/// Serves one join connection to its end. `answer` gets the question, its fields held to their caps, and the asker's address.
///
/// # Errors
/// What kept the question from being read or the answer from being given; for the log.
pub async fn serve<F, A>(connection: Connection, answer: F) -> Result<(), io::Error>
where
    F: FnOnce(JoinRequest, SocketAddr) -> A,
    A: Future<Output = JoinResponse>,
{
    let question = timeout(QUESTION_DEADLINE, async {
        let mut stream = connection.accept_bi().await.map_err(io::Error::other)?;
        if stream.read_kind().await? != StreamKind::Join {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a join stream"));
        }
        let frame = read_frame(&mut stream).await?;
        Ok((stream, frame))
    });
    let (mut stream, frame) = match question.await {
        Ok(Ok(asked)) => asked,
        Ok(Err(e)) => {
            connection.close(&Goodbye::new(CloseCode::Protocol, "that is no join request"));
            return Err(e);
        }
        Err(_) => {
            connection.close(&Goodbye::new(CloseCode::Protocol, "no join request in time"));
            return Err(io::ErrorKind::TimedOut.into());
        }
    };
    let response = match JoinRequest::from_frame(frame) {
        Ok(request) => answer(request, connection.remote_addr()).await,
        Err(e) => JoinResponse::Refused(JoinRefusal {
            code: JoinCode::BadRequest,
            message: e.to_string(),
            hint: String::new(),
            retry_after: None,
        }),
    };
    let mut out = BytesMut::new();
    Codec::handshake()
        .encode(&response.into_frame(), &mut out)
        .map_err(io::Error::other)?;
    let given = timeout(FINISH_DEADLINE, async {
        stream.write_all(&out).await?;
        stream.flush().await?;
        stream.finish().await?;
        // The gateway closes when it has read the answer.
        connection.closed().await;
        Ok(())
    })
    .await;
    connection.close(&Goodbye::new(CloseCode::Normal, ""));
    given.unwrap_or(Ok(()))
}

/// One frame of at most the handshake's cap. The caller has the deadline.
async fn read_frame(stream: &mut Stream) -> io::Result<proto::wire::Frame> {
    let mut input = BytesMut::new();
    loop {
        let decoded = Codec::handshake()
            .decode(&mut input)
            .map_err(|e: CodecError| io::Error::other(e))?;
        if let Some(frame) = decoded {
            return Ok(frame);
        }
        if stream.read_buf(&mut input).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}
