//! Whatever this client can ask, the contract's parser accepts, with every member where it belongs.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::time::Duration;

use holdfast_client::admin::{Drain, ListWorkers, Move, Reclaim, Takeover, Undrain, Unlock};
use holdfast_client::document::{Load, Redo, Save, Undo};
use holdfast_client::lock::{Release, Renew, Validate};
use holdfast_client::protocol::document::Splice;
use holdfast_client::protocol::record::{LockMode, OnIdle, State};
use holdfast_client::protocol::request::{self, Consistency, Mode, Request, parse};
use holdfast_client::protocol::{Limits, SessionId, WorkerName};
use holdfast_client::session::{Close, Config, List, Touch};
use holdfast_client::{Acquire, Ask, Edit, Open, Token, document, session};

fn accepted<R: Request>(ask: &impl Ask) -> R {
    let mut body = serde_json::to_value(ask).unwrap();
    body["request_id"] = "r1".into();
    body["actor"] = "ann".into();
    let request: R = parse(body.to_string().as_bytes(), &Limits::default()).unwrap();
    assert_eq!((request.request_id(), request.actor()), (Some("r1"), Some("ann")));
    request
}

fn token() -> Token {
    Token::new("t1")
}

#[test]
fn opening_is_accepted() {
    accepted::<request::Open>(&Open::fresh());
    let config = Config { idle_timeout_ms: Some(5_000), on_idle: Some(OnIdle::Close), lock: Some(LockMode::Required) };
    let open = Open::file("a.md").workspace("w").mode(Mode::Create).config(config).body("x").fields(Default::default());
    let open: request::Open = accepted(&open);
    assert_eq!(open.mode, Some(Mode::Create));
    assert_eq!(open.config.unwrap().lock, Some(LockMode::Required));
    assert_eq!(open.content.unwrap().body.as_deref(), Some("x"));
    for mode in [Mode::Ensure, Mode::Create, Mode::Attach] {
        let id = SessionId::parse("s1").unwrap();
        assert_eq!(accepted::<request::Open>(&Open::id(&id).mode(mode)).mode, Some(mode));
    }
}

#[test]
fn the_rest_of_a_session_is_accepted() {
    accepted::<request::Empty>(&session::Get {});
    accepted::<request::Empty>(&Touch {});
    let close: request::Close = accepted(&Close::default().token(&token()).discarding());
    assert_eq!((close.token.as_deref(), close.discard), (Some("t1"), Some(true)));
    let worker = WorkerName::parse("w1").ok();
    let list = List { limit: Some(10), after: Some("s1".into()), state: Some(State::Passive), worker };
    assert_eq!(accepted::<request::List>(&list).state, Some(State::Passive));
}

#[test]
fn only_a_request_that_waits_on_purpose_takes_longer_than_its_callers_patience() {
    let other = WorkerName::parse("w2").unwrap();
    let moves = [Move::because("r").may_take(), Move::because("r").to(other).may_take()];
    assert_eq!(moves, [Duration::ZERO; 2]);
    assert_eq!(Reclaim { max_idle_ms: 0 }.may_take(), Duration::ZERO);
    assert_eq!(Drain { reason: String::new() }.may_take(), Duration::ZERO);
    assert_eq!(Acquire::by("a").wait(Duration::from_secs(3)).may_take(), Duration::from_secs(3));
}

#[test]
fn locks_are_accepted() {
    let acquire = Acquire::by("a").ttl(Duration::from_secs(2)).wait(Duration::from_secs(1)).rotating(&token());
    assert_eq!(acquire.may_take(), Duration::from_secs(1));
    let acquire: request::Acquire = accepted(&acquire);
    assert_eq!((acquire.ttl_ms, acquire.wait_ms, acquire.rotate), (Some(2_000), Some(1_000), Some(true)));
    assert_eq!(acquire.expected_token.as_deref(), Some("t1"));
    accepted::<request::ShowToken>(&Validate { token: token() });
    accepted::<request::ShowToken>(&Renew { token: token() });
    assert_eq!(accepted::<request::ShowToken>(&Release { token: token() }).token, "t1");
}

#[test]
fn documents_are_accepted() {
    let get: request::DocGet = accepted(&document::Get::linearizable());
    assert_eq!(get.consistency, Some(Consistency::Linearizable));
    accepted::<request::DocGet>(&document::Get { consistency: Some(Consistency::Local) });
    let splice = Splice { at: 1, delete: 2, insert: "é".into() };
    let edit = Edit::splices(vec![splice.clone()]).token(&token()).expecting(7);
    let patch = [("gone".to_owned(), serde_json::Value::Null)].into_iter().collect();
    let edit: request::Edit = accepted(&edit.and_fields(patch));
    assert_eq!((edit.splices, edit.expected_revision), (Some(vec![splice]), Some(7)));
    assert!(edit.fields.unwrap()["gone"].is_null(), "a null takes a field away, so it must not be left out");
    accepted::<request::Edit>(&Edit::body("x"));
    accepted::<request::Load>(&Load { token: Some(token()), discard: Some(true) });
    accepted::<request::Save>(&Save { token: Some(token()), overwrite: Some(true) });
    accepted::<request::Undo>(&Undo { token: Some(token()), expected_revision: Some(1) });
    accepted::<request::Undo>(&Redo::default());
}

#[test]
fn operations_are_accepted() {
    let takeover: request::Takeover = accepted(&Takeover::by("ops", "stuck").ttl(Duration::from_secs(9)).expecting(3));
    assert_eq!((takeover.ttl_ms, takeover.expected_lock_revision), (Some(9_000), Some(3)));
    assert_eq!(accepted::<request::Unlock>(&Unlock::because("stuck").expecting(3)).expected_lock_revision, Some(3));
    let to = WorkerName::parse("w2").unwrap();
    assert_eq!(accepted::<request::Move>(&Move::because("hot").to(to.clone())).worker, Some(to));
    assert_eq!(accepted::<request::Reclaim>(&Reclaim { max_idle_ms: 5 }).max_idle_ms, 5);
    accepted::<request::Empty>(&ListWorkers {});
    accepted::<request::Drain>(&Drain { reason: "new kernel".into() });
    accepted::<request::Drain>(&Undrain { reason: "done".into() });
}
