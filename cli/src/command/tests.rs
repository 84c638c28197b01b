//! The command line, read as a shell gives it.

use super::*;

fn read(line: &[&str]) -> Result<Cli, clap::Error> {
    let matches = Cli::command().try_get_matches_from([&["holdfast"], line].concat())?;
    Cli::of(&matches)
}

fn status(line: &[&str]) -> i32 {
    read(line).map(|_| 0).unwrap_or_else(|error| error.exit_code())
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_request_of_the_contract_is_a_command() {
    let lines: &[&[&str]] = &[
        &["session", "open"],
        &["session", "open", "s1", "--mode", "create", "--idle-timeout-ms", "5000", "--on-idle", "close"],
        &["session", "open", "--path", "a.md", "--workspace", "w", "--lock", "required", "--body", "-x"],
        &["session", "open", "s1", "--body-file", "-", "--fields", r#"{"a":1}"#],
        &["session", "open", "c1", "--kind", "counter"],
        &["session", "get", "s1"],
        &["session", "list", "--limit", "5", "--after", "s0", "--state", "passive", "--worker", "w1"],
        &["session", "touch", "s1"],
        &["session", "close", "s1", "--token", "t", "--discard"],
        &["lock", "acquire", "s1", "--owner", "me", "--ttl-ms", "5000", "--wait-ms", "100"],
        &["lock", "acquire", "s1", "--owner", "me", "--expected-token", "t", "--rotate"],
        &["lock", "acquire", "s1", "--owner", "me", "--ttl", "1h30m", "--wait", "30s", "--token-only"],
        &["lock", "validate", "s1", "--token", "t"],
        &["lock", "renew", "s1", "--token", "t"],
        &["lock", "release", "s1", "--token", "t"],
        &["doc", "get", "s1", "--consistency", "linearizable"],
        &["doc", "get", "s1", "--raw"],
        &["doc", "edit", "s1", "--editor", "--owner", "me"],
        &["doc", "edit", "s1", "--token", "t", "--expected-revision", "3", "--body", "x", "--fields", "{}"],
        &["doc", "edit", "s1", "--splice", "0:1:a:b", "--splice", "2:0:c"],
        &["doc", "load", "s1", "--discard"],
        &["doc", "save", "s1", "--overwrite"],
        &["doc", "undo", "s1", "--expected-revision", "3"],
        &["doc", "redo", "s1", "--token", "t"],
        &["admin", "takeover", "s1", "--owner", "ops", "--reason", "r", "--expected-lock-revision", "1"],
        &["admin", "unlock", "s1", "--reason", "r", "--expected-lock-revision", "1"],
        &["admin", "move", "s1", "--worker", "w2", "--reason", "r"],
        &["admin", "takeover", "s1", "--owner", "ops", "--reason", "r", "--ttl", "5m", "--token-only"],
        &["admin", "reclaim", "--max-idle-ms", "5000"],
        &["admin", "reclaim", "--max-idle", "1h"],
        &["worker", "list"],
        &["worker", "drain", "w1", "--reason", "r"],
        &["worker", "undrain", "w1", "--reason", "r"],
        &["signals", "s1", "--group", "lock", "--count", "3"],
    ];
    for line in lines {
        read(line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
        let audited = [*line, &["--request-id", "r1", "--actor", "ann"]].concat();
        assert_eq!(status(&audited), if line[0] == "signals" { 2 } else { 0 }, "{line:?}");
    }
}

#[test]
fn passwords_are_made_for_an_address_without_a_login() {
    let make = |line: &[&str]| {
        let cli = read(line).unwrap();
        let Command::Credentials(credentials) = cli.command else { panic!("{:?}", cli.command) };
        credentials.run(&cli.connection)
    };
    let line = ["credentials", "--data", "/nowhere/x", "--nats", "nats://ops:p@h:1"];
    assert!(matches!(make(&line), Err(Failure::Usage(_))));
}

#[test]
fn operators_have_commands_of_their_own() {
    let lines: &[&[&str]] = &[
        &["status"],
        &["status", "--json"],
        &["doctor", "--sys", "sys", "--client", "a.json", "--worker", "b.json", "--coordinator", "c.json"],
        &["list", "--locked", "--owner", "ann", "--idle", "10m", "-A"],
        &["list", "--all-namespaces", "--watch"],
        &["session", "list", "--locked", "--watch"],
        &["admin", "takeover", "s1", "--dry-run"],
        &["admin", "unlock", "s1", "--dry-run", "--expected-lock-revision", "3"],
        &["admin", "move", "s1", "--worker", "w2", "--dry-run"],
    ];
    for line in lines {
        read(line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
    }
}

#[test]
fn a_wrong_command_line_is_status_two() {
    let lines: &[&[&str]] = &[
        &[],
        &["list", "--idle", "10m", "--watch"],
        &["list", "--after", "x", "--all-namespaces"],
        &["admin", "takeover", "s1"],
        &["admin", "move", "s1"],
        &["frobnicate"],
        &["session", "get"],
        &["session", "get", "a.b"],
        &["session", "open", "s1", "--path", "a.md"],
        &["session", "open", "--workspace", "w"],
        &["session", "open", "--body", "x", "--body-file", "f"],
        &["session", "open", "--fields", "[]"],
        &["session", "open", "--kind", "A counter"],
        &["lock", "acquire", "s1"],
        &["lock", "acquire", "s1", "--owner", "me", "--rotate"],
        &["doc", "edit", "s1"],
        &["doc", "edit", "s1", "--body", "x", "--splice", "0:0:a"],
        &["doc", "edit", "s1", "--editor", "--body", "x"],
        &["doc", "edit", "s1", "--editor", "--owner", "me", "--token", "t"],
        &["doc", "edit", "s1", "--owner", "me", "--body", "x"],
        &["doc", "get", "s1", "--consistency", "eventual"],
        &["lock", "acquire", "s1", "--owner", "me", "--ttl", "soon"],
        &["lock", "run", "s1"],
        &["lock", "run", "--", "true"],
        &["completions", "cmd"],
        &["admin", "takeover", "s1", "--owner", "ops"],
        &["worker", "drain", "w1"],
        &["-n", "sys", "session", "list"],
        &["--root", "a.b", "session", "list"],
        &["--timeout", "soon", "session", "list"],
        &["up", "--port", "0"],
        &["up", "--workers", "0"],
        &["up", "--workspace", "main"],
        &["session", "get", "s1", "--request-id", ""],
    ];
    for line in lines {
        assert_eq!(status(line), 2, "{line:?}");
    }
}

#[test]
fn shared_options_stand_anywhere() {
    for line in [["--json", "session", "get", "s1"], ["session", "get", "s1", "--json"]] {
        assert_eq!(read(&line).unwrap().format(), Format::Json);
    }
    let cli = read(&["session", "list", "-n", "team", "--nats", "nats://h:1", "--timeout", "3s"]).unwrap();
    assert_eq!(cli.connection.namespace.as_str(), "team");
    assert_eq!(cli.connection.nats.as_deref(), Some("nats://h:1"));
    assert_eq!(cli.connection.timeout.as_secs(), 3);
}

#[test]
fn a_worker_without_a_request_is_a_daemon() {
    let daemon = read(&["worker", "--name", "w9", "--workspace", "main=.", "--workspace", "b=/b:ro"]).unwrap();
    assert_eq!(daemon.runs(), Runs::AsDaemon);
    assert_eq!(read(&["coordinator"]).unwrap().runs(), Runs::AsDaemon);
    assert_eq!(read(&["worker", "list"]).unwrap().runs(), Runs::Once);
}

#[test]
fn up_uses_a_server_of_others_only_when_told_so() {
    let is_given = |line: &[&str]| match read(line).unwrap().command {
        Command::Up(up) => up.is_server_given,
        other => panic!("{other:?}"),
    };
    assert!(!is_given(&["up"]));
    assert!(is_given(&["up", "--nats", "nats://h:1"]));
    assert!(is_given(&["--nats", "nats://h:1", "up"]));
    assert!(is_given(&["up", "--context", "prod"]));
}

#[test]
fn a_token_is_not_in_the_debug_text_of_a_command() {
    for line in [&["lock", "renew", "s1", "--token", "secret"], &["doc", "undo", "s1", "--token", "secret"]] {
        let shown = format!("{:?}", read(line).unwrap());
        assert!(!shown.contains("secret"), "{shown}");
    }
}

#[test]
fn what_follows_two_dashes_is_the_command_to_run() {
    let line = ["lock", "run", "s1", "--ttl", "1m", "--", "sh", "-c", "x", "--json", "--ttl", "9"];
    let cli = read(&line).unwrap();
    assert_eq!(cli.format(), Format::People);
    assert!(cli.forwards_signals());
    assert!(read(&["doc", "edit", "s1", "--editor"]).unwrap().forwards_signals());
    assert!(!read(&["lock", "acquire", "s1", "--owner", "me"]).unwrap().forwards_signals());
}

#[test]
fn a_time_may_be_spoken_or_milliseconds() {
    for option in ["--ttl", "--ttl-ms"] {
        for time in ["5000", "5s", "5000ms"] {
            let cli = read(&["lock", "acquire", "s1", "--owner", "me", option, time]).unwrap();
            assert!(format!("{cli:?}").contains("ttl_ms: Some(5000)"), "{option} {time}: {cli:?}");
        }
    }
}
