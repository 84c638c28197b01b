//! `holdfast lock run`: the command runs only while the lock is held.

use std::process::Stdio;
use std::time::{Duration, Instant};

use holdfast_tests::wait::{until, until_ok};

use crate::up::{SOON, Up, send};

/// A command that notes that it runs, and that and when it was told to end.
const NOTES: &str = "trap 'date +%s.%N > ended; exit 7' TERM; echo $$ > pid; while :; do sleep 0.05; done";
/// As above, with a background process that ignores SIGTERM. Its output is closed: a failing test must not wait for it.
const STUBBORN: &str = "sh -c 'trap \"\" TERM; echo $$ > below; while :; do sleep 0.05; done' \
    >/dev/null 2>&1 & echo $$ > pid; wait";

fn run<'a>(options: &[&'a str], script: &'a str) -> Vec<&'a str> {
    [&["lock", "run", "s1", "--open"], options, &["--", "sh", "-c", script]].concat()
}

async fn gone(up: &Up, file: &str) {
    let pid = up.read(file).trim().to_owned();
    assert!(!pid.is_empty(), "{file} is empty");
    until(&format!("process {pid} to be gone"), SOON, async || is_gone(&pid).then_some(())).await;
}

/// Nobody waits for a process whose parent is gone in some containers, so a zombie counts as gone.
fn is_gone(pid: &str) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z'))
}

fn is_locked(up: &Up) -> bool {
    !up.ask(&["session", "get", "s1", "--json"]).contains("\"lock\":null")
}

#[tokio::test]
async fn the_command_gets_the_lock_and_its_status_is_the_status() {
    let up = Up::start().await;
    let script = "holdfast=$1; [ -n \"$HOLDFAST_TOKEN\" ] && [ \"$HOLDFAST_FENCE\" -gt 0 ] || exit 90
        [ \"$HOLDFAST_SESSION $HOLDFAST_NAMESPACE $HOLDFAST_LOCK_REVISION\" = 's1 default 1' ] || exit 91
        \"$holdfast\" doc edit s1 --body 'by the holder' >/dev/null || exit 92
        cat; exit 5";
    let arguments = [&run(&[], script)[..], &["sh", env!("CARGO_BIN_EXE_holdfast")]].concat();
    let mut child = up.command(&arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"its own input").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(5), &b"its own input"[..]));
    assert_eq!(up.ask(&["doc", "get", "s1", "--raw"]), "by the holder");
    assert!(!is_locked(&up), "it is released");

    assert_eq!(up.run(&run(&[], "kill -KILL $$")).status.code(), Some(137));
    assert_eq!(up.run(&["lock", "run", "s1", "--", "no-such-command"]).status.code(), Some(127));
    assert_eq!(up.run(&["lock", "run", "s1", "--", "/"]).status.code(), Some(126));
    assert_eq!(up.run(&["lock", "run", "s9", "--", "true"]).status.code(), Some(4), "there is no such session");
    assert!(!is_locked(&up), "it is released");
}

#[tokio::test]
async fn two_commands_never_run_at_the_same_time() {
    let up = Up::start().await;
    // The shell's `set -C` opens with O_EXCL. Whoever meets the file of another one ends with 99.
    let script =
        "set -C; : > busy || exit 99; n=$(cat n 2>/dev/null || echo 0); sleep 0.05; echo $((n + 1)) >| n; rm busy";
    let loops: Vec<_> = (0..3)
        .map(|_| {
            let mut commands: Vec<_> =
                (0..5).map(|_| up.command(&run(&["--wait", "60s", "--ttl", "5s"], script))).collect();
            std::thread::spawn(move || commands.iter_mut().map(|one| one.status().unwrap().code()).collect::<Vec<_>>())
        })
        .collect();
    for one in loops {
        assert_eq!(one.join().unwrap(), [Some(0); 5]);
    }
    assert_eq!(up.read("n").trim(), "15");
}

#[tokio::test]
async fn a_takeover_ends_the_command_at_once() {
    let up = Up::start().await;
    let mut running = up.spawn(&run(&["--ttl", "30s"], NOTES));
    up.has("pid", "\n").await;
    let token = up.ask(&["admin", "takeover", "s1", "--owner", "ops", "--reason", "it is stuck", "--token-only"]);
    let begun = Instant::now();
    assert_eq!(running.status().await, Some(3));
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert!(!up.read("ended").is_empty(), "it was told to end");
    assert!(up.read("err").contains("taken over by ops (it is stuck)"), "{}", up.read("err"));
    assert!(up.ask(&["lock", "validate", "s1", "--token", token.trim()]).contains("ops holds"));

    let refused = up.run(&["lock", "run", "s1", "--", "true"]);
    assert_eq!(refused.status.code(), Some(3), "the lock is not to be had");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("lock_held"));
}

