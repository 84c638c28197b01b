//! Late copies: a request that took effect once takes no second effect.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{ask, ask_at, done, owner, pause, same};
use crate::client::Reply;
use crate::{Client, Fleet};

/// What a copy of a request is answered at each coordinator.
async fn copies(fleet: &Fleet, client: &Client, verb: &str, body: &Value) -> Result<Vec<Reply>> {
    let mut replies = Vec::new();
    for coordinator in ["c1", "c2", "c1"] {
        replies.push(ask_at(fleet, coordinator, client, verb, body.clone()).await?);
    }
    Ok(replies)
}

/// Grants, releases, takeovers and unlocks come once more, when others have had the lock since.
pub(super) async fn a_late_acquire_gets_its_first_grant(seed: u64) -> Result<()> {
    let fleet = Fleet::start(seed, 2, 1).await?;
    let client = fleet.client("a");
    done(&client, "session.open", json!({"id": "s1"})).await?;
    let mut asked: Vec<(&str, Value, Value)> = Vec::new();
    for n in 0..4 {
        let coordinator = if (seed + n).is_multiple_of(3) { "c2" } else { "c1" };
        let acquire = json!({"owner": "ann", "request_id": format!("acquire-{n}")});
        let grant = ask_at(&fleet, coordinator, &client, "lock.acquire.s1", acquire.clone()).await?;
        let Reply::Done(grant) = grant else { anyhow::bail!("no grant: {grant:?}") };
        let release = json!({"token": grant["lock_token"], "request_id": format!("release-{n}")});
        let takeover = json!({"owner": "ops", "reason": "stuck", "request_id": format!("takeover-{n}")});
        asked.push(("lock.acquire.s1", acquire, grant));
        if n % 2 == 0 {
            asked.push(("lock.release.s1", release.clone(), done(&client, "lock.release.s1", release).await?));
            done(&client, "lock.acquire.s1", json!({"owner": "bob"})).await?;
        }
        asked.push(("admin.takeover.s1", takeover.clone(), done(&client, "admin.takeover.s1", takeover).await?));
        let unlock = json!({"reason": "done", "request_id": format!("unlock-{n}")});
        asked.push(("admin.unlock.s1", unlock.clone(), done(&client, "admin.unlock.s1", unlock).await?));
        let before = done(&client, "session.get.s1", json!({})).await?;
        for (verb, body, first) in asked.iter().rev().take(6) {
            for reply in copies(&fleet, &client, verb, body).await? {
                same(&format!("{verb} {}", body["request_id"]), &reply, &Reply::Done(first.clone()))?;
            }
        }
        let after = done(&client, "session.get.s1", json!({})).await?;
        same("the lock revision behind late copies", &after["lock_revision"], &before["lock_revision"])?;
    }
    Ok(())
}

/// `open` and `close` come once more, when the session was closed and opened anew since.
pub(super) async fn a_late_open_and_a_late_close_leave_the_next_life_alone(seed: u64) -> Result<()> {
    let fleet = Fleet::start(seed, 2, 1).await?;
    let client = fleet.client("a");
    let open =
        |n: u64| json!({"id": "s1", "content": {"body": format!("life {n}")}, "request_id": format!("open-{n}")});
    let close = |n: u64| json!({"request_id": format!("close-{n}")});
    for n in 0..3 {
        let reply =
            ask_at(&fleet, if (seed + n).is_multiple_of(2) { "c1" } else { "c2" }, &client, "session.open", open(n))
                .await?;
        ensure!(matches!(&reply, Reply::Done(opened) if opened["created"] == true), "life {n} is not made: {reply:?}");
        // Both coordinators have seen it.
        copies(&fleet, &client, "session.get.s1", &json!({})).await?;
        if n > 0 {
            for reply in copies(&fleet, &client, "session.close.s1", &close(n - 1)).await? {
                ensure!(matches!(reply, Reply::Done(_)), "a late close is answered as the first was: {reply:?}");
            }
            for reply in copies(&fleet, &client, "session.open", &open(n - 1)).await? {
                same("a late open of a session that is over", reply.reason(), Some("no_session"))?;
            }
            let document = done(&client, "doc.get.s1", json!({"consistency": "linearizable"})).await?;
            same("the body of the next life", &document["body"], &json!(format!("life {n}")))?;
        }
        let closing = if (seed / 2 + n).is_multiple_of(2) { "c1" } else { "c2" };
        let closed = ask_at(&fleet, closing, &client, "session.close.s1", close(n)).await?;
        ensure!(matches!(closed, Reply::Done(_)), "life {n} is not closed: {closed:?}");
        let other = if closing == "c1" { "c2" } else { "c1" };
        let late = ask_at(&fleet, other, &client, "session.open", open(n)).await?;
        same("a late open of what was just closed elsewhere", late.reason(), Some("no_session"))?;
    }
    Ok(())
}

/// A move, a drain and a reclaim come once more, when operators have undone them since.
pub(super) async fn a_late_move_and_a_late_drain_do_nothing(seed: u64) -> Result<()> {
    let fleet = Fleet::start(seed, 2, 2).await?;
    let client = fleet.client("a");
    done(&client, "session.open", json!({"id": "s1"})).await?;
    let first = owner(&client, "s1").await?;
    let second = if first == "w1" { "w2" } else { "w1" };
    let to = |worker: &str, id: &str| json!({"worker": worker, "reason": "test", "request_id": id});
    done(&client, "admin.move.s1", to(second, "there")).await?;
    done(&client, "admin.move.s1", to(&first, "back")).await?;
    copies(&fleet, &client, "admin.move.s1", &to(second, "there")).await?;
    same("the owner behind a late move", owner(&client, "s1").await?, first.clone())?;

    let sys = |verb: &str| format!("hf.sys.worker.{verb}.{first}");
    client.ask(&sys("drain"), &json!({"reason": "test", "request_id": "drain"})).await.done();
    pause(2_000).await;
    client.ask(&sys("undrain"), &json!({"reason": "test", "request_id": "undrain"})).await.done();
    pause(3_000).await;
    for _ in 0..3 {
        ask(&client, "session.get.s1", json!({})).await;
        client.ask(&sys("drain"), &json!({"reason": "test", "request_id": "drain"})).await;
        pause(3_000).await;
    }
    let acts: Vec<String> = fleet.net.acts().iter().map(|act| act.subject.to_string()).collect();
    same("the acts", acts, vec!["hf.sys.audit.worker.drained".to_owned(), "hf.sys.audit.worker.undrained".to_owned()])?;
    let list = client.ask("hf.sys.worker.list", &json!({})).await.done();
    let states: Vec<&Value> = list["workers"].as_array().into_iter().flatten().map(|worker| &worker["state"]).collect();
    same("the workers' states behind a late drain", states, vec![&json!("ready"); 2])
}
