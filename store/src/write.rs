//! The only place that publishes to JetStream: one conditional message and its outcome.
//!
//! Invariant: an unknown outcome is never reported as a known one. A copy that was not acknowledged is sent again with
//! the same `Nats-Msg-Id`, so at most one copy takes effect.
//!
//! Conditions name literal subjects only: with a wildcard filter an R3 stream accepts stale writes, because it looks up
//! writes in flight by the exact string.

use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, HeaderMap, RequestErrorKind};
use bytes::Bytes;
use holdfast_protocol::Revision;
use serde::Deserialize;
use tokio::time::Instant;
use tracing::{Instrument, Span};

use crate::{StoreError, chance};

/// How long to wait for the acknowledgement of one copy before the next is sent.
const COPY_TIMEOUT: Duration = Duration::from_millis(1_500);
/// How long a write is attempted in total.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// The server's error codes that matter here (server/errors.json of nats-server).
const WRONG_LAST_SEQUENCE: u64 = 10071;
/// Another conditional write is in flight on the subject, or the leader is catching up.
const WRONG_LAST_SEQUENCE_IN_FLIGHT: u64 = 10164;
/// A copy with the same id is in flight.
const DUPLICATE_IN_FLIGHT: u64 = 10158;

/// One conditional message.
pub(crate) struct Write {
    pub(crate) subject: String,
    pub(crate) headers: HeaderMap,
    pub(crate) payload: Bytes,
    /// The revision that the condition names, for the error.
    pub(crate) expected: Revision,
}

/// The outcome of a write.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It is stored at this sequence.
    Stored(u64),
    /// The condition does not hold, and no copy took effect.
    Mismatch,
    /// The condition does not hold, and an earlier copy may be the reason.
    MismatchAfterUnknown,
}

#[derive(Deserialize)]
struct Ack {
    #[serde(default)]
    seq: u64,
    error: Option<AckError>,
}

#[derive(Deserialize)]
struct AckError {
    code: u64,
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

/// The outcome of one copy.
enum CopyOutcome {
    Stored(u64),
    Mismatch,
    /// This copy had no effect; send it again.
    Again(String),
    /// This copy may have had an effect.
    Unknown(String),
    /// No copy will ever be accepted.
    Refused(String),
}

/// What is known of a write after several copies.
#[derive(Default)]
struct Copies {
    /// Why the outcome of one copy is unknown, if one is.
    unknown: Option<String>,
}

/// What to do after one more copy.
enum Then {
    /// Stop: this is the outcome of the write.
    Is(Result<Outcome, StoreError>),
    /// Send another copy, for this reason.
    Again(String),
}

impl Copies {
    /// `Refused` and `Unavailable` promise that nothing was written, so they are outcomes only while no copy is
    /// unknown.
    fn take(&mut self, answer: CopyOutcome) -> Then {
        let is_doubtful = self.unknown.is_some();
        Then::Is(match answer {
            CopyOutcome::Stored(sequence) => Ok(Outcome::Stored(sequence)),
            CopyOutcome::Mismatch if is_doubtful => Ok(Outcome::MismatchAfterUnknown),
            CopyOutcome::Mismatch => Ok(Outcome::Mismatch),
            CopyOutcome::Refused(why) if is_doubtful => {
                Err(StoreError::Unknown(format!("a copy was not answered, and a later one was refused: {why}")))
            }
            CopyOutcome::Refused(why) => Err(StoreError::Refused(why)),
            CopyOutcome::Unknown(why) => {
                self.unknown = Some(why.clone());
                return Then::Again(why);
            }
            CopyOutcome::Again(why) => return Then::Again(why),
        })
    }

