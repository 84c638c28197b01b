//! The rights of coordinators and workers are enough for all that they do, and none of them is too much.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_nats::Client;
use holdfast_deploy::{Conf, Role};
use serde_json::{Value, json};

use super::installation::{Form, Installation, round_trip};
use super::parts::{Parts, try_ask};

const PERMISSIONS: &str = include_str!("../../../deploy/nats/permissions.conf");

/// The lists of one role in `deploy/nats/permissions.conf`.
#[derive(Debug)]
pub(super) struct Rights {
    pub(super) publish: Vec<String>,
    pub(super) publish_denied: Vec<String>,
    pub(super) subscribe: Vec<String>,
}

impl Rights {
    pub(super) fn of(role: Role) -> Self {
        let block = block_of(role);
        let (publish, subscribe) = block.split_once("subscribe:").unwrap();
        Self {
            publish: list(publish, "allow: ["),
            publish_denied: list(publish, "deny: ["),
            subscribe: list(subscribe, "allow: ["),
        }
    }
}

/// The lines of a role, without comments.
fn block_of(role: Role) -> String {
    let begin = format!("{}_PERMISSIONS: {{\n", role.user().to_uppercase());
    let (_, after) = PERMISSIONS.split_once(&begin).unwrap();
    let (block, _) = after.split_once("\n}\n").unwrap();
    block.lines().filter(|line| !line.trim_start().starts_with('#')).map(|line| format!("{line}\n")).collect()
}