#[tokio::test]
async fn a_killed_run_takes_its_command_along() {
    let up = Up::start().await;
    let mut running = up.spawn(&run(&["--ttl", "3s", "--kill-after", "500ms"], STUBBORN));
    up.has("pid", "\n").await;
    up.has("below", "\n").await;
    running.signal("-KILL");
    assert_eq!(running.status().await, None);
    gone(&up, "pid").await;
    gone(&up, "below").await;
    until("the ttl to end the lock", SOON, async || (!is_locked(&up)).then_some(())).await;
}

#[tokio::test]
async fn what_the_command_left_ends_before_the_lock_is_released() {
    let up = Up::start().await;
    let script = "sh -c 'trap \"\" TERM; echo $$ > below; while :; do sleep 0.05; done' \
        >/dev/null 2>&1 & until [ -s below ]; do :; done";
    let begun = Instant::now();
    assert_eq!(up.run(&run(&["--kill-after", "500ms"], script)).status.code(), Some(0));
    assert!(begun.elapsed() >= Duration::from_millis(500), "it had its time");
    assert!(is_gone(up.read("below").trim()));
    assert!(!is_locked(&up));
}

#[tokio::test]
async fn a_signal_goes_to_the_command_and_then_the_lock_is_released() {
    let up = Up::start().await;
    let mut running = up.spawn(&run(&[], NOTES));
    up.has("pid", "\n").await;
    running.signal("-TERM");
    assert_eq!(running.status().await, Some(7), "the command's own status");
    assert!(!is_locked(&up));
}

#[tokio::test]
async fn an_outage_ends_the_command_before_the_ttl_is_over() {
    let up = Up::start().await;
    let mut running = up.spawn(&run(&["--ttl", "3s", "--kill-after", "500ms"], STUBBORN));
    up.has("below", "\n").await;
    // Long enough for several renewals, so that it is one of these that counts.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(running.0.try_wait().unwrap().is_none(), "renewals keep it: {}", up.read("err"));
    send("-STOP", up.nats_server());
    let begun = Instant::now();
    let below = up.read("below");
    until("the command to be gone", SOON, async || is_gone(below.trim()).then_some(())).await;
    let took = begun.elapsed();
    let status = running.status().await;
    send("-CONT", up.nats_server());
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert!(took > Duration::from_secs(1), "not before it must: {took:?}");
    assert_eq!(status, Some(3));
    assert!(up.read("err").contains("could not be renewed in time"), "{}", up.read("err"));
}

#[tokio::test]
async fn a_short_outage_does_not_end_the_command() {
    let up = Up::start().await;
    let mut running = up.spawn(&run(&["--ttl", "6s", "--kill-after", "500ms"], NOTES));
    up.has("pid", "\n").await;
    send("-STOP", up.nats_server());
    tokio::time::sleep(Duration::from_secs(2)).await;
    send("-CONT", up.nats_server());
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert!(running.0.try_wait().unwrap().is_none(), "{}", up.read("err"));
    running.signal("-TERM");
    assert_eq!(running.status().await, Some(7));
}

#[tokio::test]
async fn no_process_list_shows_the_token() {
    let up = Up::start().await;
    let mut running = up.spawn(&run(&[], &format!("echo $HOLDFAST_TOKEN > token; {NOTES}")));
    up.has("pid", "\n").await;
    let token = up.read("token").trim().to_owned();
    assert!(token.starts_with("hft_"), "{token}");
    let lines: Vec<String> = until_ok("the processes to be listed", SOON, async || {
        let folders = std::fs::read_dir("/proc").map_err(|error| error.to_string())?;
        Ok::<_, String>(
            folders.filter_map(|entry| std::fs::read_to_string(entry.ok()?.path().join("cmdline")).ok()).collect(),
        )
    })
    .await;
    assert!(lines.iter().any(|line| line.contains("HOLDFAST_TOKEN > token")), "the command is in the list");
    assert!(!lines.iter().any(|line| line.contains(&token)));
    running.signal("-TERM");
    running.status().await;
}
