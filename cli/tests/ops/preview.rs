//! `--dry-run` of takeover, unlock and move: it says who would lose what, and changes nothing.

use std::process::Stdio;

use holdfast_tests::wait::until_ok;
use serde_json::{Value, json};

use crate::installation::{Installation, SOON, json_of};

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_names_holder_changes_and_waiters_and_changes_nothing() {
    let mut all = Installation::start().await;
    all.begin("second", &["coordinator", "--trust-request-info"]);
    let two = async || {
        let found = all.settles(0).await["coordinators"].as_array().unwrap().len();
        if found == 2 { Ok(()) } else { Err(found) }
    };
    until_ok("two coordinators", SOON, two).await;
    all.json(&["session", "open", "s1"]);
    let grant = all.json(&["lock", "acquire", "s1", "--owner", "ann", "--ttl-ms", "60000", "--actor", "ann@laptop"]);
    let before = all.json(&["session", "get", "s1"]);
    let wait =
        ["--context", "client", "lock", "acquire", "s1", "--owner", "bob", "--ttl-ms", "5000", "--wait-ms", "30000"];
    let mut waiter = all.command(&wait).stdout(Stdio::null()).spawn().unwrap();
    let takeover = ["admin", "takeover", "s1", "--dry-run"];
    let preview = until_ok("the waiter to be seen", SOON, async || {
        let preview = all.json(&takeover);
        if preview["waiting"] == 1 { Ok(preview) } else { Err(preview) }
    })
    .await;
    assert_eq!(preview["coordinators"], 2, "each coordinator tells: {preview}");
    assert_eq!(preview["waiters"][0]["owner"], "bob");
    assert_eq!(preview["lock_actor"], "ann@laptop");
    assert_eq!(preview["lock_actor_proven"], "OPS/ops");
    assert!(preview["expires_in_ms"].as_u64().is_some_and(|left| left <= 60_000), "{preview}");
    let agent = &preview["agent"];
    assert_eq!(
        (&agent["worker"], &agent["presence"], &agent["unsaved_changes"]),
        (&json!("w1"), &json!("answers"), &json!(false))
    );
    assert_eq!(preview["move_to"], Value::Null, "there is no other worker: {preview}");
    let text = String::from_utf8(all.run(&takeover).stdout).unwrap();
    assert!(
        text.contains("ann@laptop") && text.contains("bob") && text.contains("nothing: this is a dry run"),
        "{text}"
    );

    all.json(&["admin", "unlock", "s1", "--dry-run"]);
    all.json(&["admin", "move", "s1", "--dry-run"]);
    assert_eq!(all.json(&["session", "get", "s1"]), before, "nothing was changed");
    let token = grant["lock_token"].as_str().unwrap();
    all.json(&["lock", "validate", "s1", "--token", token]);

    let other = all.run(&["admin", "takeover", "s1", "--dry-run", "--expected-lock-revision", "7", "--json"]);
    assert_eq!(json_of(&other, 3)["error"]["reason"], "lock_moved");
    let missing = all.run(&["admin", "takeover", "s2", "--dry-run", "--json"]);
    assert_eq!(json_of(&missing, 4)["error"]["reason"], "no_session");
    let client = all.run(&["--context", "client", "admin", "takeover", "s1", "--dry-run", "--json"]);
    assert_eq!(json_of(&client, 1)["error"]["reason"], "permission_denied");
    let usage = all.run(&["admin", "takeover", "s1"]);
    assert_eq!(usage.status.code(), Some(2), "without --dry-run an owner and a reason are needed");

    all.signal("w1", "-STOP");
    let preview = all.json(&takeover);
    all.signal("w1", "-CONT");
    assert_eq!(preview["agent"]["presence"], "silent", "{preview}");
    assert_eq!(preview["agent"]["unsaved_changes"], Value::Null, "{preview}");
    waiter.kill().unwrap();
    waiter.wait().unwrap();
}
