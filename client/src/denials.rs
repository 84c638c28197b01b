//! What NATS does not let this connection do: permissions violations, which arrive apart from the request that they are
//! about.
//!
//! Invariant: a denied request ends at once with `permission_denied`; without this it would end as a timeout with an
//! unknown outcome. NATS tells a violation by its subject, so all requests of the connection that are under way on that
//! subject end.

use std::sync::{Arc, Mutex, PoisonError};

use holdfast_protocol::{Error as Contract, Reason, RequestId};
use tokio::sync::broadcast;

use crate::error::Error;

/// How many violations a request may be behind.
const KEPT: usize = 64;

/// What one connection was denied. Cheap to clone.
///
/// Give [`Denials::note`] every error that the server reports, by the event callback of the connection.
#[derive(Clone, Debug)]
pub struct Denials {
    sender: broadcast::Sender<Denial>,
    /// The reply subjects that this connection may not subscribe to. NATS says so once, at the first request.
    inbox: Arc<Mutex<Option<String>>>,
}

/// One violation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Denial {
    /// Publishing to this subject.
    Publish(String),
    /// Subscribing to this subject.
    Subscribe(String),
}

impl Default for Denials {
    fn default() -> Self {
        Self { sender: broadcast::Sender::new(KEPT), inbox: Arc::default() }
    }
}

impl Denials {
    /// Takes an error of the server as async-nats shows it; other errors than permissions violations are ignored.
    pub fn note(&self, error: &str) {
        let Some(denial) = Denial::parse(error) else { return };
        if let Denial::Subscribe(subject) = &denial
            && subject.starts_with("_INBOX")
        {
            *self.inbox.lock().unwrap_or_else(PoisonError::into_inner) = Some(subject.clone());
        }
        // Nobody may wait just now.
        self.sender.send(denial).ok();
    }

    /// Waits until NATS denies this connection anything: `forbidden` / `permission_denied`, for a caller whose requests
    /// all are necessary. Poll it before the first request is sent.
    pub async fn any(&self) -> Error {
        let mut watch = self.watch();
        let (what, subject) = match watch.next().await {
            Denial::Publish(subject) => ("send", subject),
            Denial::Subscribe(subject) => ("subscribe to", subject),
        };
        denied(format!("NATS does not let this user {what} {subject}"), &subject).into()
    }

    /// Starts to watch. Call it before the request is sent.
    pub(crate) fn watch(&self) -> Watch {
        Watch { denials: self.clone(), receiver: self.sender.subscribe() }
    }
}

/// Sees the violations since its beginning.
pub(crate) struct Watch {
    denials: Denials,
    receiver: broadcast::Receiver<Denial>,
}

impl Watch {
    /// Waits until publishing to `subject`, or receiving any reply, is denied.
    pub(crate) async fn of_request(&mut self, subject: &str, request_id: &RequestId) -> Error {
        loop {
            if let Some(inbox) = self.denials.inbox.lock().unwrap_or_else(PoisonError::into_inner).clone() {
                let message =
                    format!("NATS does not let this user receive replies on {inbox}: set the inbox prefix of its role");
                return denied(message, &inbox).for_request(request_id).into();
            }
            if matches!(self.next().await, Denial::Publish(denied) if denied == subject) {
                let message = format!("NATS does not let this user send {subject}");
                return denied(message, subject).for_request(request_id).into();
            }
        }
    }

    /// Waits until subscribing to `subject` is denied.
    pub(crate) async fn of_subscription(&mut self, subject: &str) -> Error {
        loop {
            if matches!(self.next().await, Denial::Subscribe(denied) if denied == subject) {
                return denied(format!("NATS does not let this user subscribe to {subject}"), subject).into();
            }
        }
    }

    async fn next(&mut self) -> Denial {
        loop {
            match self.receiver.recv().await {
                Ok(denial) => return denial,
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                // The sender lives as long as `self.denials`.
                Err(broadcast::error::RecvError::Closed) => return std::future::pending().await,
            }
        }
    }
}

fn denied(message: String, subject: &str) -> Contract {
    Contract::new(Reason::PermissionDenied, message).detail("subject", subject)
}

impl Denial {
    /// Parses nats-server's `Permissions Violation for Publish to "a.b"` and
    /// `Permissions Violation for Subscription to "a.b" using queue "q"`. async-nats shows errors in lower case, and
    /// with quotes of its own.
    fn parse(error: &str) -> Option<Self> {
        let lower = error.to_ascii_lowercase();
        let begin = lower.find("permissions violation for ")? + "permissions violation for ".len();
        let (what, rest) = lower[begin..].split_once(" to \"")?;
        // Subjects keep their case.
        let from = begin + what.len() + " to \"".len();
        let subject = error[from..from + rest.find('"')?].to_owned();
        match what {
            "publish" => Some(Self::Publish(subject)),
            "subscription" => Some(Self::Subscribe(subject)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn violations_are_read_as_the_server_words_them() {
        let publish = |subject: &str| Some(Denial::Publish(subject.to_owned()));
        let subscribe = |subject: &str| Some(Denial::Subscribe(subject.to_owned()));
        let cases = [
            (
                r#"Permissions Violation for Publish to "hf.default.admin.takeover.S1""#,
                publish("hf.default.admin.takeover.S1"),
            ),
            (r#"server error: permissions violation for publish to "a.b""#, publish("a.b")),
            (r#"Permissions Violation for Subscription to "_INBOX.x.*""#, subscribe("_INBOX.x.*")),
            (r#"Permissions Violation for Subscription to "a.>" using queue "q""#, subscribe("a.>")),
            ("authorization violation", None),
            ("Permissions Violation for Publish to", None),
            ("", None),
        ];
        for (text, denial) in cases {
            assert_eq!(Denial::parse(text), denial, "{text}");
        }
    }

    #[tokio::test]
    async fn a_denied_inbox_ends_later_requests_too() {
        let denials = Denials::default();
        denials.note(r#"Permissions Violation for Subscription to "_INBOX.x.*""#);
        let error = denials.watch().of_request("a.b", &RequestId::parse("r1").unwrap()).await;
        assert_eq!(error.contract().reason, Reason::PermissionDenied);
        assert!(error.contract().message.contains("_INBOX.x.*"), "{error}");
    }
}
