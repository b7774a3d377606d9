//! A panic in a stage ends its own call, with a record, and no other.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::Poll;

use crate::error::{Code, Error};

/// What comes of the stages, or `internal` where one panics.
pub(super) async fn survive<T>(mut stages: Pin<&mut impl Future<Output = Result<T, Error>>>) -> Result<T, Error> {
    poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| stages.as_mut().poll(context))) {
        Ok(poll) => poll,
        Err(_) => Poll::Ready(Err(Error::new(Code::Internal, "the gateway failed on this call"))),
    })
    .await
}
