//! What somebody with the credentials of one role tries against the others, with coordinators and workers that run.

use std::time::Duration;

use async_nats::{Client, HeaderMap, Message, Request, Subscriber};
use futures_util::StreamExt;
use holdfast_store::token_secret;
use serde_json::{Value, json};

use super::arrived;
use super::installation::{Form, Installation, round_trip};
use super::parts::ask;

const SECRET: &str = "$KV.secrets.token_key";
const SOON: Duration = Duration::from_secs(20);

/// The next message; panics if none comes.
async fn next(subscriber: &mut Subscriber) -> Message {
    tokio::time::timeout(SOON, subscriber.next()).await.expect("a message").expect("an open subscription")
}

/// The last message that is stored at a subject: its sequence and its body in base64.
async fn stored(inside: &Client, stream: &str, subject: &str) -> Value {
    ask(inside, &format!("$JS.API.STREAM.MSG.GET.{stream}"), json!({ "last_by_subj": subject })).await["message"]
        .clone()
}

/// The connections of everybody except coordinators.
async fn others(installation: &Installation) -> Vec<(&'static str, Client)> {
    let mut others = Vec::new();
    for user in ["worker", "ops", "client", "team-a", "sys", "other"] {
        others.push((user, installation.connect(user).await));
    }
    others
}

