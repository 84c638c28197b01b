//! Bad input of every kind, for every request of the contract: each is refused in the contract's words, changes
//! nothing, and leaves a coordinator that serves on.

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
        row(
            "session.list",
            "default",
            "",
            json!({}),
            &["limit", "after", "state", "worker", "locked", "lock_owner", "idle_ms"],
        ),
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
        row("admin.preview", "default", "s1", json!({}), none),
        row("admin.move", "default", "s1", reason(), &["worker"]),
        row("admin.reclaim", "default", "", json!({"max_idle_ms": 0}), none),
        row("admin.rotate_secret", "sys", "", reason(), &["revoke"]),
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

/// A value that reads itself once more at each of `levels` levels, were its key an instruction: 127 kB of it would
/// need the stack of 12,000 values within each other.
fn bomb(levels: usize) -> String {
    let (open, close) = ("[".repeat(120), "]".repeat(120));
    (0..levels).fold("1".to_owned(), |text, _| {
        let escaped = text.replace('\\', "\\u005c").replace('"', "\\u0022");
        format!("{open}{{\"$serde_json::private::RawValue\":\"{escaped}\"}}{close}")
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn no_content_has_a_meaning_to_the_json_library() {
    let fleet = fleet().await;
    let bomb = bomb(100);
    assert!((100_000..150_000).contains(&bomb.len()), "{}", bomb.len());
    for request in requests() {
        for name in ["request_id", "actor"] {
            let body = format!("{{\"{name}\":{bomb}}}");
            let error = request.send(&fleet, body).await.refused("invalid_params", "bad_value");
            assert_eq!(error["details"]["field"], name, "{}", request.verb);
        }
        let error = request.send(&fleet, format!("{{\"other\":{bomb}}}")).await;
        error.refused("invalid_params", "unknown_field");
    }
    let broken = format!("{{\"actor\":{bomb}").into_bytes();
    fleet.ask_raw(&fleet.subject("doc.edit", "s1"), broken).await.refused("invalid_params", "bad_json");
    for (verb, id, body, code, reason) in [
        ("doc.edit", "s1", format!("{{\"fields\":{{\"a\":{bomb}}}}}"), "too_large", "fields_too_large"),
        (
            "session.open",
            "",
            format!("{{\"content\":{{\"fields\":{{\"a\":{bomb}}}}}}}"),
            "too_large",
            "fields_too_large",
        ),
        ("session.open", "", format!("{{\"content\":{bomb}}}"), "invalid_params", "bad_value"),
    ] {
        fleet.ask_raw(&fleet.subject(verb, id), body.into_bytes()).await.refused(code, reason);
    }
    assert_unimpressed(&fleet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_the_json_library_are_ordinary_names_of_fields() {
    let mut fleet = fleet().await;
    let fields = json!({
        "$serde_json::private::RawValue": "[1,2]",
        "a": [{"$serde_json::private::RawValue": "{\"b\":1}"}, {"$serde_json::private::Number": "1"}],
        "b": {"$serde_json::private::RawValue": "not JSON", "$__toml_private_datetime": "1979-05-27"},
    });
    // A `Value` that is read by the library's own rules would not do.
    let text = fields.to_string();
    let shows = |document: &[u8]| String::from_utf8_lossy(document).contains(&text);
    let open = json!({"id": "s2", "content": {"fields": fields}});
    fleet.ask("session.open", "", open).await.ok();
    let edit = json!({ "fields": fields });
    fleet.ask("doc.edit", "s1", edit).await.ok();
    for id in ["s1", "s2"] {
        let reply = fleet.nats.request(fleet.subject("doc.get", id), "{}".into()).await.unwrap();
        assert!(shows(&reply.payload), "{id}: {:?}", reply.payload);
    }
    // Another agent reads the same from the log, and from a snapshot.
    for id in ["s1", "s2"] {
        for n in 0..40 {
            fleet.ask("doc.edit", id, json!({"body": n.to_string()})).await.ok();
        }
        fleet.ask("doc.undo", id, json!({})).await.ok();
    }
    fleet.stop_worker("w1").await;
    fleet.add_worker("w1", &[]).await.unwrap();
    for id in ["s1", "s2"] {
        let reply = fleet.nats.request(fleet.subject("doc.get", id), "{}".into()).await.unwrap();
        assert!(shows(&reply.payload), "{id}: {:?}", reply.payload);
    }
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
            let null = request.send(&fleet, request.with(name, Value::Null)).await;
            assert_eq!(null.refused("invalid_params", "missing_field")["details"]["field"].as_str(), Some(&**name));
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
            assert_eq!(error["details"]["field"], name, "{}", request.verb);
            if name != "request_id" {
                echoed(&error);
            }
        }
        for (name, value) in [("request_id", json!(7)), ("actor", json!({})), ("actor", json!(""))] {
            request.send(&fleet, request.with(name, value)).await.refused("invalid_params", "bad_value");
        }
        for id in ["", &"r".repeat(65), "line\nbreak"] {
            let error = request.send(&fleet, request.with("request_id", json!(id))).await;
            assert_eq!(error.refused("invalid_params", "bad_value")["details"]["field"], "request_id");
        }
        let actor = request.send(&fleet, request.with("actor", json!("ä".repeat(257)))).await;
        let actor = actor.refused("invalid_params", "bad_value");
        assert_eq!(actor["details"]["field"], "actor");
        echoed(&actor);
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
        let error = request.send(&fleet, request.with(name, value)).await.refused("invalid_params", reason);
        echoed(&error);
        let field = error["details"]["field"].as_str().unwrap();
        if reason == "bad_value" {
            assert_eq!(field.split('.').next(), Some(name), "{error}");
        } else {
            assert_eq!(error["details"]["within"].as_str().unwrap_or(name), name, "{error}");
        }
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
async fn fields_with_a_key_twice_or_with_an_integer_that_would_be_rounded_are_refused() {
    let fleet = fleet().await;
    for (fields, reason) in [
        (r#"{"a":1,"a":1}"#, "bad_json"),
        (r#"{"a":{"b":[{"c":1,"d":2,"\u0063":3}]}}"#, "bad_json"),
        (r#"{"a":null,"a":null}"#, "bad_json"),
        (r#"{"a":18446744073709551616}"#, "bad_value"),
        (r#"{"a":[{"b":-9223372036854775809}]}"#, "bad_value"),
        (&format!("{{\"a\":{}}}", "9".repeat(400)), "bad_value"),
    ] {
        let edit = fleet.ask_raw(&fleet.subject("doc.edit", "s1"), format!("{{\"fields\":{fields}}}").into()).await;
        assert_eq!(edit.refused("invalid_params", reason)["details"]["field"], "fields", "{fields}");
        let open = format!("{{\"id\":\"s2\",\"content\":{{\"fields\":{fields}}}}}");
        let open = fleet.ask_raw(&fleet.subject("session.open", ""), open.into()).await;
        assert_eq!(open.refused("invalid_params", reason)["details"]["field"], "content.fields", "{fields}");
    }
    assert_unimpressed(&fleet).await;
    let kept = r#"{"e":100000.0,"i":9223372036854775807,"n":-9223372036854775808,"u":18446744073709551615}"#;
    fleet.open("s2").await;
    fleet.ask_raw(&fleet.subject("doc.edit", "s2"), format!("{{\"fields\":{kept}}}").into()).await.ok();
    let reply = fleet.nats.request(fleet.subject("doc.get", "s2"), "{}".into()).await.unwrap();
    let shown = String::from_utf8_lossy(&reply.payload).into_owned();
    assert!(shown.contains(kept), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_repeats_little_of_what_was_sent() {
    let fleet = fleet().await;
    let long = "x".repeat(900_000);
    let bounded = async |request: &Request, body: String| {
        let reply = fleet.nats.request(request.subject(&fleet), body.into()).await.unwrap();
        assert!(reply.headers.as_ref().unwrap().get("Nats-Service-Error-Code").is_some(), "{}", request.verb);
        let headers: usize = reply
            .headers
            .unwrap()
            .iter()
            .map(|(name, value)| name.to_string().len() + value.iter().map(|value| value.as_str().len()).sum::<usize>())
            .sum();
        assert!(reply.payload.len() < 2_000 && headers < 2_000, "{}: {:?}", request.verb, reply.payload);
    };
    for request in requests() {
        bounded(&request, request.with(&long, json!(1))).await;
        for name in request.may_have.iter().chain(&["request_id", "actor", "owner", "token", "reason"]) {
            bounded(&request, request.with(name, json!({ &*long: [&long] }))).await;
            if !["body", "path", "fields", "content", "config"].contains(name) {
                bounded(&request, request.with(name, json!(long))).await;
            }
        }
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
        let spaces = if request.space == "sys" { ["default", "Sys"].as_slice() } else { &["Default", "ä", "a+b"] };
        let reserved = ["sys", "signal", "session", "lock", "doc", "admin", "worker"];
        let reserved = reserved.iter().filter(|_| request.space != "sys").copied();
        for space in spaces.iter().copied().chain(reserved).chain([&*"n".repeat(33)]) {
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
async fn what_is_sent_to_the_log_of_a_reserved_namespace_is_never_announced_or_kept_as_a_session() {
    let fleet = fleet().await;
    let signals = fleet.signals().await.unwrap();
    // Whoever may ask `<root>.*.session.>` may send this. The stream acknowledges it; nobody else answers.
    let activation = fleet.record("s1").await.unwrap().1["owner"]["activation"].clone();
    let event = json!({"type": "edited", "revision": 1, "previous_revision": 0, "changed": ["body"]});
    let op = json!({"request_id": "r", "event": event, "change": {}, "reply": {}});
    let frame = json!({"v": 1, "activation": activation, "first_op": 1, "first_revision": 0, "ops": [op]});
    for (group, id) in [("session", "open"), ("session", "s1"), ("lock", "s1"), ("doc", "s1"), ("admin", "reclaim")] {
        for body in [json!({"id": "s9", "request_id": "echo-me"}), frame.clone(), json!({})] {
            let subject = format!("{}.log.{group}.{id}", fleet.root);
            let reply = fleet.ask_raw(&subject, body.to_string().into_bytes()).await;
            assert!(reply.body["seq"].is_u64(), "{}", reply.body);
        }
        let get = format!("{}.{group}.session.get.{id}", fleet.root);
        fleet.ask_raw(&get, Vec::new()).await.refused("invalid_params", "bad_value");
        let list = format!("{}.{group}.session.list", fleet.root);
        fleet.ask_raw(&list, Vec::new()).await.refused("invalid_params", "bad_value");
    }
    fleet.all_announced(&signals).await;
    let strange: Vec<_> = signals.all().into_iter().filter(|(subject, _)| !subject.contains(".default.")).collect();
    assert_eq!(strange, [], "nothing was announced of them");
    let marker = fleet.ask("session.list", "", json!({})).await.ok();
    assert_eq!(marker["sessions"].as_array().unwrap().len(), 2, "s1 and the marker");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_in_a_namespace_that_is_reserved_by_now_is_in_nobodys_way() {
    let fleet = fleet().await;
    let (_, mut record) = fleet.record("s1").await.unwrap();
    record["namespace"] = json!("session");
    record["id"] = json!("old");
    let subject = format!("$KV.{}.session.old", fleet.root.sessions_bucket());
    fleet.nats.request(subject, record.to_string().into()).await.unwrap();
    // A coordinator that starts now sweeps over it, and relays it.
    fleet.begin_coordinator().await.unwrap();
    let signals = fleet.signals().await.unwrap();
    fleet.all_announced(&signals).await;
    let listed = fleet.ask("session.list", "", json!({})).await.ok();
    assert_eq!(listed["sessions"].as_array().unwrap().len(), 2, "s1 and the marker");
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
