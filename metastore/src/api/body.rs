//! Response bodies. Stored bytes go out as they are: a list is its objects' bytes behind each other, a watch event is the stored object
//! between two constants.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use http_body::{Body, Frame, SizeHint};

use super::budget::Place;
use crate::store::Object;

/// A list goes out in pieces of about this size, so that a long one is never in memory twice.
const PIECE: usize = 64 * 1024;

/// The body of every answer of the API.
pub struct ApiBody(Inner);

enum Inner {
    Full(Bytes),
    List(List),
    Stream(Pin<Box<dyn Stream<Item = Bytes> + Send>>),
}

struct List {
    head: Bytes,
    items: std::iter::Peekable<std::vec::IntoIter<Object>>,
    first: bool,
    left: u64,
    _place: Place,
}

const LIST_END: &[u8] = b"]}\n";

impl std::fmt::Debug for ApiBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match &self.0 {
            Inner::Full(_) => "ApiBody(full)",
            Inner::List(_) => "ApiBody(list)",
            Inner::Stream(_) => "ApiBody(stream)",
        })
    }
}

impl ApiBody {
    /// These bytes.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        Self(Inner::Full(bytes.into()))
    }

    /// `head`, the objects with commas between, and the end of a list; `place` is held until it is sent.
    pub(crate) fn list(head: Bytes, items: Vec<Object>, place: Place) -> Self {
        let bodies: usize = items.iter().map(|o| o.json.len()).sum();
        let left = head.len() + bodies + items.len().saturating_sub(1) + LIST_END.len();
        Self(Inner::List(List {
            head,
            items: items.into_iter().peekable(),
            first: true,
            left: left as u64,
            _place: place,
        }))
    }

    /// Pieces as they come; the length is unknown.
    pub fn stream(pieces: impl Stream<Item = Bytes> + Send + 'static) -> Self {
        Self(Inner::Stream(Box::pin(pieces)))
    }
}

impl List {
    fn piece(&mut self) -> Option<Bytes> {
        if self.left == 0 {
            return None;
        }
        let mut out = BytesMut::with_capacity(PIECE.min(usize::try_from(self.left).unwrap_or(PIECE)) + 1024);
        out.extend_from_slice(&std::mem::take(&mut self.head));
        while out.len() < PIECE {
            let Some(object) = self.items.next() else {
                out.extend_from_slice(LIST_END);
                break;
            };
            if !std::mem::take(&mut self.first) {
                out.extend_from_slice(b",");
            }
            out.extend_from_slice(&object.json);
        }
        self.left = self.left.saturating_sub(out.len() as u64);
        Some(out.freeze())
    }
}

impl Body for ApiBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = match &mut self.0 {
            Inner::Full(bytes) if bytes.is_empty() => None,
            Inner::Full(bytes) => Some(std::mem::take(bytes)),
            Inner::List(list) => list.piece(),
            Inner::Stream(stream) => match stream.as_mut().poll_next(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(piece) => piece,
            },
        };
        Poll::Ready(piece.map(|p| Ok(Frame::data(p))))
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Inner::Full(bytes) => bytes.is_empty(),
            Inner::List(list) => list.left == 0,
            Inner::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Inner::List(list) => SizeHint::with_exact(list.left),
            Inner::Stream(_) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::ObjectKey;
    use http_body_util::BodyExt as _;
    use std::sync::Arc;
    use tokio::sync::Semaphore;

    #[tokio::test]
    async fn a_list_has_the_length_it_says_whatever_its_size() {
        for count in [0_usize, 1, 2, 500] {
            let items: Vec<Object> = (0..count)
                .map(|i| Object {
                    key: ObjectKey::new("", "x", "", i.to_string()),
                    revision: 1,
                    json: format!("{{\"n\":{i},\"pad\":\"{}\"}}", "p".repeat(400)).into(),
                })
                .collect();
            let place = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
            let body = ApiBody::list(Bytes::from_static(b"{\"items\":["), items, place);
            let said = body.size_hint().exact().unwrap();
            let all = body.collect().await.unwrap().to_bytes();
            assert_eq!(all.len() as u64, said);
            let value: serde_json::Value = serde_json::from_slice(&all).unwrap();
            assert_eq!(value["items"].as_array().unwrap().len(), count);
        }
    }
}
