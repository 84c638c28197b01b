//! What an operator reads and writes without a coordinator: `record`, `why`, `audit` and `signals --since`, as the
//! program that people run.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use holdfast_deploy::{Conf, Credentials, Role};
use holdfast_tests::fleet::{Fleet, SOON};
use holdfast_tests::server::{self, Own};
use holdfast_tests::wait::until_ok;
use serde_json::{Value, json};

/// How commands reach one installation.
struct Place {
    variables: Vec<(String, String)>,
}

impl Place {
    fn of(fleet: &Fleet) -> Self {
        Self {
            variables: vec![("NATS_URL".to_owned(), fleet.url.clone()), ("ROOT".to_owned(), fleet.root.to_string())],
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command.env_remove("NATS_CONTEXT").env_remove("RUST_LOG").env("USER", "tester").stdin(Stdio::null());
        command.args(arguments);
        for (name, value) in &self.variables {
            match name.as_str() {
                "ROOT" => command.args(["--root", value]),
                _ => command.env(name, value),
            };
        }
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// The output of a command that must succeed.
    fn said(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {} {}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.said(&[arguments, &["--json"]].concat())).unwrap()
    }

    /// The lines of a command that prints one JSON text on each.
    fn lines(&self, arguments: &[&str]) -> Vec<Value> {
        let said = self.said(&[arguments, &["--json"]].concat());
        said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The exit status and the error of a command that must fail.
    fn refused(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = self.run(arguments);
        assert!(!output.status.success(), "{arguments:?}: {}", text(&output.stdout));
        (output.status.code(), text(&output.stderr))
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The texts of a story, without what differs between runs.
fn texts(story: &Value) -> Vec<String> {
    let events = story["events"].as_array().unwrap();
    events.iter().map(|event| event["text"].as_str().unwrap().to_owned()).collect()
}

/// A life with everything in it. Returns when the relay has announced all of it and no coordinator runs.
async fn lived(url: &str) -> (Fleet, Place) {
    let mut fleet = Fleet::empty(url).await.unwrap();
    fleet.add_mortal_worker("w1").await.unwrap();
    fleet.add_coordinator().await.unwrap();
    let place = Place::of(&fleet);
    let signals = fleet.signals().await.unwrap();
    fleet.ask("session.open", "", json!({"id": "s1", "actor": "app"})).await.ok();
    let grant = fleet.ask("lock.acquire", "s1", json!({"owner": "ann", "ttl_ms": 600_000, "actor": "ann"})).await.ok();
    for body in ["one", "two"] {
        let edit = json!({"token": grant["lock_token"], "body": body, "actor": "ann"});
        fleet.ask("doc.edit", "s1", edit).await.ok();
    }
    for _ in 0..2 {
        fleet.ask("lock.acquire", "s1", json!({"owner": "bob"})).await.refused("conflict", "lock_held");
    }
    let takeover = json!({"owner": "ops", "reason": "ann hangs", "actor": "oncall"});
    fleet.ask("admin.takeover", "s1", takeover).await.ok();
    fleet.ask("admin.unlock", "s1", json!({"reason": "done", "actor": "oncall"})).await.ok();
    fleet.add_worker("w2", &[]).await.unwrap();
    fleet.kill_worker("w1");
    until_ok("the session to be on the other worker", SOON, async || {
        let reply = fleet.ask("doc.edit", "s1", json!({"body": "three", "request_id": "third", "actor": "eve"})).await;
        if reply.number.is_none() { Ok(()) } else { Err(reply.body.to_string()) }
    })
    .await;
    fleet.acquire("s1", "carl").await;
    place.said(&["record", "unlock", "s1", "--reason", "carl left", "--actor", "root", "--yes"]);
    fleet.ask("session.close", "s1", json!({"discard": true, "actor": "app"})).await.ok();
    fleet.ask("session.open", "", json!({"id": "s1", "actor": "app"})).await.ok();
    fleet.all_announced(&signals).await;
    fleet.stop_coordinator().await;
    (fleet, place)
}

async fn the_story_is_whole(url: &str) {
    let (mut fleet, place) = lived(url).await;
    let story = place.json(&["why", "s1"]);
    let expected = [
        "opened on worker w1 (asked by app)",
        "ann got the lock [lock revision 1, lease 10 min]",
        "2 changes of the document with the lock of ann, asked by ann: edited 2 [document revisions 1 to 2]",
        "bob was refused 2 times: lock_held, held by ann",
        "ops took the lock over from ann (asked by oncall): ann hangs [lock revision 2, until it is released]",
        "the lock of ops was freed by an operator (asked by oncall): done",
        "moved from worker w1 to worker w2 (asked by eve): worker w1 is gone",
        "1 change of the document without a lock, asked by eve: edited 1 [document revision 3]",
        "carl got the lock [lock revision 4, until it is released]",
        "the record was edited by hand (asked by root): carl left",
        "closed (asked by app)",
        "opened on worker w2 (asked by app)",
    ];
    let told = texts(&story);
    let told: Vec<&str> = told.iter().map(|line| line.split(" [lock: ").next().unwrap()).collect();
    assert_eq!(told, expected, "{story:#}");
    assert_eq!((&story["now"]["state"], &story["now"]["may_write"]), (&json!("active"), &json!("anybody")));
    assert_eq!(story["now"]["worker_has_lease"], true);
    assert!(!story.to_string().contains("third"), "an id of a request is in the story");

    let people = place.said(&["why", "s1", "--limit", "3"]);
    assert!(people.contains("9 earlier lines are left out") && people.contains("may write  everybody"), "{people}");
    assert!(people.contains("opened on worker w2") && !people.contains("ann"), "{people}");

    let kinds = |arguments: &[&str]| -> Vec<String> {
        let entries = place.lines(arguments);
        let of_s1 = entries.iter().filter(|entry| entry["session_id"] == "s1");
        of_s1.map(|entry| format!("{} {}: {}", entry["kind"], entry["actor"], entry["reason"])).collect()
    };
    let acts = [
        r#""takeover" "oncall": "ann hangs""#,
        r#""unlock" "oncall": "done""#,
        r#""hand_edit" "root": "edited by hand: carl left""#,
    ];
    assert_eq!(kinds(&["audit"]), acts);
    let all = kinds(&["audit", "--all", "--since", "1h"]);
    assert_eq!(all.len(), 4, "{all:?}");
    assert_eq!(all[2], r#""failover" "eve": "worker w1 is gone""#);
    assert_eq!(kinds(&["audit", "-n", "other"]), [""; 0], "of another namespace");
    assert_eq!(place.refused(&["why", "nobody"]).0, Some(4));
    fleet.stop_worker("w2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_coordinator_the_story_of_a_session_and_the_acts_of_operators_are_told() {
    the_story_is_whole(server::shared().await.unwrap().url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_story_is_told_of_three_replicas_too() {
    the_story_is_whole(&server::shared_cluster().await.unwrap().url()).await;
}

/// The lines of `holdfast audit` for people, without their times.
fn told(said: &str) -> Vec<String> {
    said.lines().map(|line| line.split_once("Z  ").map_or(line, |(_, line)| line).to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_operators_did_to_workers_and_to_the_secret_is_told_beside_what_followed_from_it() {
    let mut fleet = Fleet::start(server::shared().await.unwrap().url()).await.unwrap();
    fleet.add_worker("w2", &[]).await.unwrap();
    let place = Place::of(&fleet);
    let drain = |worker: &str, why: &str| {
        place.said(&["worker", "drain", worker, "--reason", why, "--actor", "oncall"]);
    };
    let undrain = |worker: &str| {
        place.said(&["worker", "undrain", worker, "--reason", "done"]);
    };
    // A worker without sessions, and one with two, which move.
    drain("w2", "old disk");
    fleet.open("s1").await;
    fleet.open("s2").await;
    undrain("w2");
    drain("w1", "new disk");
    undrain("w1");
    // Sessions that have nowhere to go leave the memory.
    drain("w1", "all off");
    drain("w2", "all off");
    fleet.acquire("s1", "ann").await;
    place.said(&["admin", "rotate-secret", "--reason", "leaked", "--revoke", "--actor", "oncall"]);
    place.said(&["admin", "rotate-secret", "--reason", "once a year"]);
    let expected = [
        "drain      worker w2  without sessions  (asked by oncall): old disk",
        "undrain    worker w2  (asked by tester): done",
        "drain      worker w1  with 2 sessions  (asked by oncall): new disk",
        "move       default/s1, default/s2  from worker w1  (asked by oncall): new disk",
        "undrain    worker w1  (asked by tester): done",
        "drain      worker w1  without sessions  (asked by oncall): all off",
        "drain      worker w2  with 2 sessions  (asked by oncall): all off",
        "passivate  default/s1, default/s2  from worker w2  (asked by oncall): all off",
        "rotation   the secret of tokens  generation 1, old tokens are revoked, 1 lock was freed  (asked by oncall): leaked",
        "revoke     default/s1  (asked by oncall): the secret of tokens was rotated: leaked",
        "rotation   the secret of tokens  generation 2, old tokens stay good  (asked by tester): once a year",
    ];
    let said = until_ok("all of it to be told", SOON, async || {
        let said = told(&place.said(&["audit"]));
        // Sessions move side by side.
        let said: Vec<String> = said.iter().map(|line| line.replace("s2, default/s1", "s1, default/s2")).collect();
        if said == expected { Ok(said) } else { Err(format!("{said:#?}")) }
    })
    .await;
    assert_eq!(said, expected);

    let entries = place.lines(&["audit"]);
    let of = |kind: &str| entries.iter().filter(|entry| entry["kind"] == kind).cloned().collect::<Vec<Value>>();
    assert_eq!(of("drain").len(), 4);
    let drain = &of("drain")[1];
    assert_eq!(
        (&drain["worker"], &drain["sessions_left"], &drain["actor"]),
        (&json!("w1"), &json!(2), &json!("oncall"))
    );
    assert_eq!(
        (&drain["session_id"], &drain["namespace"], &drain["revoke"]),
        (&json!(null), &json!(null), &json!(null))
    );
    let rotation = &of("rotation")[0];
    assert_eq!(
        (&rotation["generation"], &rotation["revoke"], &rotation["released"]),
        (&json!(1), &json!(true), &json!(1))
    );
    assert_eq!((of("move").len(), of("passivate").len(), of("revoke").len()), (2, 2, 1));
    let ids: BTreeSet<String> = entries.iter().map(|entry| entry["id"].to_string()).collect();
    assert_eq!(ids.len(), entries.len());

    // Only what was done since, and only so much.
    let time = rotation["time"].as_str().unwrap();
    let since = place.lines(&["audit", "--since", time]);
    assert!(since.iter().all(|entry| ["rotation", "revoke"].contains(&entry["kind"].as_str().unwrap())), "{since:?}");
    assert_eq!(since.iter().filter(|entry| entry["kind"] == "rotation").count(), 2);
    let newest = told(&place.said(&["audit", "--limit", "2"]));
    assert_eq!(newest, expected[expected.len() - 2..]);
    // Workers are of no namespace.
    let of_namespace = place.lines(&["audit", "-n", "default"]);
    assert!(of_namespace.iter().all(|entry| entry["session_id"].is_string()), "{of_namespace:?}");
    assert_eq!(of_namespace.len(), 5);

    // An installation of an earlier version has no such stream.
    let context = async_nats::jetstream::new(fleet.nats.clone());
    context.delete_stream(fleet.root.audit_stream()).await.unwrap();
    let output = place.run(&["audit", "--json"]);
    let note = text(&output.stderr);
    assert!(output.status.success() && note.contains("are not shown") && note.contains("does not exist"), "{note}");
    assert_eq!(text(&output.stdout).lines().count(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn acts_are_followed_beside_signals_and_come_once() {
    const ROUNDS: usize = 4;
    let fleet = Fleet::start(server::shared().await.unwrap().url()).await.unwrap();
    let place = Place::of(&fleet);
    fleet.open("s1").await;
    let round = |n: usize| {
        let reason = format!("round {n}");
        place.said(&["worker", "drain", "w1", "--no-wait", "--reason", &reason]);
        place.said(&["worker", "undrain", "w1", "--reason", &reason]);
        place.said(&["admin", "takeover", "s1", "--owner", "ops", "--reason", &reason]);
    };
    round(0);
    let mut command = place.command(&["audit", "--follow", "--json"]);
    let mut following = Process(command.stdout(Stdio::piped()).spawn().unwrap());
    let output = following.0.stdout.take().unwrap();
    let (sender, lines) = std::sync::mpsc::channel();
    let reading = std::thread::spawn(move || {
        BufReader::new(output).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
    });
    (1..ROUNDS).for_each(round);
    let mut seen = Vec::new();
    let wanted = ["drain", "undrain", "takeover"];
    while seen.len() < ROUNDS * wanted.len() {
        let line = lines.recv_timeout(SOON).unwrap_or_else(|_| panic!("only {seen:?}"));
        let entry: Value = serde_json::from_str(&line).unwrap();
        let kind = entry["kind"].as_str().unwrap().to_owned();
        if wanted.contains(&&*kind) {
            seen.push(format!("{kind} {}", entry["reason"]));
        }
    }
    drop(following);
    reading.join().unwrap().ok();
    for kind in wanted {
        let of_kind: Vec<&String> = seen.iter().filter(|line| line.starts_with(&format!("{kind} "))).collect();
        let expected: Vec<String> = (0..ROUNDS).map(|n| format!("{kind} \"round {n}\"")).collect();
        assert_eq!(of_kind, expected.iter().collect::<Vec<_>>());
    }
}

/// A process of `holdfast`; killed when dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// An installation with a login, whose parts are processes.
struct Secured {
    server: Own,
    credentials: Credentials,
    _worker: Process,
}

impl Secured {
    async fn start() -> (Self, Process) {
        let credentials = Credentials::random();
        let with_login = |options: &mut holdfast_deploy::ServerOptions| {
            options.conf = Conf::accounts("hf");
            options.variables = credentials.variables();
        };
        let server = server::own(with_login).await.unwrap();
        let begun = |role, arguments: &[&str]| {
            let place = place_of(&server, &credentials, role);
            Process(place.command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
        };
        let coordinator = begun(Role::Coordinator, &["coordinator"]);
        let worker = begun(Role::Worker, &["worker", "--name", "w1"]);
        let secured = Self { server, credentials, _worker: worker };
        secured.answers().await;
        (secured, coordinator)
    }

    fn role(&self, role: Role) -> Place {
        place_of(&self.server, &self.credentials, role)
    }

    fn coordinator(&self) -> Process {
        let command = self.role(Role::Coordinator).command(&["coordinator"]);
        let mut command = command;
        Process(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    /// Waits until sessions can be opened.
    async fn answers(&self) {
        let ops = self.role(Role::Ops);
        until_ok("a coordinator and a worker", SOON, async || {
            let output = ops.run(&["session", "open", "probe", "--timeout", "1s"]);
            if output.status.success() { Ok(()) } else { Err(text(&output.stderr)) }
        })
        .await;
    }
}

fn place_of(server: &Own, credentials: &Credentials, role: Role) -> Place {
    let variables = [
        ("NATS_URL", server.url()),
        ("NATS_USER", role.user().to_owned()),
        ("NATS_PASSWORD", credentials.password(role).to_owned()),
        ("NATS_INBOX_PREFIX", role.inbox_prefix()),
    ];
    Place { variables: variables.map(|(name, value)| (name.to_owned(), value)).to_vec() }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_frees_a_lock_by_hand_with_the_rights_of_the_role_and_without_a_coordinator() {
    let (secured, mut coordinator) = Secured::start().await;
    let ops = secured.role(Role::Ops);
    ops.said(&["session", "open", "s1"]);
    let grant = ops.json(&["lock", "acquire", "s1", "--owner", "ann", "--request-id", "secret-request"]);
    let token = grant["lock_token"].as_str().unwrap();
    coordinator.0.kill().unwrap();
    coordinator.0.wait().unwrap();

    let shown = ops.json(&["record", "get", "s1"]);
    assert_eq!((&shown["record"]["lock"]["owner"], &shown["by_hand"]), (&json!("ann"), &json!(false)));
    let revision = shown["revision"].as_u64().unwrap();
    assert_eq!(shown["record"]["lock"]["token_hash"], "(hidden)");
    let people = ops.run(&["record", "get", "s1"]);
    let (people, head) = (text(&people.stdout), text(&people.stderr));
    assert!(head.contains(&format!("revision {revision}")) && people.contains("\"owner\": \"ann\""), "{head} {people}");
    let raw = ops.said(&["record", "get", "s1", "--raw"]);
    let hash = serde_json::from_str::<Value>(&raw).unwrap()["lock"]["token_hash"].as_str().unwrap().to_owned();
    for secret in [&hash, "secret-request"] {
        assert!(raw.contains(secret) && !people.contains(secret) && !shown.to_string().contains(secret));
    }

    let unlock = ["record", "unlock", "s1", "--reason", "ann hangs", "--actor", "oncall"];
    let (status, told) = ops.refused(&unlock);
    assert!(status == Some(2) && told.contains("--yes"), "{status:?} {told}");
    assert!(told.contains("holder    ann, lock revision 1") && told.contains("the token of ann"), "{told}");
    assert_eq!(ops.json(&["record", "get", "s1"])["revision"], revision, "nothing was written");

    let freed = ops.json(&[&unlock[..], &["--yes"]].concat());
    assert_eq!((&freed["previous_owner"], &freed["lock_revision"]), (&json!("ann"), &json!(2)));
    let record = ops.json(&["record", "get", "s1"]);
    assert_eq!((&record["by_hand"], &record["record"]["lock"]), (&json!(true), &Value::Null));
    let (status, told) = ops.refused(&[&unlock[..], &["--yes"]].concat());
    assert!(status == Some(3) && told.contains("free already"), "{status:?} {told}");
    let story = ops.json(&["why", "s1"]);
    let last = texts(&story).pop().unwrap();
    assert!(last.starts_with("the record was edited by hand (asked by oncall): ann hangs [lock"), "{last}");

    // The parts take it for a hand edit: the old token is refused, and the signal says who and why.
    let _coordinator = secured.coordinator();
    secured.answers().await;
    let (status, told) = ops.refused(&["doc", "edit", "s1", "--token", token, "--body", "late"]);
    assert!(status == Some(3) && told.contains("not_locked"), "{status:?} {told}");
    let entry = until_ok("the hand edit to be announced", SOON, async || {
        let found = ops.lines(&["audit"]).into_iter().find(|entry| entry["session_id"] == "s1");
        found.ok_or("not announced yet")
    })
    .await;
    assert_eq!((&entry["kind"], &entry["actor"]), (&json!("hand_edit"), &json!("oncall")));
    assert_eq!((&entry["previous_owner"], &entry["owner"]), (&json!("ann"), &Value::Null));
    assert_eq!(entry["reason"], "edited by hand: ann hangs");

    // Acts on workers cross to the operator's account too.
    ops.said(&["worker", "drain", "w1", "--no-wait", "--reason", "new disk"]);
    let output = ops.run(&["audit"]);
    let said = (text(&output.stdout), text(&output.stderr));
    assert!(said.0.contains("drain      worker w1") && said.1.is_empty(), "{said:?}");

    // A program may do nothing of this, and learns it at once.
    let client = secured.role(Role::Client);
    for arguments in [&["record", "get", "s1"][..], &["why", "s1"], &["audit"], &[&unlock[..], &["--yes"]].concat()] {
        let begun = Instant::now();
        let (status, told) = client.refused(arguments);
        assert!(begun.elapsed() < Duration::from_secs(3), "{arguments:?}: {told}");
        assert!(
            matches!(status, Some(1 | 5)) && told.contains("NATS does not let"),
            "{arguments:?}: {status:?} {told}"
        );
    }
}

/// An editor that replaces text in the file, after it has run another command.
fn editor(folder: &tempfile::TempDir, before: &str, expression: &str) -> String {
    let path: PathBuf = folder.path().join("editor.sh");
    std::fs::write(&path, format!("#!/bin/sh\n{before}\nsed -i '{expression}' \"$1\"\n")).unwrap();
    format!("sh {}", path.display())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_is_edited_in_an_editor_and_never_over_another_writer() {
    let fleet = Fleet::start(server::shared().await.unwrap().url()).await.unwrap();
    let place = Place::of(&fleet);
    fleet.open("s1").await;
    fleet.acquire("s1", "ann").await;
    let folder = tempfile::tempdir().unwrap();
    let edit = |editor: String, arguments: &[&str]| {
        let mut command = place.command(&[&["record", "edit", "s1", "--reason", "test"], arguments].concat());
        command.env_remove("VISUAL").env("EDITOR", editor).output().unwrap()
    };
    let (revision, _) = fleet.record("s1").await.unwrap();
    let output = edit(editor(&folder, "", r#"s/"lock": "optional"/"lock": "required"/"#), &["--yes"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains(r#"config.lock: "optional" -> "required""#), "{}", text(&output.stderr));
    let (after, record) = fleet.record("s1").await.unwrap();
    assert!(after > revision && record["config"]["lock"] == "required", "{record}");
    assert_eq!((&record["lock"]["owner"], &record["event"]["reason"]), (&json!("ann"), &json!("test")));
    assert_eq!(record["lock"]["token_hash"].as_str().unwrap().len(), 64, "secrets came back as they were");

    let refused = |output: Output| (output.status.code(), text(&output.stderr));
    let (status, told) = refused(edit(editor(&folder, "", "s/\"state\": \"active\"/\"state\": \"acti\"/"), &["--yes"]));
    assert!(status == Some(2) && told.contains("was not written") && told.contains("acti"), "{status:?} {told}");
    let (status, told) = refused(edit(editor(&folder, "exit 7", ""), &["--yes"]));
    assert!(status == Some(2) && told.contains("nothing was changed"), "{status:?} {told}");
    let (status, told) = refused(edit(editor(&folder, "", "s/required/optional/"), &[]));
    assert!(status == Some(2) && told.contains("--yes"), "{status:?} {told}");
    assert_eq!(fleet.record("s1").await.unwrap().0, after, "nothing was written");

    // Another operator is faster.
    let other = format!(
        "{} --nats {} --root {} record unlock s1 --reason faster --yes",
        env!("CARGO_BIN_EXE_holdfast"),
        fleet.url,
        fleet.root
    );
    let (status, told) = refused(edit(editor(&folder, &other, "s/required/optional/"), &["--yes"]));
    assert!(status == Some(3) && told.contains("nothing was written"), "{status:?} {told}");
    let (_, record) = fleet.record("s1").await.unwrap();
    assert_eq!((&record["event"]["reason"], &record["config"]["lock"]), (&json!("faster"), &json!("required")));

    // A record that does not parse is repaired from the last revision that did.
    let (revision, _) = fleet.record("s1").await.unwrap();
    fleet.edit_record("s1", revision, b"{\"v\": 1".to_vec()).await.unwrap();
    let (status, told) = place.refused(&["record", "get", "s1"]);
    assert!(status == Some(3) && told.contains("record edit"), "{status:?} {told}");
    let output = edit(editor(&folder, "", "s/required/optional/"), &["--yes"]);
    assert!(output.status.success() && text(&output.stderr).contains("the last valid one"), "{}", text(&output.stderr));
    fleet.ask("doc.edit", "s1", json!({"body": "works"})).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn kept_signals_and_then_live_ones_come_without_a_gap_and_once() {
    const BEFORE: usize = 30;
    const MEANWHILE: usize = 60;
    let fleet = Fleet::start(server::shared().await.unwrap().url()).await.unwrap();
    let place = Place::of(&fleet);
    fleet.open("s1").await;
    let cycle = async || {
        let token = fleet.acquire("s1", "ann").await;
        fleet.ask("lock.release", "s1", json!({"token": token})).await.ok();
    };
    for _ in 0..BEFORE {
        cycle().await;
    }
    let mut command = place.command(&["signals", "--all", "--since", "1h", "--json"]);
    let mut following = Process(command.stdout(Stdio::piped()).spawn().unwrap());
    let output = following.0.stdout.take().unwrap();
    let (sender, lines) = std::sync::mpsc::channel();
    let reading = std::thread::spawn(move || {
        BufReader::new(output).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
    });
    for _ in 0..MEANWHILE {
        cycle().await;
    }
    let expected = 2 + 2 * (BEFORE + MEANWHILE);
    let mut ids = Vec::new();
    while ids.len() < expected {
        let line = lines.recv_timeout(SOON).unwrap_or_else(|_| panic!("{} of {expected} signals", ids.len()));
        let signal: Value = serde_json::from_str(&line).unwrap();
        ids.push(signal["id"].as_str().unwrap().to_owned());
    }
    drop(following);
    reading.join().unwrap().ok();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), expected, "one came twice");
    let sequences: Vec<u64> = ids.iter().map(|id| id.split(':').nth(1).unwrap().parse().unwrap()).collect();
    assert!(sequences.is_sorted(), "{sequences:?}");

    let kept = place.lines(&["signals", "s1", "--since", "1h", "--no-follow", "--group", "lock"]);
    assert_eq!(kept.len(), expected - 2);
    assert_eq!(place.lines(&["signals", "--all", "--since", "1h", "--count", "3"]).len(), 3);
    assert_eq!(place.lines(&["signals", "--all", "--since", "1h", "--no-follow", "-n", "other"]).len(), 0);
    assert_eq!(place.refused(&["signals"]).0, Some(2));
    assert_eq!(place.refused(&["signals", "s1", "--all"]).0, Some(2));
}
