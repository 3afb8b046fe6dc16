//! What can go wrong with a call, told apart as the caller has to act on it.

use std::time::Duration;

/// What a failed call means for whoever made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// No runtime answers on the socket: not started, being restarted, or the wrong path.
    Unreachable,
    /// The runtime did not answer within the call's deadline. It may still do what it was asked.
    Late,
    /// What the call names is not there (any more).
    NotFound,
    /// What the call would make is there already.
    Exists,
    /// The runtime does not know the call.
    Unimplemented,
    /// It refused, for a reason that its text tells.
    Refused,
}

/// A call that failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CriError {
    /// The socket.
    #[error("container runtime at {endpoint}: {source}")]
    Unreachable {
        /// Path of the socket.
        endpoint: String,
        /// What connecting to it said.
        source: std::sync::Arc<std::io::Error>,
    },
    /// The connection broke while the call was under way.
    #[error("the connection to the container runtime broke: {0}")]
    Broken(String),
    /// The deadline.
    #[error("{call} did not answer within {} s", .after.as_secs())]
    Late {
        /// Which call.
        call: &'static str,
        /// Its deadline.
        after: Duration,
    },
    /// The runtime's answer, with its own text.
    #[error("{message}")]
    Answered {
        /// Which call.
        call: &'static str,
        /// The kind of refusal.
        why: Why,
        /// The runtime's text.
        message: String,
    },
}

impl CriError {
    /// What it means for the caller.
    pub const fn why(&self) -> Why {
        match self {
            Self::Unreachable { .. } | Self::Broken(_) => Why::Unreachable,
            Self::Late { .. } => Why::Late,
            Self::Answered { why, .. } => *why,
        }
    }

    /// Whether the thing is not there.
    pub fn is_not_found(&self) -> bool {
        self.why() == Why::NotFound
    }

    pub(crate) fn answered(call: &'static str, status: &tonic::Status) -> Self {
        use tonic::Code;
        // The connection's own failures come with a source, whatever their code.
        if std::error::Error::source(status).is_some() {
            return Self::Broken(status.message().to_owned());
        }
        let why = match status.code() {
            Code::NotFound => Why::NotFound,
            Code::AlreadyExists => Why::Exists,
            Code::Unimplemented => Why::Unimplemented,
            Code::Unavailable | Code::Cancelled => return Self::Broken(status.message().to_owned()),
            Code::DeadlineExceeded => Why::Late,
            _ => Why::Refused,
        };
        Self::Answered {
            call,
            why,
            message: status.message().to_owned(),
        }
    }
}
