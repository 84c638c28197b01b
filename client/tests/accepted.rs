//! Whatever this client asks goes to a subject that coordinators know, and the contract's parser takes its body for
//! what was asked. How each type is written and read is tested with the golden files of `protocol`.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use holdfast_client::protocol::request::{
    Acquire, Close, DocGet, Drain, Edit, Empty, List, Load, Move, Open, Reclaim, Request, RotateSecret, Save,
    ShowToken, Takeover, Undo, Unlock, parse,
};
use holdfast_client::protocol::subject::{Root, Verb};
use holdfast_client::protocol::{Limits, Namespace, RequestId, SessionId, Token, WorkerName};
use holdfast_client::{Call, Client};

/// A client whose server is never asked.
fn client() -> Client {
    let server = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let options = async_nats::ConnectOptions::new().retry_on_initial_connect();
    let nats = server.block_on(options.connect("127.0.0.1:1")).unwrap();
    Client::new(nats).acting_as("ann").in_namespace(Namespace::parse("team").unwrap())
}

#[derive(Default)]
struct Asked(BTreeMap<&'static str, String>);

impl Asked {
    /// The parser takes the body of `call` for `request`, which the client signed.
    fn is<T, R: Request + PartialEq + std::fmt::Debug>(&mut self, call: Call<T>, request: R) {
        let limits = Limits::default();
        let verb = Root::default().parse_request(call.subject()).unwrap().verb();
        let sent: R = parse(&call.body(), &limits).unwrap();
        assert_eq!(sent.actor(), Some("ann"), "{verb}");
        let request_id = sent.request_id().unwrap().to_owned();
        assert_eq!(call.body(), call.body(), "a retry sends the same bytes");
        let mut expected = serde_json::to_value(&request).unwrap();
        (expected["request_id"], expected["actor"]) = (request_id.as_str().into(), "ann".into());
        assert!(sent == parse(expected.to_string().as_bytes(), &limits).unwrap(), "{verb}: {expected}");
        let known = self.0.insert(verb.as_str(), request_id);
        assert!(known.is_none(), "{verb} was asked already");
    }
}

#[test]
fn every_verb_is_asked_with_the_request_that_was_given() {
    let client = client();
    let session = client.session(SessionId::parse("s1").unwrap());
    let (worker, token) = (WorkerName::parse("w1").unwrap(), Token::from("t1"));
    let shown = || ShowToken { token: token.clone(), ..ShowToken::default() };
    let why = |reason: &str| Drain { reason: reason.into(), ..Drain::default() };
    let mut asked = Asked::default();
    asked.is(client.open(Open::file("a.md")), Open::file("a.md"));
    asked.is(client.list(List::default()), List::default());
    asked.is(
        client.reclaim(Reclaim { max_idle_ms: 5, ..Reclaim::default() }),
        Reclaim { max_idle_ms: 5, ..Reclaim::default() },
    );
    asked.is(client.workers(), Empty::default());
    asked.is(client.drain(&worker, "kernel"), why("kernel"));
    asked.is(client.undrain(&worker, "done"), why("done"));
    let rotate = RotateSecret { reason: "leaked".into(), ..RotateSecret::default() };
    asked.is(client.rotate_secret(rotate.clone()), rotate);
    asked.is(session.get(), Empty::default());
    asked.is(session.touch(), Empty::default());
    asked.is(session.preview(), Empty::default());
    let close = Close { token: Some(token.clone()), discard: Some(true), ..Close::default() };
    asked.is(session.close(close.clone()), close);
    asked.is(session.acquire(Acquire::by("a").rotating(&token)), Acquire::by("a").rotating(&token));
    asked.is(session.validate(&token), shown());
    asked.is(session.renew(&token), shown());
    asked.is(session.release(&token), shown());
    asked.is(session.document(DocGet::linearizable()), DocGet::linearizable());
    asked.is(session.edit(Edit::body("x").expecting(7)), Edit::body("x").expecting(7));
    asked.is(session.load(Load::default()), Load::default());
    asked.is(session.save(Save::default()), Save::default());
    let undo = Undo { expected_revision: Some(3), ..Undo::default() };
    asked.is(session.undo(undo.clone()), undo);
    asked.is(session.redo(Undo::default()), Undo::default());
    let takeover = Takeover { owner: "ops".into(), reason: "stuck".into(), ..Takeover::default() };
    asked.is(session.take_over(takeover.clone()), takeover);
    let unlock = Unlock { reason: "stuck".into(), expected_lock_revision: Some(3), ..Unlock::default() };
    asked.is(session.unlock(unlock.clone()), unlock);
    let to = Move { reason: "hot".into(), worker: Some(worker), ..Move::default() };
    asked.is(session.move_away(to.clone()), to);
    assert!(Verb::ALL.iter().all(|verb| asked.0.contains_key(verb.as_str())), "a verb that no method asks");
    let ids: BTreeSet<&String> = asked.0.values().collect();
    assert_eq!(ids.len(), Verb::ALL.len(), "every request has an id of its own");
}

#[test]
fn only_a_request_that_waits_on_purpose_takes_longer_than_its_callers_patience() {
    let (client, patience) = (client().patience(Duration::from_secs(2)), Duration::from_secs(2));
    let session = client.session(SessionId::parse("s1").unwrap());
    assert_eq!(session.move_away(Move::default()).may_take(), patience);
    assert_eq!(client.reclaim(Reclaim::default()).may_take(), patience);
    let waiting = || session.acquire(Acquire::by("a").wait(Duration::from_secs(3)));
    assert_eq!(waiting().may_take(), Duration::from_secs(5));
    assert_eq!(waiting().within(Duration::from_secs(1)).may_take(), Duration::from_secs(4));
}

#[test]
fn a_request_may_name_itself_and_its_actor() {
    let session = client().session(SessionId::parse("s1").unwrap());
    let own = Edit { request_id: Some("mine".into()), actor: Some("bob".into()), ..Edit::body("x") };
    let sent: Edit = parse(&session.edit(own.clone()).body(), &Limits::default()).unwrap();
    assert_eq!(sent, own);
    let renamed = session.edit(own).request_id(RequestId::parse("r2").unwrap()).actor("eve");
    let sent: Edit = parse(&renamed.body(), &Limits::default()).unwrap();
    assert_eq!((sent.request_id(), sent.actor()), (Some("r2"), Some("eve")));
    assert!(!format!("{renamed:?}").contains("eve"), "a body does not belong into a log line: {renamed:?}");
}