fn list(text: &str, begin: &str) -> Vec<String> {
    let Some((_, after)) = text.split_once(begin) else { return Vec::new() };
    let (inside, _) = after.split_once(']').unwrap();
    inside.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Asks, and expects anything but an error reply.
async fn done(client: &Client, subject: &str, body: Value) -> Result<Value> {
    let reply = try_ask(client, subject, body).await.with_context(|| subject.to_owned())?;
    ensure!(reply["error"].is_null() && reply["code"].is_null(), "{subject}: {reply}");
    Ok(reply)
}

/// All that coordinators and workers do for a client and an operator, with two of each.
async fn work(installation: &Installation) -> Result<()> {
    let of = async |role: &str| installation.connect(role).await;
    let (client, ops) = (of("client").await, of("ops").await);
    let mut signals = client.subscribe("hf.*.signal.>").await?;
    let mut parts = Parts::start(of("coordinator").await, of("worker").await).await?;
    parts.add_worker(of("worker").await, "w2").await?;
    parts.add_coordinator(of("coordinator").await).await?;

    // The main path.
    done(&client, "hf.default.session.open", json!({"id": "s1"})).await?;
    let acquire = json!({"owner": "a", "ttl_ms": 60_000, "request_id": "first"});
    let grant = done(&client, "hf.default.lock.acquire.s1", acquire.clone()).await?;
    let token = &grant["lock_token"];
    for n in 0..40 {
        done(&client, "hf.default.doc.edit.s1", json!({"token": token, "body": n.to_string()})).await?;
    }
    done(&client, "hf.default.doc.undo.s1", json!({ "token": token })).await?;
    done(&client, "hf.default.doc.get.s1", json!({"consistency": "linearizable"})).await?;
    done(&client, "hf.default.lock.renew.s1", json!({ "token": token })).await?;
    done(&client, "hf.default.lock.validate.s1", json!({ "token": token })).await?;
    done(&client, "hf.default.session.list", json!({})).await?;
    done(&client, "hf.default.session.touch.s1", json!({})).await?;

    // Waiting, and a coordinator that leaves meanwhile.
    let waiter = of("client").await;
    let wait = json!({"owner": "b", "ttl_ms": 60_000, "wait_ms": 5_000, "request_id": "second"});
    let waits = tokio::spawn(async move {
        loop {
            let Ok(reply) = try_ask(&waiter, "hf.default.lock.acquire.s1", wait.clone()).await else {
                // The client library drops what arrives while a coordinator ends its subscriptions.
                continue;
            };
            // A coordinator that leaves passes its waiters on. If no other one confirms that, they ask again.
            if reply["error"]["reason"] != "draining" {
                return reply;
            }
        }
    });
    done(&client, "hf.default.session.list", json!({})).await?;
    parts.coordinators.remove(0).stop(Duration::from_secs(2)).await;
    done(&client, "hf.default.lock.release.s1", json!({ "token": token })).await?;
    let granted = waits.await?;
    ensure!(granted["lock_token"].is_string(), "{granted}");
    // A late copy, which the stored revisions answer.
    let again = done(&client, "hf.default.lock.acquire.s1", acquire).await?;
    ensure!(again["lock_token"] == *token, "a late copy gets the first grant: {again}");

    // Operators.
    done(&ops, "hf.default.admin.takeover.s1", json!({"owner": "ops", "reason": "r"})).await?;
    done(&ops, "hf.default.admin.unlock.s1", json!({"reason": "r"})).await?;
    let workers = done(&ops, "hf.sys.worker.list", json!({})).await?;
    ensure!(workers["workers"].as_array().is_some_and(|workers| workers.len() == 2), "{workers}");
    done(&ops, "hf.default.admin.move.s1", json!({"worker": "w2", "reason": "r"})).await?;
    done(&ops, "hf.default.admin.reclaim", json!({"max_idle_ms": 0})).await?;
    done(&client, "hf.default.doc.get.s1", json!({})).await?;
    done(&ops, "hf.sys.worker.drain.w2", json!({"reason": "r"})).await?;
    done(&ops, "hf.sys.worker.undrain.w2", json!({"reason": "r"})).await?;
    done(&ops, "hf.sys.admin.rotate_secret", json!({"reason": "r"})).await?;
    for subject in ["$SRV.PING.holdfast", "$SRV.INFO.holdfast", "$SRV.STATS.holdfast"] {
        done(&ops, subject, json!({})).await?;
    }
    // What the commands of operators read.
    let record = json!({"last_by_subj": "$KV.sessions.default.s1"});
    let lease = json!({"last_by_subj": "$KV.workers.w1"});
    for (subject, body) in [
        ("$JS.API.STREAM.INFO.KV_sessions", json!({})),
        ("$JS.API.STREAM.INFO.KV_workers", json!({})),
        ("$JS.API.STREAM.INFO.HF_SIGNALS", json!({})),
        ("$JS.API.STREAM.INFO.HF_AUDIT", json!({})),
        ("$JS.API.STREAM.MSG.GET.HF_AUDIT", json!({"last_by_subj": "hf.sys.audit.worker.drained"})),
        ("$JS.API.DIRECT.GET.HF_AUDIT", json!({"last_by_subj": "hf.sys.audit.worker.undrained"})),
        ("$JS.API.DIRECT.GET.HF_AUDIT", json!({"last_by_subj": "hf.sys.audit.secret.rotated"})),
        ("$JS.API.STREAM.MSG.GET.KV_sessions", record.clone()),
        ("$JS.API.STREAM.MSG.GET.KV_workers", lease.clone()),
        ("$JS.API.DIRECT.GET.KV_sessions", record),
        ("$JS.API.DIRECT.GET.KV_workers", lease),
        ("$JS.API.CONSUMER.INFO.KV_sessions.relay", json!({})),
        ("$SYS.REQ.USER.INFO", json!({})),
    ] {
        done(&ops, subject, body).await?;
    }

    // A worker that leaves, and the sweep.
    done(&client, "hf.default.session.open", json!({"id": "s2"})).await?;
    done(&client, "hf.default.doc.edit.s2", json!({"body": "x"})).await?;
    for name in ["w1", "w2"] {
        parts.workers.remove(name).context("a worker")?.stop(Duration::from_secs(5)).await;
        if name == "w1" {
            parts.add_worker(of("worker").await, "w3").await?;
        }
    }
    done(&client, "hf.default.doc.get.s2", json!({})).await?;
    done(&client, "hf.default.session.close.s2", json!({})).await?;
    let inside = installation.inside().await;
    // A coordinator looks every 5 s whether the sweep has become its work.
    for _ in 0..500 {
        let found = json!({"last_by_subj": "hf.log.default.s2"});
        if try_ask(&inside, "$JS.API.STREAM.MSG.GET.KV_sessions", found).await?["error"]["code"] == 404 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let left = json!({"last_by_subj": "hf.log.default.s2"});
    let left = try_ask(&inside, "$JS.API.STREAM.MSG.GET.KV_sessions", left).await?;
    ensure!(left["error"]["code"] == 404, "the log of a closed session is still there: {left}");
    let signal = tokio::time::timeout(Duration::from_secs(5), futures_util::StreamExt::next(&mut signals)).await;
    ensure!(signal.is_ok(), "no signal");
    for part in parts.workers.into_values() {
        part.stop(Duration::from_secs(2)).await;
    }
    for part in parts.coordinators {
        part.stop(Duration::from_secs(2)).await;
    }
    round_trip(&client).await;
    Ok(())
}

/// What the server refused to coordinators, workers and operators. (The round trips of this test try what clients may
/// not do.)
fn violations(installation: &Installation) -> Vec<String> {
    let log = std::fs::read_to_string(installation.server.log()).unwrap();
    let is_of_a_part =
        |line: &&str| ["coordinator", "worker", "ops"].iter().any(|user| line.contains(&format!("user:{user}\"")));
    log.lines().filter(|line| line.contains("Violation")).filter(is_of_a_part).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rights_are_enough_for_all_that_parts_do() {
    holdfast_tests::logs::begin();
    for form in Form::BOTH {
        let installation = Installation::start(form).await;
        work(&installation).await.unwrap_or_else(|error| panic!("{form:?}: {error:?}"));
        let refused = violations(&installation);
        assert!(refused.is_empty(), "{form:?}: {refused:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: tries each right of coordinators and workers, and prints those that nothing misses"]
async fn each_right_is_missed_when_it_is_gone() {
    let mut spare = Vec::new();
    for role in [Role::Coordinator, Role::Worker] {
        let rights = Rights::of(role);
        for (kind, right) in rights
            .publish
            .iter()
            .map(|right| ("publish", right))
            .chain(rights.subscribe.iter().map(|right| ("subscribe", right)))
        {
            let mut is_missed = false;
            for form in Form::BOTH {
                let installation = Installation::start_with(form, without(form.conf(), role, kind, right)).await;
                // It may fail or hang then; what counts is what the server says.
                tokio::time::timeout(Duration::from_secs(20), work(&installation)).await.ok();
                is_missed = !violations(&installation).is_empty();
                if is_missed {
                    break;
                }
            }
            println!("{} {kind} {right}: {}", role.user(), if is_missed { "missed" } else { "NOT MISSED" });
            if !is_missed {
                spare.push(format!("{} {kind} {right}", role.user()));
            }
        }
    }
    println!("not missed: {spare:#?}");
}

/// The settings without one right of one role.
fn without(conf: Conf, role: Role, kind: &str, right: &str) -> Conf {
    let begin = format!("{}_PERMISSIONS: {{\n", role.user().to_uppercase());
    conf.changed(|text| {
        let Some((before, after)) = text.split_once(&begin) else { return text.to_owned() };
        let (block, rest) = after.split_once("\n}\n").unwrap();
        let (publish, subscribe) = block.split_once("subscribe:").unwrap();
        let gone = |text: &str| text.replacen(&format!("\"{right}\""), "\"nothing\"", 1);
        let (publish, subscribe) = match kind {
            "publish" => (gone(publish), subscribe.to_owned()),
            _ => (publish.to_owned(), gone(subscribe)),
        };
        format!("{before}{begin}{publish}subscribe:{subscribe}\n}}\n{rest}")
    })
}
