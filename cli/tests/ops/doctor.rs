//! `holdfast doctor` finds each of several misconfigurations, and nothing on an installation that is as it should be.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::stream::{Config, DiscardPolicy, StorageType};
use holdfast_client::protocol::subject::Root;
use holdfast_store::provision::{Provisioning, needed};
use holdfast_tests::server;
use serde_json::{Value, json};

use crate::installation::{Installation, command, folder, json_of};

/// The problems, by name, with their texts.
fn problems(report: &Value) -> Vec<(String, String)> {
    let checks = report["checks"].as_array().unwrap().iter().filter(|check| check["verdict"] == "problem");
    checks
        .map(|check| {
            assert!(check["fix"].as_str().is_some_and(|fix| !fix.is_empty()), "no fix: {check}");
            (check["name"].as_str().unwrap().to_owned(), check["found"].as_str().unwrap().to_owned())
        })
        .collect()
}

fn names(report: &Value) -> BTreeSet<String> {
    problems(report).into_iter().map(|(name, _)| name).collect()
}

fn report(all: &Installation) -> Value {
    let output = all.run(&["doctor", "--json"]);
    json_of(&output, output.status.code().unwrap_or(-1))
}

/// There is this problem, with these words, and no other name is a problem that is not in `also`.
#[track_caller]
fn assert_found(report: &Value, name: &str, words: &str, also: &BTreeSet<String>) {
    let found = problems(report);
    let is_found = found.iter().any(|(found, text)| found == name && text.contains(words));
    assert!(is_found, "{name}: {words:?} is not in {found:#?}");
    let others: Vec<_> = found.iter().filter(|(found, _)| found != name && !also.contains(found)).collect();
    assert!(others.is_empty(), "beside {name}: {others:#?}");
}