#[tokio::test(flavor = "multi_thread")]
async fn only_coordinators_read_and_make_the_secret_of_tokens() {
    for form in Form::BOTH {
        let installation = Installation::start(form).await;
        let parts = installation.parts().await;
        let inside = installation.inside().await;
        let made = stored(&inside, "KV_secrets", SECRET).await;
        let secret = made["data"].as_str().unwrap().to_owned();
        assert_eq!(secret.len(), 44, "32 bytes in base64: {made}");
        for (user, client) in others(&installation).await {
            let inbox = client.new_inbox();
            let mut replies = client.subscribe(inbox.clone()).await.unwrap();
            let last = json!({ "last_by_subj": SECRET }).to_string();
            let consumer =
                json!({"stream_name": "KV_secrets", "config": {"deliver_subject": &*inbox, "ack_policy": "none"}});
            for (subject, body) in [
                ("$JS.API.STREAM.MSG.GET.KV_secrets".to_owned(), last.clone()),
                ("$JS.API.DIRECT.GET.KV_secrets".to_owned(), last),
                (format!("$JS.API.DIRECT.GET.KV_secrets.{SECRET}"), String::new()),
                ("$JS.API.CONSUMER.CREATE.KV_secrets".to_owned(), consumer.to_string()),
                ("$JS.API.STREAM.SNAPSHOT.KV_secrets".to_owned(), json!({"deliver_subject": &*inbox}).to_string()),
                ("$JS.API.STREAM.DELETE.KV_secrets".to_owned(), String::new()),
                (SECRET.to_owned(), "00000000000000000000000000000000".to_owned()),
            ] {
                client.publish_with_reply(subject, inbox.clone(), body.into()).await.unwrap();
            }
            round_trip(&client).await;
            // The storage answers in its own time, so a request that it answers later is waited for.
            round_trip(&inside).await;
            assert_eq!(stored(&inside, "KV_secrets", SECRET).await, made, "{form:?}: {user} changed it");
            for reply in arrived(&mut replies) {
                let text = String::from_utf8_lossy(&reply.payload).into_owned();
                assert!(!text.contains(&secret), "{form:?}: {user} read it");
                assert!(!text.contains("KV_secrets") || text.contains("error"), "{form:?}: {user} was told {text}");
            }
        }
        assert!(token_secret(&parts.store).await.is_ok());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_a_worker_has_the_server_store_is_not_used() {
    for form in Form::BOTH {
        let installation = Installation::start(form).await;
        let parts = installation.parts().await;
        let inside = installation.inside().await;
        let made = stored(&inside, "KV_secrets", SECRET).await;
        // An operator of another account than the streams cannot do it.
        let ops = installation.connect("ops").await;
        let body = json!({ "last_by_subj": "$KV.sessions.default.evil" }).to_string();
        ops.request("$KV.sessions.default.evil", "0123456789abcdef0123456789abcdef".into()).await.unwrap();
        if form == Form::Accounts {
            ops.publish_with_reply("$JS.API.DIRECT.GET.KV_sessions", SECRET, body.into()).await.unwrap();
            round_trip(&ops).await;
        }
        let worker = installation.connect("worker").await;
        worker.request("hf.log.default.evil", "0123456789abcdef0123456789abcdef".into()).await.unwrap();
        assert_eq!(stored(&inside, "KV_secrets", SECRET).await, made, "{form:?}");
        worker
            .publish_with_reply("$JS.API.DIRECT.GET.KV_sessions.hf.log.default.evil", SECRET, "".into())
            .await
            .unwrap();
        // NATS cannot forbid this.
        let forged = holdfast_tests::wait::until("the forged secret", SOON, async || {
            let now = stored(&inside, "KV_secrets", SECRET).await;
            (now != made).then_some(now)
        })
        .await;
        assert_eq!(forged["data"], "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=", "{form:?}");
        let refused = token_secret(&parts.store).await.err().expect("a forged secret is used").to_string();
        assert!(refused.contains("was not stored by a coordinator"), "{form:?}: {refused}");

        // The same with a signal.
        let client = installation.connect("client").await;
        let mut signals = client.subscribe("hf.default.signal.>").await.unwrap();
        round_trip(&client).await;
        let read = "$JS.API.DIRECT.GET.KV_sessions.hf.log.default.evil";
        worker.publish_with_reply(read, "hf.default.signal.evil.lock.taken_over", "".into()).await.unwrap();
        assert_eq!(next(&mut signals).await.payload, "0123456789abcdef0123456789abcdef", "{form:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_but_coordinators_gets_requests_and_sends_replies_and_signals() {
    for form in Form::BOTH {
        let installation = Installation::start(form).await;
        let _parts = installation.parts().await;
        let others = others(&installation).await;
        let mut thieves = Vec::new();
        for (user, client) in others.iter().filter(|(user, _)| *user != "other") {
            for subject in ["hf.*.lock.>", "hf.team-a.lock.>", "hf.default.lock.acquire.s1", ">"] {
                let alone = client.subscribe(subject).await.unwrap();
                let in_queue = client.queue_subscribe(subject, "q".to_owned()).await.unwrap();
                thieves.push((*user, subject, alone));
                thieves.push((*user, subject, in_queue));
            }
            round_trip(client).await;
        }
        let client = installation.connect("client").await;
        let mut signals = client.subscribe("hf.default.signal.>").await.unwrap();
        round_trip(&client).await;
        for n in 0..10 {
            let id = format!("s{n}");
            ask(&client, "hf.default.session.open", json!({ "id": id })).await;
            let grant = ask(&client, &format!("hf.default.lock.acquire.{id}"), json!({"owner": "a"})).await;
            assert!(grant["lock_token"].is_string(), "{form:?}: {grant}");
        }
        for (_, client) in &others {
            client.publish("hf.default.signal.s1.lock.taken_over", "forged".into()).await.unwrap();
            client.publish("_R_.x", "forged".into()).await.unwrap();
            round_trip(client).await;
            for (thief, subject, subscriber) in &mut thieves {
                for message in arrived(subscriber) {
                    assert!(!message.subject.contains(".lock."), "{form:?}: {thief} on {subject}: {}", message.subject);
                }
            }
        }
        round_trip(&client).await;
        for signal in arrived(&mut signals) {
            assert_ne!(signal.payload, "forged", "{form:?}: {}", signal.subject);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_request_info_is_replaced_between_accounts_and_only_there() {
    let forged = r#"{"acc":"OPS","user":"ops"}"#;
    for form in Form::BOTH {
        let installation = Installation::start(form).await;
        let inside = installation.inside().await;
        let mut requests = inside.subscribe("hf.default.session.>").await.unwrap();
        round_trip(&inside).await;
        let client = installation.connect("client").await;
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Request-Info", forged);
        client.publish_with_headers("hf.default.session.open", headers, "{}".into()).await.unwrap();
        let seen = next(&mut requests).await;
        let headers = seen.headers.unwrap();
        let told: Vec<_> = headers.get_all("Nats-Request-Info").map(ToString::to_string).collect();
        match form {
            Form::Accounts => {
                assert_eq!(told.len(), 1, "{told:?}");
                let told: Value = serde_json::from_str(&told[0]).unwrap();
                assert_eq!((&told["acc"], &told["user"]), (&json!("APP"), &json!("client")));
            }
            // This is why coordinators must not trust it in this form.
            Form::OneAccount => assert_eq!(told, [forged]),
        }
    }
}

/// A listener for each connection, on every subject for replies that it may hear.
async fn listeners(clients: &[(&'static str, Client)]) -> Vec<(&'static str, Subscriber)> {
    let mut listeners = Vec::new();
    for (user, client) in clients {
        for subject in ["_INBOX.>", "_INBOX_client.>", "_INBOX_app.>", "_INBOX_ops.>", "_R_.>", ">"] {
            listeners.push((*user, client.subscribe(subject).await.unwrap()));
        }
        round_trip(client).await;
    }
    listeners
}

/// Who of them heard this token.
async fn who_heard(
    clients: &[(&'static str, Client)],
    listeners: &mut [(&'static str, Subscriber)],
    token: &str,
) -> Vec<&'static str> {
    for (_, client) in clients {
        round_trip(client).await;
    }
    let mut heard = Vec::new();
    for (user, subscriber) in listeners {
        if arrived(subscriber).iter().any(|message| String::from_utf8_lossy(&message.payload).contains(token)) {
            heard.push(*user);
        }
    }
    heard
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_are_heard_by_programs_that_share_a_user_and_by_nobody_else() {
    for form in Form::BOTH {
        let installation = Installation::start(form).await;
        let _parts = installation.parts().await;
        let others = others(&installation).await;
        let mut listeners = listeners(&others).await;
        for (user, namespace, expected) in [("client", "default", vec!["client"]), ("team-a", "team-a", vec![])] {
            let asker = installation.connect(user).await;
            ask(&asker, &format!("hf.{namespace}.session.open"), json!({"id": "s1"})).await;
            let grant = ask(&asker, &format!("hf.{namespace}.lock.acquire.s1"), json!({"owner": "a"})).await;
            let token = grant["lock_token"].as_str().unwrap();
            let heard = who_heard(&others, &mut listeners, token).await;
            assert_eq!(heard, expected, "{form:?}: the reply to {user}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_to_a_reply_subject_that_its_sender_must_not_reach() {
    for form in Form::BOTH {
        let installation = Installation::start(form).await;
        let parts = installation.parts().await;
        let probes = installation.probes().await;
        let mut listening = Vec::new();
        for (account, probe) in &probes {
            listening.push((*account, probe.subscribe(">").await.unwrap()));
            round_trip(probe).await;
        }
        let client = installation.connect("client").await;
        let made = stored(&installation.inside().await, "KV_secrets", SECRET).await;
        let targets = [
            SECRET,
            "$KV.sessions.default.s9",
            "$KV.workers.w1",
            "$JS.API.STREAM.DELETE.KV_sessions",
            "$JS.ACK.KV_sessions.relay.1.1.1.1.1",
            "hf.default.signal.s1.lock.taken_over",
            "hf.log.default.s1",
            "hf.sys.control.x",
            "hf.sys.worker.drain.w1",
            "hf.default.admin.takeover.s1",
            "$SYS.REQ.SERVER.PING",
        ];
        for target in targets {
            let body = json!({"id": "s1", "request_id": format!("reply-to-{}", target.len())}).to_string();
            client.publish_with_reply("hf.default.session.open", target, body.into()).await.unwrap();
        }
        // Requests of one connection are answered in any order, so each kind of answer is waited for.
        ask(&client, "hf.default.session.open", json!({"id": "s1"})).await;
        ask(&client, "hf.default.session.get.s1", json!({})).await;
        for (_, probe) in &probes {
            round_trip(probe).await;
        }
        for (account, subscriber) in &mut listening {
            for message in arrived(subscriber) {
                let is_target = targets.contains(&message.subject.as_str());
                let is_reply = is_target && String::from_utf8_lossy(&message.payload).contains("\"created\"");
                // In its own account a program may have the answer where it likes.
                assert!(!is_reply || *account == "APP", "{form:?}: {account} got a reply at {}", message.subject);
            }
        }
        assert_eq!(stored(&installation.inside().await, "KV_secrets", SECRET).await, made);
        assert!(token_secret(&parts.store).await.is_ok());

        // Within one account the asker may name the inbox of another role.
        let ops = installation.connect("ops").await;
        let mut inbox = ops.subscribe("_INBOX_ops.>").await.unwrap();
        round_trip(&ops).await;
        client.publish_with_reply("hf.default.session.get.s1", "_INBOX_ops.forged.1", "{}".into()).await.unwrap();
        ask(&client, "hf.default.session.get.s1", json!({})).await;
        match form {
            Form::Accounts => {
                round_trip(&ops).await;
                let heard = arrived(&mut inbox);
                assert!(heard.iter().all(|message| !message.subject.contains("forged")), "{heard:?}");
            }
            Form::OneAccount => while !next(&mut inbox).await.subject.contains("forged") {},
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_cannot_remove_what_is_stored_and_clients_get_no_operators_request_through() {
    for form in Form::BOTH {
        let installation = Installation::start(form).await;
        let _parts = installation.parts().await;
        let ops = installation.connect("ops").await;
        let client = installation.connect("client").await;
        ask(&client, "hf.default.session.open", json!({"id": "s1"})).await;
        let grant = ask(&client, "hf.default.lock.acquire.s1", json!({"owner": "a"})).await;
        let takeover = json!({"owner": "b", "reason": "test"});
        let wait = Some(Duration::from_millis(300));
        let request = Request::new().payload(takeover.to_string().into()).timeout(wait);
        assert!(client.send_request("hf.default.admin.takeover.s1", request).await.is_err(), "{form:?}");
        for command in ["DELETE", "PURGE", "UPDATE", "SNAPSHOT"] {
            for stream in ["KV_sessions", "KV_secrets", "KV_workers", "HF_SIGNALS", "HF_AUDIT"] {
                ops.publish(format!("$JS.API.STREAM.{command}.{stream}"), "{}".into()).await.unwrap();
            }
        }
        round_trip(&ops).await;
        let got = ask(&ops, "hf.default.session.get.s1", json!({})).await;
        assert_eq!(got["lock"]["owner"], "a", "{form:?}: {got}");
        let validated = json!({"token": grant["lock_token"]});
        assert_eq!(ask(&client, "hf.default.lock.validate.s1", validated).await["valid"], true, "{form:?}");
        let taken = ask(&ops, "hf.default.admin.takeover.s1", takeover).await;
        assert!(taken["lock_token"].is_string(), "{form:?}: {taken}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_write_records_can_empty_the_stream_of_sessions() {
    for form in Form::BOTH {
        let installation = Installation::start(form).await;
        let _parts = installation.parts().await;
        let client = installation.connect("client").await;
        ask(&client, "hf.default.session.open", json!({"id": "s1"})).await;
        let inside = installation.inside().await;
        assert!(stored(&inside, "KV_sessions", "$KV.sessions.default.s1").await["data"].is_string());
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Rollup", "all");
        let ops = installation.connect("ops").await;
        ops.publish_with_headers("$KV.sessions.default.other", headers, "{}".into()).await.unwrap();
        round_trip(&ops).await;
        holdfast_tests::wait::until("the stream to be empty", SOON, async || {
            stored(&inside, "KV_sessions", "$KV.sessions.default.s1").await.is_null().then_some(())
        })
        .await;
    }
}
