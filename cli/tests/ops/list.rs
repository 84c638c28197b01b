//! `holdfast list` with its filters, over all namespaces, and as it changes.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::mpsc;

use holdfast_tests::wait::until_ok;
use serde_json::Value;

use crate::installation::{Installation, SOON};

fn ids(page: &Value) -> Vec<String> {
    let sessions = page["sessions"].as_array().unwrap().iter();
    sessions
        .map(|session| format!("{}.{}", session["namespace"].as_str().unwrap(), session["id"].as_str().unwrap()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_found_by_lock_holder_idleness_and_namespace() {
    let mut all = Installation::start().await;
    for (namespace, id) in [("default", "a"), ("default", "b"), ("team", "c")] {
        all.json(&["-n", namespace, "session", "open", id]);
    }
    all.json(&["lock", "acquire", "a", "--owner", "ann"]);
    all.json(&["-n", "team", "lock", "acquire", "c", "--owner", "bob"]);
    assert_eq!(ids(&all.json(&["list", "--locked"])), ["default.a"]);
    assert_eq!(ids(&all.json(&["session", "list", "--locked"])), ["default.a"]);
    assert_eq!(ids(&all.json(&["list", "--owner", "bob"])), [""; 0]);
    assert_eq!(ids(&all.json(&["list", "-A"])), ["default.a", "default.b", "team.c"]);
    assert_eq!(ids(&all.json(&["list", "-A", "--owner", "bob"])), ["team.c"]);
    assert_eq!(ids(&all.json(&["list", "--idle", "1h"])), [""; 0]);
    let idle = until_ok("sessions to be idle", SOON, async || {
        all.json(&["session", "touch", "b"]);
        let idle = all.json(&["list", "-A", "--idle", "1s"]);
        if ids(&idle) == ["default.a", "team.c"] { Ok(idle) } else { Err(idle) }
    })
    .await;
    assert!(idle["sessions"][0]["idle_ms"].as_u64().is_some_and(|ms| ms >= 1_000), "{idle}");

    all.kill("coordinator");
    assert_eq!(ids(&all.json(&["list", "-A", "--locked"])), ["default.a", "team.c"], "no coordinator is needed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watched_list_has_one_line_for_each_change() {
    let all = Installation::start().await;
    all.json(&["session", "open", "a"]);
    let watch = ["list", "--all-namespaces", "--locked", "--watch", "--json"];
    let mut watching = all.command(&watch).stdout(Stdio::piped()).spawn().unwrap();
    let (sender, lines) = mpsc::channel::<Value>();
    let out = BufReader::new(watching.stdout.take().unwrap());
    let reader = std::thread::spawn(move || {
        for line in out.lines().map_while(Result::ok) {
            sender.send(serde_json::from_str(&line).unwrap()).ok();
        }
    });
    let next = |what: &str| -> (String, Value) {
        let line = lines.recv_timeout(SOON).unwrap_or_else(|_| panic!("{what}"));
        (line["change"].as_str().unwrap().to_owned(), line["session"].clone())
    };
    // It may not listen yet, so the change is made again until it is seen.
    let begun = until_ok("the watch to begin", SOON, async || {
        let token = all.json(&["lock", "acquire", "a", "--owner", "ann"])["lock_token"].clone();
        let seen = lines.recv_timeout(std::time::Duration::from_secs(2));
        all.json(&["lock", "release", "a", "--token", token.as_str().unwrap()]);
        seen.map_err(|_| "nothing yet")
    })
    .await;
    assert_eq!((&begun["session"]["id"], &begun["session"]["lock"]["owner"]), (&"a".into(), &"ann".into()), "{begun}");
    let (change, session) = next("the release");
    assert_eq!((change.as_str(), &session["id"]), ("removed", &"a".into()));
    all.json(&["-n", "team", "session", "open", "c"]);
    all.json(&["-n", "team", "lock", "acquire", "c", "--owner", "bob"]);
    let (change, session) = next("a lock in another namespace");
    assert_eq!(
        (change.as_str(), &session["namespace"], &session["lock"]["owner"]),
        ("added", &"team".into(), &"bob".into())
    );
    all.json(&["-n", "team", "admin", "takeover", "c", "--owner", "ops", "--reason", "test"]);
    let (change, session) = next("the takeover");
    assert_eq!((change.as_str(), &session["lock"]["owner"]), ("changed", &"ops".into()));
    let pid = watching.id().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    assert_eq!(watching.wait().unwrap().code(), Some(0), "Ctrl-C is its normal end");
    reader.join().unwrap();
}