async fn change(context: &jetstream::Context, stream: &str, change: impl FnOnce(&mut Config)) -> Config {
    let before = context.get_stream(stream).await.unwrap().cached_info().config.clone();
    let mut config = before.clone();
    change(&mut config);
    context.update_stream(config).await.unwrap();
    before
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_wrong_with_a_healthy_installation_and_each_changed_stream_is_found() {
    let all = Installation::start().await;
    let healthy = json_of(&all.run(&["doctor", "--json"]), 0);
    assert_eq!(
        (&healthy["problems"], &healthy["warnings"], &healthy["unchecked"]),
        (&json!(0), &json!(0), &json!(0)),
        "{healthy:#}"
    );
    let text = String::from_utf8(all.run(&["doctor"]).stdout).unwrap();
    assert!(text.ends_with("0 problems, 0 warnings, 0 unchecked\n"), "{text}");

    type Change = fn(&mut Config);
    let cases: [(&str, &str, Change); 6] = [
        ("KV_sessions", "discard is Old", |config| config.discard = DiscardPolicy::Old),
        ("KV_sessions", "duplicate_window is 1s", |config| config.duplicate_window = Duration::from_secs(1)),
        ("KV_secrets", "allow_direct is false", |config| config.allow_direct = false),
        ("KV_sessions", "max_bytes is 1000000", |config| config.max_bytes = 1_000_000),
        ("HF_SIGNALS", "max_age is 3600s", |config| config.max_age = Duration::from_secs(3600)),
        ("HF_AUDIT", "duplicate_window is 3600s", |config| config.duplicate_window = Duration::from_secs(3600)),
    ];
    let context = jetstream::new(all.root().await);
    let none = BTreeSet::new();
    for (stream, words, seed) in cases {
        let before = change(&context, stream, seed).await;
        let found = all.run(&["doctor", "--json"]);
        assert_found(&json_of(&found, 1), stream, words, &none);
        context.update_stream(before).await.unwrap();
    }

    let root = all.root().await;
    let pause = async |until: Value| {
        let reply = root.request("$JS.API.CONSUMER.PAUSE.KV_sessions.relay", until.to_string().into()).await.unwrap();
        assert!(!String::from_utf8_lossy(&reply.payload).contains("error"), "{reply:?}");
    };
    pause(json!({"pause_until": "2099-01-01T00:00:00Z"})).await;
    assert_found(&report(&all), "relay", "is paused", &none);
    pause(json!({})).await;
    all.settles(0).await;
    let again = json_of(&all.run(&["doctor", "--json"]), 0);
    assert_eq!(problems(&again), [], "all was put back");

    // As in an installation of an earlier version, whose parts do all else.
    context.delete_stream("HF_AUDIT").await.unwrap();
    assert_found(&report(&all), "HF_AUDIT", "does not exist", &none);
    let status = json_of(&all.run(&["status", "--json"]), 0);
    assert_eq!(status["streams"].as_array().map(Vec::len), Some(3), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_wrong_setting_of_a_server_is_found() {
    // Without parts and streams, which are not what this is about.
    let without_parts = names(&report(&Installation::empty(str::to_owned).await));
    assert!(without_parts.contains("coordinators") && !without_parts.contains("sync_interval"), "{without_parts:?}");
    type Change = fn(&str) -> String;
    let cases: [(&str, &str, Change); 6] = [
        ("sync_interval", "every 120 s", |text| text.replace("sync_interval: always", "")),
        ("max_payload", "1048576 bytes", |text| text.replace("max_payload: 8MB", "max_payload: 1MB")),
        ("login", "without a login", |text| {
            text.replace("system_account: SYS", "system_account: SYS\nno_auth_user: client")
        }),
        ("permissions of client", "read every message of its account", |text| {
            text.replace(r#"["hf.*.signal.>", "_INBOX_client.>"]"#, r#"[">"]"#)
        }),
        ("permissions of worker", "may not write records, leases and logs (publish hf.log.default", |text| {
            text.replace(r#""$KV.sessions.>", "$KV.workers.>", "hf.log.*.*""#, r#""$KV.sessions.>", "$KV.workers.>""#)
        }),
        ("permissions of worker", "can read the replies to coordinators", |text| {
            text.replace(r#""$SRV.>", "_INBOX_worker.>""#, r#""$SRV.>", "_INBOX_worker.>", "_INBOX_coordinator.>""#)
        }),
    ];
    for (name, words, seed) in cases {
        let all = Installation::empty(seed).await;
        assert_found(&report(&all), name, words, &without_parts);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_can_read_the_secret_and_a_stream_in_memory_are_found() {
    let api = "$JS.API.DIRECT.GET.KV_secrets";
    let all = Installation::empty(|text| {
        text.replace("{ stream: \"hf.*.signal.>\" }\n", &format!("{{ stream: \"hf.*.signal.>\" }}\n{{ service: \"{api}\" }}\n"))
            .replace(
                "    APP: {\n        users: [{ user: client, password: $HOLDFAST_CLIENT_PASSWORD, permissions: $CLIENT_PERMISSIONS }]\n        imports: [",
                &format!(
                    "    APP: {{\n        users: [{{ user: client, password: $HOLDFAST_CLIENT_PASSWORD, permissions: $CLIENT_PERMISSIONS }}]\n        imports: [{{ service: {{ account: HOLDFAST, subject: \"{api}\" }} }}"
                ),
            )
            .replace("\"hf.*.doc.>\", \"$SYS.REQ.USER.INFO\"]", &format!("\"hf.*.doc.>\", \"$SYS.REQ.USER.INFO\", \"{api}\"]"))
    })
    .await;
    let context = jetstream::new(all.root().await);
    for mut config in needed(
        &Root::default(),
        1,
        &Provisioning { signals_bytes: 1024 * 1024, acts_bytes: 1024 * 1024, ..Provisioning::default() },
    ) {
        if config.name == "KV_workers" {
            config.storage = StorageType::Memory;
        }
        context.create_stream(config).await.unwrap();
    }
    let found = report(&all);
    let also: BTreeSet<String> = ["coordinators", "workers", "relay"].map(str::to_owned).into();
    let both = |name: &str| also.iter().cloned().chain([name.to_owned()]).collect();
    assert_found(&found, "permissions of client", "can read the secret", &both("KV_workers"));
    assert_found(&found, "KV_workers", "storage is Memory", &both("permissions of client"));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_copy_on_three_servers_is_found() {
    let cluster = server::own_cluster().await.unwrap();
    let nats = async_nats::connect(cluster.urls()).await.unwrap();
    let context = jetstream::new(nats);
    for mut config in needed(
        &Root::default(),
        3,
        &Provisioning { signals_bytes: 1024 * 1024, acts_bytes: 1024 * 1024, ..Provisioning::default() },
    ) {
        config.num_replicas = if config.name == "KV_sessions" { 1 } else { 3 };
        context.create_stream(config).await.unwrap();
    }
    let here = folder(&cluster.url(), None);
    let found = json_of(&command(here.path(), &["doctor", "--json"]).output().unwrap(), 1);
    let also = ["coordinators", "workers", "relay", "login", "storage"].map(str::to_owned).into();
    assert_found(&found, "KV_sessions", "num_replicas is 1, and should be 3", &also);
}

/// A server that says it is of this version, and answers nothing but pings.
fn pretend(version: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let serve = move |mut stream: TcpStream| -> std::io::Result<()> {
        let info = json!({"server_id": "old", "server_name": "old", "version": version, "go": "go1", "host": "127.0.0.1",
            "port": port, "headers": true, "max_payload": 8_388_608, "proto": 1, "jetstream": true});
        stream.write_all(format!("INFO {info}\r\n").as_bytes())?;
        for line in BufReader::new(stream.try_clone()?).lines() {
            if line?.starts_with("PING") {
                stream.write_all(b"PONG\r\n")?;
            }
        }
        Ok(())
    };
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve(stream));
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_server_is_found() {
    let port = pretend("2.14.3");
    let here = folder(&format!("nats://127.0.0.1:{port}"), None);
    let found = json_of(&command(here.path(), &["doctor", "--json"]).output().unwrap(), 1);
    assert!(names(&found).contains("server_version"), "{found:#}");
    let port = pretend("2.15.1");
    let here = folder(&format!("nats://127.0.0.1:{port}"), None);
    let found = json_of(&command(here.path(), &["doctor", "--json"]).output().unwrap(), 1);
    assert!(!names(&found).contains("server_version"), "{found:#}");
}
