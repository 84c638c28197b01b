//! Bad input of every kind, for every request of the contract: each is refused in the contract's words, changes nothing,
//! and leaves a coordinator that serves on.

use futures_util::future::join_all;
use holdfast_protocol::subject::Verb;
use holdfast_tests::fleet::{Fleet, Reply, Stored};
use holdfast_tests::server;
use serde_json::{Map, Value, json};

/// A request of the contract.
struct Request {
    verb: &'static str,
    /// Tokens between root and verb.
    space: &'static str,
    /// Token behind the verb.
    id: &'static str,
    /// Members that it needs, with good values.
    needs: Value,
    /// Members that it may have.
    may_have: &'static [&'static str],
}

/// Every request. `s1` is a session and `w1` a worker.
fn requests() -> Vec<Request> {
    let owner = || json!({"owner": "a"});
    let token = || json!({"token": "t"});
    let reason = || json!({"reason": "r"});
    let row = |verb, space, id, needs, may_have| Request { verb, space, id, needs, may_have };
    let none: &[&str] = &[];
    vec![
        row("session.open", "default", "", json!({}), &["id", "path", "workspace", "mode", "config", "content"]),
        row("session.get", "default", "s1", json!({}), none),
        row("session.list", "default", "", json!({}), &["limit", "after", "state", "worker"]),
        row("session.touch", "default", "s1", json!({}), none),
        row("session.close", "default", "s1", json!({}), &["token", "discard"]),
        row("lock.acquire", "default", "s1", owner(), &["expected_token", "rotate", "ttl_ms", "wait_ms"]),
        row("lock.validate", "default", "s1", token(), none),
        row("lock.renew", "default", "s1", token(), none),
        row("lock.release", "default", "s1", token(), none),
        row("doc.get", "default", "s1", json!({}), &["consistency"]),
        row("doc.edit", "default", "s1", json!({}), &["token", "expected_revision", "body", "splices", "fields"]),
        row("doc.load", "default", "s1", json!({}), &["token", "discard"]),
        row("doc.save", "default", "s1", json!({}), &["token", "overwrite"]),
        row("doc.undo", "default", "s1", json!({}), &["token", "expected_revision"]),
        row("doc.redo", "default", "s1", json!({}), &["token", "expected_revision"]),
        row(
            "admin.takeover",
            "default",
            "s1",
            json!({"owner": "a", "reason": "r"}),
            &["ttl_ms", "expected_lock_revision"],
        ),
        row("admin.unlock", "default", "s1", reason(), &["expected_lock_revision"]),
        row("admin.move", "default", "s1", reason(), &["worker"]),
        row("admin.reclaim", "default", "", json!({"max_idle_ms": 0}), none),
        row("worker.list", "sys", "", json!({}), none),
        row("worker.drain", "sys", "w1", reason(), none),
        row("worker.undrain", "sys", "w1", reason(), none),
    ]
}

impl Request {
    fn subject(&self, fleet: &Fleet) -> String {
        let tail = if self.id.is_empty() { String::new() } else { format!(".{}", self.id) };
        format!("{}.{}.{}{tail}", fleet.root, self.space, self.verb)
    }

    async fn send(&self, fleet: &Fleet, body: impl Into<Vec<u8>>) -> Reply {
        fleet.ask_raw(&self.subject(fleet), body.into()).await
    }

    /// A good body, but for `name`, which is `value`; with a `request_id` to be echoed.
    fn with(&self, name: &str, value: Value) -> String {
        let mut body = self.needs.clone();
        body["request_id"] = json!("echo-me");
        body[name] = value;
        body.to_string()
    }
}

async fn fleet() -> Fleet {
    let fleet = Fleet::start(server::shared().await.unwrap().url()).await.unwrap();
    fleet.open("s1").await;
    fleet
}