    /// The error when no more copies are sent, after the last one failed because of `why`.
    fn end(self, why: String) -> StoreError {
        match self.unknown {
            Some(why) => StoreError::Unknown(why),
            None => StoreError::Unavailable(why),
        }
    }
}

/// Publishes `write`, with more copies while that can help.
pub(crate) async fn publish(client: &Client, write: &Write) -> Result<Outcome, StoreError> {
    publish_copies(client, write).instrument(span_of(write)).await
}

/// The span of a write for a request; there is none for writes that no request caused.
fn span_of(write: &Write) -> Span {
    match Span::current().is_disabled() {
        true => Span::none(),
        false => tracing::info_span!("write", subject = write.subject, expected = write.expected.0),
    }
}

async fn publish_copies(client: &Client, write: &Write) -> Result<Outcome, StoreError> {
    let deadline = Instant::now() + WRITE_TIMEOUT;
    let mut copies = Copies::default();
    let mut pause = Duration::from_millis(1);
    loop {
        let why = match copies.take(send(client, write).await) {
            Then::Is(outcome) => return outcome,
            Then::Again(why) => why,
        };
        if Instant::now() + pause >= deadline {
            return Err(copies.end(why));
        }
        tokio::time::sleep(pause.mul_f64(chance::share(0.5..1.5))).await;
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

async fn send(client: &Client, write: &Write) -> CopyOutcome {
    // A message that is queued while disconnected would be sent later, after its caller has given up.
    if client.connection_state() != State::Connected {
        return CopyOutcome::Again("not connected to NATS".to_owned());
    }
    let request = async_nats::Request::new()
        .headers(write.headers.clone())
        .payload(write.payload.clone())
        .timeout(Some(COPY_TIMEOUT));
    match client.send_request(write.subject.clone(), request).await {
        Ok(message) => read_ack(&message.payload),
        Err(error) => match error.kind() {
            RequestErrorKind::NoResponders => {
                CopyOutcome::Again("no stream takes the subject, or it has no leader".to_owned())
            }
            RequestErrorKind::InvalidSubject | RequestErrorKind::MaxPayloadExceeded => {
                CopyOutcome::Refused(error.to_string())
            }
            RequestErrorKind::TimedOut | RequestErrorKind::Other => CopyOutcome::Unknown(error.to_string()),
        },
    }
}

fn read_ack(payload: &[u8]) -> CopyOutcome {
    match serde_json::from_slice::<Ack>(payload) {
        Ok(Ack { error: None, seq }) if seq > 0 => CopyOutcome::Stored(seq),
        Ok(Ack { error: Some(error), .. }) => match (error.err_code, error.code) {
            (WRONG_LAST_SEQUENCE, _) => CopyOutcome::Mismatch,
            (WRONG_LAST_SEQUENCE_IN_FLIGHT | DUPLICATE_IN_FLIGHT, _) | (_, 503 | 429) => {
                CopyOutcome::Again(error.description)
            }
            _ => CopyOutcome::Refused(error.description),
        },
        Ok(_) => CopyOutcome::Unknown("the acknowledgement has no sequence".to_owned()),
        Err(error) => CopyOutcome::Unknown(format!("the acknowledgement does not parse: {error}")),
    }
}

impl Write {
    /// The error for a certain mismatch.
    pub(crate) fn moved(&self) -> StoreError {
        StoreError::Moved { expected: self.expected }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The outcome of a write whose copies have these outcomes, one after the other.
    fn outcome(answers: Vec<CopyOutcome>) -> Result<Outcome, StoreError> {
        let mut copies = Copies::default();
        for answer in answers {
            if let Then::Is(outcome) = copies.take(answer) {
                return outcome;
            }
        }
        Err(copies.end("no more copies".to_owned()))
    }

    #[test]
    fn once_a_copy_is_unknown_no_later_answer_says_that_nothing_was_written() {
        let unknown = || CopyOutcome::Unknown("no answer".to_owned());
        let refused = || CopyOutcome::Refused("maximum payload exceeded".to_owned());
        let again = || CopyOutcome::Again("in flight".to_owned());
        assert!(matches!(outcome(vec![refused()]), Err(StoreError::Refused(_))));
        assert!(matches!(outcome(vec![again(), refused()]), Err(StoreError::Refused(_))));
        assert!(matches!(outcome(vec![again()]), Err(StoreError::Unavailable(_))));
        assert!(matches!(outcome(vec![unknown(), refused()]), Err(StoreError::Unknown(_))));
        assert!(matches!(outcome(vec![unknown(), again(), refused()]), Err(StoreError::Unknown(_))));
        assert!(matches!(outcome(vec![unknown(), again()]), Err(StoreError::Unknown(_))));
        assert!(matches!(outcome(vec![CopyOutcome::Mismatch]), Ok(Outcome::Mismatch)));
        assert!(matches!(outcome(vec![unknown(), CopyOutcome::Mismatch]), Ok(Outcome::MismatchAfterUnknown)));
        assert!(matches!(outcome(vec![unknown(), CopyOutcome::Stored(7)]), Ok(Outcome::Stored(7))));
    }

    fn answer(error: &str) -> &'static str {
        match read_ack(error.as_bytes()) {
            CopyOutcome::Stored(_) => "stored",
            CopyOutcome::Mismatch => "mismatch",
            CopyOutcome::Again(_) => "again",
            CopyOutcome::Unknown(_) => "unknown",
            CopyOutcome::Refused(_) => "refused",
        }
    }

    #[test]
    fn each_answer_of_the_server_is_told_apart() {
        assert_eq!(answer(r#"{"stream":"S","seq":7}"#), "stored");
        assert_eq!(answer(r#"{"stream":"S","seq":7,"duplicate":true}"#), "stored");
        assert_eq!(
            answer(r#"{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 4"},"seq":0}"#),
            "mismatch"
        );
        assert_eq!(answer(r#"{"error":{"code":400,"err_code":10164,"description":"in flight"},"seq":0}"#), "again");
        assert_eq!(answer(r#"{"error":{"code":409,"err_code":10158,"description":"duplicate"},"seq":0}"#), "again");
        assert_eq!(
            answer(r#"{"error":{"code":503,"err_code":10008,"description":"temporarily unavailable"},"seq":0}"#),
            "again"
        );
        assert_eq!(answer(r#"{"error":{"code":429,"err_code":10167,"description":"too many"},"seq":0}"#), "again");
        assert_eq!(
            answer(r#"{"error":{"code":400,"err_code":10054,"description":"message size exceeds maximum"},"seq":0}"#),
            "refused"
        );
        assert_eq!(answer("nonsense"), "unknown");
        assert_eq!(answer("{}"), "unknown");
    }
}
