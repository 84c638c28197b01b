//! A password is changed without a restart, as `docs/security.md` says.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use async_nats::ConnectOptions;
use holdfast_deploy::Conf;
use holdfast_tests::wait::until;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::document::{example, patched};
use super::installation::{Form, Installation};
use super::parts::ask;

const SOON: Duration = Duration::from_secs(20);

/// Changes the file of the running server, and has it read the file.
fn reload(installation: &Installation, change: impl Fn(&str) -> String) {
    let file: PathBuf = installation.server.log().with_file_name("nats.conf");
    fs::write(&file, change(&fs::read_to_string(&file).unwrap())).unwrap();
    let pid = i32::try_from(installation.server.pid().unwrap()).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::HUP).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_changed_without_a_restart() {
    // The test's server gets its name by `-n`, and the same name here lets it read the file again.
    let named = |text: &str| text.replace("\nsystem_account: SYS\n", "\nserver_name: test\nsystem_account: SYS\n");
    let installation = Installation::start_with(Form::Accounts, Conf::accounts("hf").changed(named)).await;
    let _parts = installation.parts().await;
    let url = installation.server.url();
    let as_user = async |user: &str, password: &str| {
        let options = ConnectOptions::with_user_and_password(user.to_owned(), password.to_owned());
        options.custom_inbox_prefix("_INBOX_client").max_reconnects(1).connect(&url).await
    };
    let before = installation.connect("client").await;
    ask(&before, "hf.default.session.open", json!({"id": "s1"})).await;

    let second = example("second user");
    reload(&installation, |text| patched(text, second));
    let new =
        until("the second user to be accepted", SOON, async || as_user("client-2", "the new password").await.ok())
            .await;
    let grant = ask(&new, "hf.default.lock.acquire.s1", json!({"owner": "a"})).await;
    assert!(grant["lock_token"].is_string(), "{grant}");
    ask(&before, "hf.default.session.get.s1", json!({})).await;
    assert_eq!(before.statistics().connects.load(std::sync::atomic::Ordering::Relaxed), 1, "it was disconnected");

    let first = second.lines().find(|line| line.contains("user: client,") && line.starts_with('+')).unwrap();
    reload(&installation, |text| text.replace(&first[1..], ""));
    until("the first user to be refused", SOON, async || {
        let password = installation.password("client");
        as_user("client", password).await.is_err().then_some(())
    })
    .await;
    until("the old connection to be closed", SOON, async || {
        let is_open = before.connection_state() == async_nats::connection::State::Connected;
        (!is_open).then_some(())
    })
    .await;
    let got = ask(&new, "hf.default.doc.get.s1", json!({})).await;
    assert!(got["body"].is_string(), "coordinator and worker are still there: {got}");
}