/// Nothing was changed, and everybody is there as before.
async fn assert_unimpressed(fleet: &Fleet) {
    assert_eq!(
        fleet.record("s1").await.unwrap().1["event"]["type"],
        "session.opened",
        "the record was never written again"
    );
    let document = fleet.ask("doc.get", "s1", json!({"consistency": "linearizable"})).await.ok();
    assert_eq!((&document["revision"], &document["body"]), (&json!(0), &json!("")));
    let listed = fleet.ask_raw(&format!("{}.sys.worker.list", fleet.root), Vec::new()).await.ok();
    assert_eq!((&listed["workers"][0]["worker"], &listed["workers"][0]["state"]), (&json!("w1"), &json!("ready")));
    let sessions = fleet.ask("session.list", "", json!({})).await.ok();
    assert_eq!(sessions["sessions"].as_array().unwrap().len(), 1, "none was opened");
    let token = fleet.acquire("s1", "a").await;
    assert_eq!(fleet.ask("doc.edit", "s1", json!({"token": token, "body": "x"})).await.ok()["revision"], 1);
}

fn deep(levels: usize) -> String {
    format!("{}{}", "[".repeat(levels), "]".repeat(levels))
}

fn echoed(error: &Value) {
    assert_eq!(error["request_id"], "echo-me", "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_json_object_is_refused_by_every_request() {
    let fleet = fleet().await;
    let every = requests();
    assert_eq!(every.len(), Verb::ALL.len(), "the table above has every request");
    let refusals = every.iter().map(async |request| {
        for text in ["{", "nonsense", "{\"actor\":}", "{'actor':'a'}", "{\"actor\":\"\\ud800\"}", "\u{feff}{}"] {
            request.send(&fleet, text).await.refused("invalid_params", "bad_json");
        }
        request.send(&fleet, format!("{} x", request.needs)).await.refused("invalid_params", "bad_json");
        for bytes in [&b"\xff"[..], b"{\"actor\":\"\xff\xfe\"}", b"{\"\xc3\x28\":1}", b"\0"] {
            request.send(&fleet, bytes).await.refused("invalid_params", "bad_json");
        }
        for text in ["[]", "[{}]", "\"{}\"", "1", "null", "true"] {
            let error = request.send(&fleet, text).await.refused("invalid_params", "bad_value");
            assert!(error["message"].as_str().unwrap().contains("object"), "{error}");
        }
        request.send(&fleet, "{\"actor\":\"a\",\"actor\":\"b\"}").await.refused("invalid_params", "bad_value");
    });
    join_all(refusals).await;
    assert_unimpressed(&fleet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nesting_of_a_hundred_thousand_levels_is_refused_by_every_request() {
    let fleet = fleet().await;
    let (nested, open) = (deep(100_000), "[".repeat(100_000));
    for request in requests() {
        request.send(&fleet, nested.clone()).await.refused("invalid_params", "bad_value");
        request.send(&fleet, open.clone()).await.refused("invalid_params", "bad_json");
        request.send(&fleet, format!("{{\"actor\":{nested}}}")).await.refused("invalid_params", "bad_value");
        let unknown = request.send(&fleet, format!("{{\"deep\":{nested}}}")).await;
        assert_eq!(unknown.refused("invalid_params", "unknown_field")["details"]["field"], "deep");
    }
    for at in ["fields", "content"] {
        let (verb, id) = if at == "fields" { ("doc.edit", "s1") } else { ("session.open", "") };
        let objects = format!("{}1{}", "{\"a\":".repeat(100_000), "}".repeat(100_000));
        let inner = if at == "fields" { objects } else { format!("{{\"fields\":{objects}}}") };
        let body = format!("{{\"{at}\":{inner}}}").into_bytes();
        fleet.ask_raw(&fleet.subject(verb, id), body).await.refused("invalid_params", "bad_json");
    }
    assert_unimpressed(&fleet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_or_missing_member_is_named_by_every_request() {
    let fleet = fleet().await;
    let every = requests();
    let refusals = every.iter().map(async |request| {
        for name in ["tokn", "Owner", "", "a\r\nNats-Service-Error-Code: 200\r\n", "`, expected `x`"] {
            let error =
                request.send(&fleet, request.with(name, json!(1))).await.refused("invalid_params", "unknown_field");
            assert_eq!(error["details"]["field"], name, "{}", request.verb);
            assert!(error["message"].as_str().unwrap().contains(name.trim()), "{error}");
            echoed(&error);
        }
        let needs: Vec<String> = request.needs.as_object().unwrap().keys().cloned().collect();
        for name in &needs {
            let mut body = request.needs.clone();
            body.as_object_mut().unwrap().remove(name);
            body["request_id"] = json!("echo-me");
            let error = request.send(&fleet, body.to_string()).await.refused("invalid_params", "missing_field");
            assert_eq!(error["details"]["field"].as_str(), Some(name.as_str()), "{error}");
            echoed(&error);
        }
        if !needs.is_empty() {
            for empty in ["", " \n", "{}"] {
                request.send(&fleet, empty).await.refused("invalid_params", "missing_field");
            }
        }
    });
    join_all(refusals).await;
    for body in ["", "{}"] {
        let error = fleet.ask_raw(&fleet.subject("doc.edit", "s1"), body.into()).await;
        error.refused("invalid_params", "missing_field");
    }
    assert_unimpressed(&fleet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_of_the_wrong_type_is_refused_by_every_request() {
    let fleet = fleet().await;
    let every = requests();
    let refusals = every.iter().map(async |request| {
        let needs = request.needs.as_object().unwrap().keys().map(String::as_str);
        for name in needs.chain(request.may_have.iter().copied()).chain(["request_id", "actor"]) {
            let error =
                request.send(&fleet, request.with(name, json!([[true]]))).await.refused("invalid_params", "bad_value");
            if name != "request_id" {
                echoed(&error);
            }
        }
        for (name, value) in [("request_id", json!(7)), ("actor", json!({})), ("actor", json!(""))] {
            request.send(&fleet, request.with(name, value)).await.refused("invalid_params", "bad_value");
        }
        for id in ["", &"r".repeat(65), "line\nbreak"] {
            let error = request.send(&fleet, request.with("request_id", json!(id))).await;
            error.refused("invalid_params", "bad_value");
        }
        let actor = request.send(&fleet, request.with("actor", json!("ä".repeat(257)))).await;
        echoed(&actor.refused("invalid_params", "bad_value"));
    });
    join_all(refusals).await;
    assert_unimpressed(&fleet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn values_out_of_bounds_are_refused() {
    let fleet = fleet().await;
    let long = "x".repeat(257);
    let table = [
        ("session.open", "", "config", json!({"idle_timeout_ms": 999}), "bad_value"),
        ("session.open", "", "config", json!({"idle_timeout_ms": 2_592_000_001_u64}), "bad_value"),
        ("session.open", "", "config", json!({"lck": "required"}), "unknown_field"),
        ("session.open", "", "config", json!({"lock": "Required"}), "bad_value"),
        ("session.open", "", "config", json!({"on_idle": 1}), "bad_value"),
        ("session.open", "", "content", json!({"bdy": "x"}), "unknown_field"),
        ("session.open", "", "content", json!({"body": null, "fields": []}), "bad_value"),
        ("session.open", "", "mode", json!("replace"), "bad_value"),
        ("session.list", "", "limit", json!(0), "bad_value"),
        ("session.list", "", "limit", json!(1001), "bad_value"),
        ("session.list", "", "limit", json!(1.5), "bad_value"),
        ("session.list", "", "after", json!("a b"), "bad_value"),
        ("session.list", "", "state", json!("gone"), "bad_value"),
        ("session.list", "", "worker", json!("a.b"), "bad_value"),
        ("lock.acquire", "s1", "owner", json!(""), "bad_value"),
        ("lock.acquire", "s1", "owner", json!(long), "bad_value"),
        ("lock.acquire", "s1", "ttl_ms", json!(999), "bad_value"),
        ("lock.acquire", "s1", "ttl_ms", json!(86_400_001), "bad_value"),
        ("lock.acquire", "s1", "ttl_ms", json!(-1), "bad_value"),
        ("lock.acquire", "s1", "wait_ms", json!(60_001), "bad_value"),
        ("lock.acquire", "s1", "expected_token", json!(""), "bad_value"),
        ("lock.validate", "s1", "token", json!(""), "bad_value"),
        ("lock.renew", "s1", "token", json!(long), "bad_value"),
        ("lock.release", "s1", "token", json!(""), "bad_value"),
        ("session.close", "s1", "token", json!(""), "bad_value"),
        ("doc.get", "s1", "consistency", json!("eventual"), "bad_value"),
        ("doc.edit", "s1", "expected_revision", json!(-1), "bad_value"),
        ("doc.edit", "s1", "expected_revision", json!(1e30), "bad_value"),
        ("doc.edit", "s1", "splices", json!([{"delete": 0, "insert": "x"}]), "missing_field"),
        ("doc.edit", "s1", "splices", json!([{"at": 0, "delete": 0, "insert": "x", "by": 1}]), "unknown_field"),
        ("doc.edit", "s1", "splices", json!([{"at": u64::MAX, "delete": u64::MAX, "insert": "x"}]), "bad_value"),
        ("doc.edit", "s1", "splices", json!([{"at": 0, "delete": 1, "insert": ""}]), "bad_value"),
        ("admin.takeover", "s1", "owner", json!(long), "bad_value"),
        ("admin.takeover", "s1", "reason", json!(""), "bad_value"),
        ("admin.takeover", "s1", "ttl_ms", json!(1), "bad_value"),
        ("admin.unlock", "s1", "reason", json!(long), "bad_value"),
        ("admin.unlock", "s1", "expected_lock_revision", json!("1"), "bad_value"),
        ("admin.move", "s1", "reason", json!(""), "bad_value"),
        ("admin.move", "s1", "worker", json!("a b"), "bad_value"),
        ("admin.reclaim", "", "max_idle_ms", json!(-1), "bad_value"),
    ];
    let every = requests();
    for (verb, id, name, value, reason) in table {
        let request = every.iter().find(|request| request.verb == verb).unwrap();
        assert_eq!(request.id, id);
        echoed(&request.send(&fleet, request.with(name, value)).await.refused("invalid_params", reason));
    }
    let both = json!({"body": "x", "splices": []});
    fleet.ask("doc.edit", "s1", both).await.refused("invalid_params", "bad_value");
    fleet
        .ask_raw(&fleet.subject("admin.reclaim", ""), b"{\"max_idle_ms\":1e999}".to_vec())
        .await
        .refused("invalid_params", "bad_json");
    for verb in ["drain", "undrain"] {
        let subject = format!("{}.sys.worker.{verb}.w1", fleet.root);
        let reason = json!({"reason": ""}).to_string().into_bytes();
        fleet.ask_raw(&subject, reason).await.refused("invalid_params", "bad_value");
    }
    assert_unimpressed(&fleet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_array_in_place_of_an_object_within_a_request_is_refused() {
    let fleet = fleet().await;
    let open = async |body: Value| fleet.ask("session.open", "", body).await.refused("invalid_params", "bad_value");
    open(json!({"config": [5000, "close", "required"]})).await;
    open(json!({"content": ["text", {}]})).await;
    open(json!({"mode": {"create": null}})).await;
    let splice = json!({"splices": [[0, 0, "x"]]});
    fleet.ask("doc.edit", "s1", splice).await.refused("invalid_params", "bad_value");
    assert_unimpressed(&fleet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_paths_and_workspaces_out_of_bounds_are_refused() {
    let fleet = fleet().await;
    let open =
        async |body: Value, reason: &str| fleet.ask("session.open", "", body).await.refused("invalid_params", reason);
    for id in ["", "a.b", "a b", "ä", "*", ">", "a/b", "$JS", "a\0", &"i".repeat(65)] {
        open(json!({ "id": id }), "invalid_session_id").await;
    }
    for path in ["", ".", "a/..", "a\0b", "a\nb", &"p".repeat(1025)] {
        open(json!({ "path": path }), "invalid_path").await;
    }
    for path in ["/etc/passwd", "..", "../a", "a/../../b", "//a"] {
        open(json!({ "path": path }), "path_escape").await;
    }
    for workspace in ["", "a b", "../main", &"w".repeat(65)] {
        open(json!({"path": "a", "workspace": workspace}), "bad_value").await;
    }
    open(json!({"id": "a", "path": "a"}), "bad_value").await;
    open(json!({"id": "a", "workspace": "main"}), "bad_value").await;
    open(json!({"mode": "attach"}), "missing_field").await;
    for request in requests().iter().filter(|request| request.id == "s1") {
        for id in ["ä", "a$", "a=b", "%", &"i".repeat(65), "s1.more", "s1.a.b.c"] {
            let subject = format!("{}.default.{}.{id}", fleet.root, request.verb);
            let body = request.with("actor", json!("a")).into_bytes();
            echoed(&fleet.ask_raw(&subject, body).await.refused("invalid_params", "invalid_session_id"));
        }
        let without = format!("{}.default.{}", fleet.root, request.verb);
        fleet.ask_raw(&without, Vec::new()).await.refused("invalid_params", "missing_field");
    }
    // 64 characters are not too many.
    fleet.ask("session.get", &"i".repeat(64), json!({})).await.refused("not_found", "no_session");
    assert_unimpressed(&fleet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_that_are_malformed_or_reserved_are_refused_by_every_request() {
    let fleet = fleet().await;
    for request in requests() {
        let spaces =
            if request.space == "sys" { ["default", "Sys"].as_slice() } else { &["sys", "Default", "ä", "a+b"] };
        for space in spaces.iter().copied().chain([&*"n".repeat(33)]) {
            let subject = request.subject(&fleet).replacen(&format!(".{}.", request.space), &format!(".{space}."), 1);
            let body = request.with("actor", json!("a")).into_bytes();
            echoed(&fleet.ask_raw(&subject, body).await.refused("invalid_params", "bad_value"));
        }
        // Without an id this would be a log's subject.
        if request.space != "sys" && !request.id.is_empty() {
            let subject = format!("{}.log.{}.{}", fleet.root, request.verb, request.id);
            fleet.ask_raw(&subject, b"{}".to_vec()).await.refused("invalid_params", "bad_value");
        }
    }
    assert_unimpressed(&fleet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_may_be_named_like_a_group_of_requests() {
    let fleet = fleet().await;
    // Their logs, `<root>.log.<ns>.<id>`, look like requests.
    for (namespace, id) in
        [("session", "open"), ("session", "list"), ("worker", "list"), ("lock", "acquire"), ("admin", "reclaim")]
    {
        let ask = async |verb: &str, body: Value| {
            let tail = if verb == "session.open" { String::new() } else { format!(".{id}") };
            let subject = format!("{}.{namespace}.{verb}{tail}", fleet.root);
            fleet.ask_raw(&subject, body.to_string().into_bytes()).await
        };
        ask("session.open", json!({"id": id})).await.ok();
        for n in 1..=40 {
            assert_eq!(ask("doc.edit", json!({"body": n.to_string()})).await.ok()["revision"], n);
        }
        assert_eq!(ask("doc.get", json!({"consistency": "linearizable"})).await.ok()["body"], "40");
    }
    assert_unimpressed(&fleet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_over_a_limit_is_refused() {
    let fleet = fleet().await;
    for request in requests() {
        let mut body = request.with("actor", json!("a")).into_bytes();
        body.resize(1024 * 1024 + 1, b' ');
        let error = request.send(&fleet, body).await.refused("too_large", "request_too_large");
        assert_eq!(
            (&error["details"]["limit"], &error["details"]["bytes"]),
            (&json!(1024 * 1024), &json!(1024 * 1024 + 1))
        );
    }
    let nested = |levels: usize| {
        let mut fields = Map::new();
        for _ in 1..levels {
            fields = Map::from_iter([("a".to_owned(), Value::Object(fields))]);
        }
        Value::Object(fields)
    };
    let contents = [
        (json!({"body": "x".repeat(512 * 1024 + 1)}), "body_too_large"),
        (json!({"body": "ä".repeat(256 * 1024 + 1)}), "body_too_large"),
        (json!({"fields": {"f": "x".repeat(64 * 1024)}}), "fields_too_large"),
        (json!({"fields": nested(33)}), "fields_too_large"),
    ];
    for (content, reason) in contents {
        fleet.ask("session.open", "", json!({ "content": content })).await.refused("too_large", reason);
        fleet.ask("doc.edit", "s1", content).await.refused("too_large", reason);
    }
    fleet.ask("session.open", "", json!({"id": "s2", "content": {"fields": nested(32)}})).await.ok();
    fleet.ask("session.close", "s2", json!({})).await.ok();
    assert_unimpressed(&fleet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_requests_below_known_prefixes_are_refused() {
    let fleet = fleet().await;
    for tail in [
        "default.session.frobnicate",
        "default.session.frobnicate.s1",
        "default.session.Get.s1",
        "default.lock.steal.s1",
        "default.doc.delete.s1",
        "default.doc.edit2.s1",
        "default.admin.shutdown",
        "sys.worker.kill.w1",
        "default.worker.kill.w1",
        "default.session.open.s1",
        "default.session.list.s1",
        "default.admin.reclaim.s1",
        "sys.worker.list.w1",
        "sys.worker.drain.w1.w2",
    ] {
        let body = json!({"request_id": "echo-me", "reason": "r"}).to_string().into_bytes();
        echoed(&fleet.ask_raw(&format!("{}.{tail}", fleet.root), body).await.refused("invalid_params", "bad_value"));
    }
    for verb in ["drain", "undrain"] {
        let subject = format!("{}.sys.worker.{verb}", fleet.root);
        fleet.ask_raw(&subject, b"{}".to_vec()).await.refused("invalid_params", "missing_field");
        let nobody = json!({"reason": "r"}).to_string().into_bytes();
        fleet.ask_raw(&format!("{subject}.w9"), nobody).await.refused("not_found", "no_worker");
    }
    assert_unimpressed(&fleet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_a_reply_subject_has_no_effect() {
    let mut fleet = fleet().await;
    let (revision, _) = fleet.record("s1").await.unwrap();
    for request in requests() {
        let mut body = request.needs.clone();
        if request.verb == "doc.edit" {
            body["body"] = json!("unasked");
        }
        fleet.nats.publish(request.subject(&fleet), body.to_string().into()).await.unwrap();
        fleet.nats.publish(request.subject(&fleet), "nonsense".into()).await.unwrap();
    }
    // Every group of requests goes on behind them.
    for request in requests() {
        request.send(&fleet, "nonsense").await.refused("invalid_params", "bad_json");
    }
    assert_eq!(fleet.ask("doc.get", "s1", json!({})).await.ok()["revision"], 0);
    // Whatever they began has ended when the coordinator has.
    fleet.stop_coordinator().await;
    assert_eq!(fleet.record("s1").await.unwrap().0, revision);
    let stream = fleet.stream().await.unwrap();
    let changes: Vec<Value> = stream.iter().skip(1).map(Stored::json).filter(|frame| !frame["ops"].is_null()).collect();
    assert_eq!(changes, Vec::<Value>::new(), "one session was opened, and nothing else was done");
    fleet.add_coordinator().await.unwrap();
    assert_unimpressed(&fleet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_of_a_client_mean_nothing() {
    let fleet = fleet().await;
    let mut headers = async_nats::HeaderMap::new();
    for (name, value) in [
        ("Hf-Revision", "18446744073709551615"),
        ("Hf-Request-Id", "not mine"),
        ("Hf-Moved", "1"),
        ("Nats-Service-Error-Code", "500"),
        ("Nats-Expected-Last-Sequence", "7"),
        ("Nats-Rollup", "all"),
    ] {
        headers.insert(name, value);
    }
    for request in requests() {
        let body = request.with("nonsense", json!(1));
        let message = async_nats::Request::new().headers(headers.clone()).payload(body.into());
        let reply = fleet.nats.send_request(request.subject(&fleet), message).await.unwrap();
        let error: Value = serde_json::from_slice(&reply.payload).unwrap();
        assert_eq!(error["error"]["reason"], "unknown_field", "{error}");
        echoed(&error["error"]);
    }
    assert_unimpressed(&fleet).await;
}
