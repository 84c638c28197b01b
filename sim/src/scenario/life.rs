//! Lives of a session: what was meant for one never reaches the next.

use anyhow::Result;
use holdfast_store::net::Link;
use serde_json::json;

use super::{ask, done, owner, pause, same};
use crate::Fleet;

/// An edit waits in a worker that stands still, while the session is closed and opened anew elsewhere.
pub(super) async fn an_edit_of_one_life_is_not_made_in_the_next(seed: u64) -> Result<()> {
    let fleet = Fleet::start(seed, 2, 2).await?;
    let (client, other) = (fleet.client("a"), fleet.client("b"));
    // The second coordinator has not seen the session, so that it reads the record after the edit has come.
    fleet.set_link("c2", Link::Broken)?;
    done(&client, "session.open", json!({"id": "s1", "content": {"body": "first"}})).await?;
    let first = owner(&client, "s1").await?;
    fleet.set_link("c2", Link::Up)?;
    fleet.set_link("c1", Link::Broken)?;
    fleet.set_link(&first, Link::Frozen)?;
    let edit = ask(&client, "doc.edit.s1", json!({"body": "of the first life", "request_id": "edit"}));
    let meanwhile = async {
        pause(20).await;
        fleet.set_link("c1", Link::Up)?;
        let taken = done(&other, "admin.takeover.s1", json!({"owner": "ops", "reason": "stuck"})).await?;
        done(&other, "session.close.s1", json!({"token": taken["lock_token"]})).await?;
        let open = json!({"id": "s1", "content": {"body": "second"}, "request_id": "open"});
        let goes_on = async {
            pause(50).await;
            fleet.set_link(&first, Link::Up)
        };
        let (opened, goes_on) = tokio::join!(done(&other, "session.open", open), goes_on);
        opened.and(goes_on)
    };
    let (_, meanwhile) = tokio::join!(edit, meanwhile);
    meanwhile?;
    let document = done(&client, "doc.get.s1", json!({"consistency": "linearizable"})).await?;
    same("the body of the second life", &document["body"], &json!("second"))
}
