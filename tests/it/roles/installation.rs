//! A server with the roles of an installation, users for confined clients and strangers, and probes.
//!
//! A probe is a user without limits in one account. It shows what reached the account, whatever the server said to
//! the sender.

use std::time::Duration;

use async_nats::{Client, ConnectOptions};
use futures_util::StreamExt;
use holdfast_deploy::{Conf, Credentials, Role};
use holdfast_tests::server::{self, Own};

use super::parts::Parts;

/// The password of the users that only the test has.
const TEST_PASSWORD: &str = "of-the-test";

/// Which of the two ways an installation is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// `nats.conf`: an account for each kind of role.
    Accounts,
    /// `deploy/nats/one-account.conf`: all roles in one account.
    OneAccount,
}

impl Form {
    pub(super) const BOTH: [Self; 2] = [Self::Accounts, Self::OneAccount];

    /// The account with the streams.
    pub(super) fn main_account(self) -> &'static str {
        match self {
            Self::Accounts => "HOLDFAST",
            Self::OneAccount => "TEAM",
        }
    }

    /// The accounts of the installation, and a user in each of them.
    fn accounts(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Accounts => {
                &[("HOLDFAST", "coordinator"), ("OPS", "ops"), ("APP", "client"), ("TEAM_A", "team-a"), ("SYS", "sys")]
            }
            Self::OneAccount => &[("TEAM", "coordinator"), ("SYS", "sys")],
        }
    }

    /// The settings with a probe in each account, with the confined client of the file's comment, and with an account
    /// that has nothing to do with Holdfast.
    pub(super) fn conf(self) -> Conf {
        let conf = match self {
            Self::Accounts => Conf::accounts("hf"),
            Self::OneAccount => Conf::one_account("hf"),
        };
        conf.changed(|text| match text.find("\naccounts: {\n") {
            None => text.to_owned(),
            Some(_) => self.with_users_of_the_test(&with_confined_client(text)),
        })
    }

    fn with_users_of_the_test(self, text: &str) -> String {
        let mut text = text.to_owned();
        for (account, user) in self.accounts() {
            let found = format!("{{ user: {user}, password: $");
            assert_eq!(text.matches(&found).count(), 1, "{account}");
            let probe = format!("{{ user: probe-{account}, password: {TEST_PASSWORD} }}\n{found}");
            text = text.replace(&found, &probe);
        }
        let other = format!("\naccounts: {{\n    OTHER: {{ users: [{{ user: other, password: {TEST_PASSWORD} }}] }}\n");
        text.replace("\naccounts: {\n", &other)
    }
}

/// Takes the comment signs away from the example of a client that is confined to one namespace.
fn with_confined_client(text: &str) -> String {
    let mut is_example = false;
    let mut lines = Vec::new();
    for line in text.lines() {
        let plain = line.trim_start();
        is_example = plain.starts_with("# TEAM_A: {") || plain.starts_with("# { user: team-a") || is_example;
        is_example = is_example && plain.starts_with('#');
        lines.push(if is_example { plain.trim_start_matches('#') } else { line });
    }
    assert!(lines.iter().any(|line| line.contains("$TEAM_A_PASSWORD") && !line.contains('#')), "{text}");
    lines.join("\n")
}

/// A server with all of that.
pub(super) struct Installation {
    pub(super) form: Form,
    pub(super) server: Own,
    credentials: Credentials,
}

impl Installation {
    pub(super) async fn start(form: Form) -> Self {
        Self::start_with(form, form.conf()).await
    }

    pub(super) async fn start_with(form: Form, conf: Conf) -> Self {
        let credentials = Credentials::random();
        let mut variables = credentials.variables();
        variables.push(("TEAM_A_PASSWORD".to_owned(), TEST_PASSWORD.to_owned()));
        let set = |options: &mut holdfast_deploy::ServerOptions| {
            options.conf = conf;
            options.variables = variables;
        };
        Self { form, server: server::own(set).await.unwrap(), credentials }
    }

    /// The password of a user.
    pub(super) fn password(&self, user: &str) -> &str {
        let role = Role::ALL.into_iter().find(|role| role.user() == user);
        role.map_or(TEST_PASSWORD, |role| self.credentials.password(role))
    }

    /// A connection as this user. Violations are only logged by it, so that it goes on.
    pub(super) async fn connect(&self, user: &str) -> Client {
        let prefix = match user {
            "team-a" => "_INBOX_app.team-a".to_owned(),
            user if Role::ALL.iter().any(|role| role.user() == user) => format!("_INBOX_{user}"),
            _ => "_INBOX".to_owned(),
        };
        let options = ConnectOptions::with_user_and_password(user.to_owned(), self.password(user).to_owned());
        options.custom_inbox_prefix(prefix).connect(self.server.url()).await.unwrap()
    }

    /// A probe in each account: the account and its connection.
    pub(super) async fn probes(&self) -> Vec<(&'static str, Client)> {
        let mut probes = Vec::new();
        for (account, _) in self.form.accounts() {
            probes.push((*account, self.connect(&format!("probe-{account}")).await));
        }
        probes
    }

    /// A coordinator and a worker with the credentials of their roles.
    pub(super) async fn parts(&self) -> Parts {
        Parts::start(self.connect("coordinator").await, self.connect("worker").await).await.unwrap()
    }

    /// A connection without limits in the account with the streams.
    pub(super) async fn inside(&self) -> Client {
        self.connect(&format!("probe-{}", self.form.main_account())).await
    }
}

/// Waits until the server has handled everything that was sent on this connection before, and everything that it sent
/// on this connection has arrived. `flush` waits for neither.
pub(super) async fn round_trip(client: &Client) {
    let inbox = client.new_inbox();
    let mut echo = client.subscribe(inbox.clone()).await.unwrap();
    // Some users may send to their own inbox, and the others may ask who they are.
    client.publish(inbox.clone(), "".into()).await.unwrap();
    client.publish_with_reply("$SYS.REQ.USER.INFO", inbox, "".into()).await.unwrap();
    let heard = tokio::time::timeout(Duration::from_secs(10), echo.next()).await;
    heard.expect("a round trip to the server").expect("the subscription is open");
}
