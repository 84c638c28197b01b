//! Sends one request until it is answered, refused, or out of time.
//!
//! Invariant: once an attempt may have taken effect, the outcome is unknown until an answer arrives. A later attempt
//! that certainly changed nothing does not make it known.

use std::time::Duration;

use async_nats::RequestErrorKind;
use bytes::Bytes;
use holdfast_protocol::RequestId;
use tokio::time::Instant;

use crate::denials::Denials;
use crate::error::Error;

/// The timeout of one attempt; the time that the request waits on purpose is added. A coordinator answers within 5
/// seconds, so one that has not answered is gone, and the next attempt reaches another one.
const ATTEMPT: Duration = Duration::from_secs(6);
/// The pause before the second attempt. It doubles with every further attempt.
const FIRST_PAUSE: Duration = Duration::from_millis(25);
/// The longest pause, unless the reply asks for a longer one.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// The header that marks an error reply of a NATS micro service.
const ERROR_HEADER: &str = "Nats-Service-Error";

/// One request on the wire.
pub(crate) struct Sending<'a> {
    pub(crate) nats: &'a async_nats::Client,
    pub(crate) denials: &'a Denials,
    pub(crate) subject: &'a str,
    pub(crate) body: Bytes,
    pub(crate) request_id: &'a RequestId,
    /// Whether the request changes nothing. Then silence is not an unknown outcome.
    pub(crate) is_read: bool,
    pub(crate) wait: Duration,
}

/// Sends attempts until there is a definite answer or `patience` is over.
pub(crate) async fn until_answered(sending: &Sending<'_>, patience: Duration) -> Result<Bytes, Error> {
    let deadline = Instant::now() + patience;
    let mut unknown = None;
    for attempt in 0.. {
        let left = deadline.saturating_duration_since(Instant::now());
        let error = match sending.once(left).await {
            Ok(reply) => return Ok(reply),
            Err(error) if !error.may_pass() => return Err(error),
            Err(error) => error,
        };
        let pause = pause(attempt, error.contract().retry_after_ms, rand::random_range(0.5..1.0));
        if Instant::now() + pause >= deadline {
            return Err(unknown.unwrap_or(error));
        }
        tracing::debug!(subject = sending.subject, attempt, %error, ?pause, "asking again");
        if matches!(error, Error::Unknown(_)) {
            unknown = Some(error);
        }
        tokio::time::sleep(pause).await;
    }
    unreachable!("the range has no end")
}

impl Sending<'_> {
    async fn once(&self, left: Duration) -> Result<Bytes, Error> {
        let timeout = left.min(ATTEMPT + self.wait);
        let request = async_nats::Request::new().payload(self.body.clone()).timeout(Some(timeout));
        let mut watch = self.denials.watch();
        let answered = tokio::select! {
            biased;
            answered = self.nats.send_request(self.subject.to_owned(), request) => answered,
            denied = watch.of_request(self.subject, self.request_id) => return Err(denied),
        };
        let reply = answered.map_err(|error| {
            let why = error.to_string();
            match error.kind() {
                RequestErrorKind::NoResponders => Error::of_silence(self.subject, self.request_id),
                RequestErrorKind::MaxPayloadExceeded => Error::of_size(&why, self.request_id),
                // Subjects are made of checked tokens, so this is silence or a broken connection.
                RequestErrorKind::TimedOut | RequestErrorKind::Other | RequestErrorKind::InvalidSubject => {
                    Error::of_no_answer(&why, self.is_read, self.request_id)
                }
            }
        })?;
        match reply.headers.as_ref().and_then(|headers| headers.get(ERROR_HEADER)) {
            Some(headline) => Err(Error::of_reply(&reply.payload, headline.as_str(), self.request_id)),
            None => Ok(reply.payload),
        }
    }
}

/// The pause after attempt number `attempt`, from 0. `jitter` is 0.5 to 1, so that clients that failed together do not
/// retry together. The reply's own `retry_after_ms` has priority.
fn pause(attempt: u32, retry_after_ms: Option<u64>, jitter: f64) -> Duration {
    let ours = FIRST_PAUSE.saturating_mul(1 << attempt.min(16)).min(LONGEST_PAUSE).mul_f64(jitter);
    let theirs = Duration::from_millis(retry_after_ms.unwrap_or(0));
    ours.max(theirs.mul_f64(0.5 + jitter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_respect_what_was_asked() {
        assert_eq!(pause(0, None, 1.0), FIRST_PAUSE);
        assert_eq!(pause(2, None, 1.0), FIRST_PAUSE * 4);
        assert_eq!(pause(40, None, 1.0), LONGEST_PAUSE);
        assert_eq!(pause(u32::MAX, None, 0.5), LONGEST_PAUSE / 2);
        assert!(pause(0, Some(300), 0.5) >= Duration::from_millis(300));
        assert!(pause(0, Some(300), 1.0) <= Duration::from_millis(450));
    }
}
