//! `holdfast status` while one thing after the other is away.

use std::time::{Duration, Instant};

use holdfast_tests::server;
use holdfast_tests::wait::until_ok;
use serde_json::Value;

use crate::installation::{Installation, SOON, command, folder, json_of};

/// What it may take, whatever is away.
const AT_MOST: Duration = Duration::from_secs(3);

fn problems(report: &Value) -> Vec<String> {
    let problems = report["problems"].as_array().unwrap().iter();
    problems.map(|problem| problem["what"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_part_that_is_killed_is_named_and_the_rest_is_still_shown() {
    let mut all = Installation::start().await;
    all.json(&["session", "open", "s1"]);
    all.json(&["lock", "acquire", "s1", "--owner", "ann"]);
    let report = all.settles(0).await;
    assert_eq!(problems(&report), [""; 0]);
    assert_eq!((&report["sessions"]["active"], &report["sessions"]["locks"]), (&1.into(), &1.into()), "{report}");
    assert_eq!(report["relay"]["state"], "at_work");
    let worker = &report["workers"][0];
    assert!(worker["worker"] == "w1" && worker["state"] == "active" && worker["lease_age_ms"].is_u64(), "{report}");
    let text = String::from_utf8(all.run(&["status"]).stdout).unwrap();
    assert!(text.starts_with("all is well\n") && text.contains("1 active, 0 passive, 1 locked"), "{text}");

    all.kill("coordinator");
    let report = all.settles(1).await;
    assert_eq!(problems(&report).len(), 1, "{report}");
    assert!(problems(&report)[0].starts_with("no coordinator answers"), "{report}");
    assert_eq!(report["sessions"]["locks"], 1, "the buckets are read without a coordinator: {report}");
    let text = String::from_utf8(all.run(&["status"]).stdout).unwrap();
    assert!(text.contains("! no coordinator answers") && text.contains("start one: holdfast coordinator"), "{text}");

    all.kill("w1");
    until_ok("the worker's lease to lapse", SOON, async || {
        let report = json_of(&all.run(&["status", "--json"]), 1);
        let found = problems(&report);
        let is_told = |what: &str| found.iter().any(|problem| problem.contains(what));
        if is_told("no worker is alive") && is_told("worker w1 is gone, and 1 sessions") { Ok(()) } else { Err(report) }
    })
    .await;

    let root = all.root().await;
    let broken = root.request("$KV.sessions.default.broken", "{".into()).await.unwrap();
    assert!(String::from_utf8_lossy(&broken.payload).contains("seq"), "{broken:?}");
    let report = json_of(&all.run(&["status", "--json"]), 1);
    assert!(problems(&report).iter().any(|what| what.contains("the record default.broken does not parse")), "{report}");

    all.server.pause().unwrap();
    let begun = Instant::now();
    let output = all.run(&["status"]);
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    assert!(begun.elapsed() < AT_MOST, "{:?}", begun.elapsed());
    all.server.resume().unwrap();
    all.server.kill9().unwrap();
    let begun = Instant::now();
    assert_eq!(all.run(&["status"]).status.code(), Some(5));
    assert!(begun.elapsed() < AT_MOST, "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_three_that_is_away_is_named_with_the_copies_that_it_has() {
    let mut cluster = server::own_cluster().await.unwrap();
    let here = folder(&cluster.url(), None);
    let mut coordinator = command(here.path(), &["coordinator"]).spawn().unwrap();
    let mut worker = command(here.path(), &["worker", "--name", "w1"]).spawn().unwrap();
    let status = |wanted: i32| {
        let output = command(here.path(), &["status", "--json"]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.code() == Some(wanted) { Ok(json_of(&output, wanted)) } else { Err(said) }
    };
    let report = until_ok("all to be well", SOON, async || status(0)).await;
    assert_eq!(report["streams"][0]["replicas"].as_array().unwrap().len(), 2, "{report}");
    let leader = report["streams"][0]["leader"].as_str().unwrap();
    let away = ["n1", "n2", "n3"].into_iter().position(|name| name != leader).unwrap();
    let name = format!("n{}", away + 1);
    cluster.servers_mut()[away].kill9().unwrap();
    until_ok("the copy to be missed", SOON, async || {
        let begun = Instant::now();
        let report = status(1)?;
        assert!(begun.elapsed() < AT_MOST, "{:?}", begun.elapsed());
        let is_named =
            problems(&report).iter().any(|what| what.contains(&format!("the copy of KV_sessions on {name}")));
        if is_named { Ok(()) } else { Err(report.to_string()) }
    })
    .await;
    for child in [&mut coordinator, &mut worker] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
