//! Answers that hold the slots of their request until their last byte.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes, HttpBody};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use http_body::{Frame, SizeHint};
use serde::Serialize;

use super::plan;
use crate::engine::Ticket;
use crate::error::ApiError;

/// Bytes that a body hands on at a time: what a connection buffers is small beside a large answer.
const PIECE: usize = 64 << 10;

/// The answer that `make` gives as JSON. It is made and written on a thread for planning, because it may be large.
pub(crate) async fn json<T: Serialize>(
    ticket: Ticket,
    make: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<Response, ApiError> {
    let write = move || {
        serde_json::to_vec(&make()?).map_err(|error| {
            tracing::error!(%error, "an answer could not be written");
            ApiError::internal()
        })
    };
    let bytes = plan(&ticket, write).await?;
    Ok(hold(ticket, ([(header::CONTENT_TYPE, "application/json")], bytes).into_response()))
}

/// The same answer, whose body holds the slots of the ticket until it has handed on its last byte or is dropped.
pub(crate) fn hold(ticket: Ticket, response: Response) -> Response {
    let permit = ticket.into_permit();
    response.map(|body| Body::new(Held { body, rest: Bytes::new(), permit: Some(permit) }))
}

/// A body with what it holds.
struct Held<P> {
    body: Body,
    /// Of the last frame.
    rest: Bytes,
    permit: Option<P>,
}

impl<P: Unpin> HttpBody for Held<P> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                end => {
                    self.permit = None;
                    return Poll::Ready(end);
                }
            }
        }
        let piece = self.rest.len().min(PIECE);
        let piece = self.rest.split_to(piece);
        // First, so that who reads the last byte finds the slots free.
        if self.is_end_stream() {
            self.permit = None;
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.len() as u64;
        let of_body = self.body.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(of_body.lower() + rest);
        if let Some(upper) = of_body.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::FutureExt;
    use http_body_util::BodyExt;

    use super::*;

    #[test]
    fn a_body_holds_its_permit_until_the_last_piece_and_no_longer() {
        let permit = Arc::new(());
        let bytes: Vec<u8> = (0..PIECE * 3 + 7).map(|i| (i % 251) as u8).collect();
        let mut body = Held { body: Body::from(bytes.clone()), rest: Bytes::new(), permit: Some(permit.clone()) };
        let mut read = Vec::new();
        while read.len() < bytes.len() {
            assert_eq!(Arc::strong_count(&permit), 2, "held after {} bytes", read.len());
            assert_eq!(body.size_hint().exact(), Some((bytes.len() - read.len()) as u64));
            let frame = body.frame().now_or_never().flatten().and_then(Result::ok).expect("a frame");
            let data = frame.into_data().expect("data");
            assert!(data.len() <= PIECE);
            read.extend_from_slice(&data);
        }
        assert_eq!(Arc::strong_count(&permit), 1, "who has the last byte finds the slot free");
        assert!(body.is_end_stream() && read == bytes);
    }

    #[test]
    fn a_body_that_is_dropped_gives_its_permit_back() {
        let permit = Arc::new(());
        let body = Held { body: Body::from("text"), rest: Bytes::new(), permit: Some(permit.clone()) };
        drop(body);
        assert_eq!(Arc::strong_count(&permit), 1);
    }
}
