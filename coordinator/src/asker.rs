//! Who sent a request: where the answer goes, which client connection it came from, and who that is as nats-server
//! tells it.
//!
//! Invariant: the header `Nats-Request-Info` counts only if the configuration says that it can be trusted. Without
//! that, whoever may send a request could write any name into it.

use async_nats::header::NATS_STREAM;
use async_nats::{HeaderMap, Message, Subject};
use holdfast_protocol::internal::REPLY_HEADER;
use holdfast_protocol::requester::{REQUEST_INFO_HEADER, Requester, header_of};
use holdfast_protocol::subject::{Root, Verb};

/// The client connection of a reply subject: all but its last token. Clients that make a new inbox like `_INBOX.x` for
/// each request cannot be told apart, and count as one client.
fn client_of(reply: &str) -> &str {
    reply.rsplit_once('.').map_or("", |(inbox, _)| inbox)
}

/// Who sent a request.
#[derive(Clone, Debug)]
pub(crate) struct Asker {
    /// The subject of the reply.
    pub(crate) reply: Subject,
    /// `ACCOUNT/user`, if nats-server tells it and is trusted to.
    pub(crate) actor_proven: Option<String>,
    /// The connection, if nats-server tells it and is trusted to. Over a service import nats-server makes the reply
    /// subject, so all clients of one server look like one connection there.
    connection: Option<String>,
}

impl Asker {
    /// An asker of whom only the reply subject is known.
    pub(crate) fn of(reply: Subject) -> Self {
        Self { reply, actor_proven: None, connection: None }
    }

    /// The asker of `message`, as its header tells it.
    pub(crate) fn told(message: &Message, reply: Subject) -> Self {
        let header = message.headers.as_ref().and_then(|headers| headers.get_last(REQUEST_INFO_HEADER));
        let Requester { actor, connection } = header.map(|info| Requester::read(info.as_str())).unwrap_or_default();
        Self { reply, actor_proven: actor, connection }
    }

    /// The client connection, by which loads are counted.
    pub(crate) fn client(&self) -> &str {
        self.connection.as_deref().unwrap_or_else(|| client_of(&self.reply))
    }

    /// Whether the request came over a service import, where the server is the responder.
    pub(crate) fn is_imported(&self) -> bool {
        self.reply.starts_with("_R_.")
    }
}

/// The request that another coordinator passed on, as if its client had sent it to this one. `None` if it is not one.
pub(crate) fn passed_on(root: &Root, message: &Message) -> Option<Message> {
    let key = root.parse_waiter(&message.subject)?;
    let headers = message.headers.as_ref()?;
    // An answer that somebody had nats-server send here is no request of a coordinator.
    let reply = headers.get_last(REPLY_HEADER).filter(|_| headers.get(NATS_STREAM).is_none())?.as_str();
    let subject = root.session_request(Verb::LockAcquire, &key).into();
    Some(Message { subject, reply: Some(reply.into()), ..message.clone() })
}

/// The header for a request that is passed on in the place of `actor`, so that the other coordinator knows the actor
/// too.
pub(crate) fn told_again(actor: Option<&str>) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    headers.insert(REQUEST_INFO_HEADER, header_of(actor?)?);
    Some(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(info: &str) -> Message {
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST_INFO_HEADER, info);
        Message {
            subject: "hf.default.session.open".into(),
            reply: None,
            payload: "".into(),
            headers: Some(headers),
            status: None,
            description: None,
            length: 0,
        }
    }

    #[test]
    fn a_connection_is_told_by_its_inbox() {
        assert_eq!(client_of("_INBOX.abc.1"), "_INBOX.abc");
        assert_eq!(client_of("_INBOX.abc.def.2"), "_INBOX.abc.def");
        assert_eq!(client_of("_INBOX.once"), "_INBOX", "those with an inbox per request are one");
        assert_eq!(client_of("reply"), "");
    }

    #[test]
    fn connections_behind_one_import_are_told_apart_by_the_server() {
        let told = |id: u64| {
            let info = format!(r#"{{"acc":"APP","user":"client","server":"n1","id":{id}}}"#);
            Asker::told(&message(&info), format!("_R_.abc.{id}").into())
        };
        assert_eq!(told(7).actor_proven.as_deref(), Some("APP/client"));
        assert_ne!(told(7).client(), told(8).client());
        assert_eq!(Asker::of("_R_.abc.7".into()).client(), Asker::of("_R_.abc.8".into()).client());
    }

    #[test]
    fn a_request_that_is_passed_on_keeps_its_actor() {
        let mut passed = message("");
        passed.headers = told_again(Some("OPS/ops"));
        assert_eq!(Asker::told(&passed, "_INBOX.x".into()).actor_proven.as_deref(), Some("OPS/ops"));
        assert!(told_again(None).is_none());
    }
}
