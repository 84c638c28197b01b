//! Each role tries each subject: what `docs/security.md` says is what nats-server does, with the settings of
//! `nats.conf` and with those of `deploy/nats/one-account.conf`.
//!
//! A refusal by the server is not enough: what counts is whether the message arrives. So probes listen in every
//! account, and send to every account.

mod attacks;
mod document;
mod earlier;
mod installation;
mod login;
mod parts;
mod rights;
mod rotate;
mod routes;
mod table;

use std::collections::BTreeSet;

use async_nats::{Client, ConnectOptions, Subscriber};
use futures_util::{FutureExt, StreamExt};

use installation::{Form, Installation, round_trip};
use table::{Row, Table};

/// The namespace of the confined client.
const NAMESPACE: &str = "team-a";

/// A subject that a pattern of the table stands for. The namespace is the token behind `hf.`.
fn literal(pattern: &str, namespace: &str) -> String {
    in_namespace(pattern, namespace).replace(['*', '>'], "x")
}

/// The pattern with its namespace, where a wildcard stands for it.
fn in_namespace(pattern: &str, namespace: &str) -> String {
    match pattern.strip_prefix("hf.*.") {
        Some(rest) => format!("hf.{namespace}.{rest}"),
        None => pattern.to_owned(),
    }
}

/// The user of a column.
fn user(column: &str) -> &str {
    match column {
        "one namespace" => "team-a",
        "other account" => "other",
        role => role,
    }
}

/// Whether what reaches an account counts. The system account gets a copy of what users ask their own account.
fn counts(account: &str, column: &str, subject: &str) -> bool {
    account != "SYS" || column == "sys" || subject.starts_with("$SYS.")
}

/// Everything that has arrived before the last round trip.
fn arrived(subscriber: &mut Subscriber) -> Vec<async_nats::Message> {
    std::iter::from_fn(|| subscriber.next().now_or_never().flatten()).collect()
}

/// The subjects that `column` can reach, of those in `patterns`.
async fn reached(
    installation: &Installation,
    probes: &[(&'static str, Client)],
    column: &str,
    patterns: &[(String, String)],
) -> BTreeSet<String> {
    let mut listening = Vec::new();
    for (account, probe) in probes {
        listening.push((account, probe, probe.subscribe(">").await.unwrap()));
        round_trip(probe).await;
    }
    let role = installation.connect(user(column)).await;
    for (pattern, subject) in patterns {
        role.publish(subject.clone(), format!("{column} to {pattern}").into()).await.unwrap();
    }
    round_trip(&role).await;
    let mut reached = BTreeSet::new();
    for (account, probe, mut subscriber) in listening {
        round_trip(probe).await;
        for message in arrived(&mut subscriber) {
            let text = String::from_utf8_lossy(&message.payload).into_owned();
            if let Some(pattern) = text.strip_prefix(&format!("{column} to "))
                && counts(account, column, pattern)
            {
                reached.insert(pattern.to_owned());
            }
        }
    }
    reached
}

/// The patterns on which `column` hears what the probes send, of those in `patterns`: where it listens, and to what
/// the probes send.
async fn heard(
    installation: &Installation,
    probes: &[(&'static str, Client)],
    column: &str,
    patterns: &[(String, String)],
) -> BTreeSet<String> {
    let role = installation.connect(user(column)).await;
    let mut listening = Vec::new();
    for (pattern, _) in patterns {
        listening.push((pattern, role.subscribe(pattern.clone()).await.unwrap()));
    }
    round_trip(&role).await;
    for (account, probe) in probes {
        for (pattern, subject) in patterns {
            if counts(account, column, pattern) {
                probe.publish(subject.clone(), "from a probe".into()).await.unwrap();
            }
        }
        round_trip(probe).await;
    }
    round_trip(&role).await;
    let heard = listening.into_iter().filter_map(|(pattern, mut subscriber)| {
        let is_heard = arrived(&mut subscriber).iter().any(|message| message.payload == "from a probe");
        is_heard.then(|| pattern.clone())
    });
    heard.collect()
}

/// Compares what `column` can do in `namespace` with what the table says.
async fn try_role(
    installation: &Installation,
    probes: &[(&'static str, Client)],
    column: &str,
    namespace: &str,
    expected: &[(&Row, table::May)],
) -> Vec<String> {
    let patterns: Vec<(String, String)> = expected
        .iter()
        .flat_map(|(row, _)| &row.patterns)
        .map(|pattern| (in_namespace(pattern, namespace), literal(pattern, namespace)))
        .collect();
    // With a wildcard for the namespace, a role that is not confined hears all of them.
    let listened: Vec<(String, String)> = match column {
        "one namespace" => patterns.clone(),
        _ => expected
            .iter()
            .flat_map(|(row, _)| &row.patterns)
            .map(|pattern| (pattern.clone(), literal(pattern, namespace)))
            .collect(),
    };
    let reached = reached(installation, probes, column, &patterns).await;
    let heard = heard(installation, probes, column, &listened).await;
    let mut wrong = Vec::new();
    let mut all = patterns.iter().zip(&listened);
    for (row, may) in expected {
        for _ in &row.patterns {
            let ((sent, _), (listened, _)) = all.next().unwrap();
            let form = installation.form;
            if reached.contains(sent) != may.send {
                wrong.push(format!("{form:?}: {column} sends to {sent}: {}", reached.contains(sent)));
            }
            if heard.contains(listened) != may.hear {
                wrong.push(format!("{form:?}: {column} hears {listened}: {}", heard.contains(listened)));
            }
        }
    }
    wrong
}

#[tokio::test(flavor = "multi_thread")]
async fn every_role_may_do_what_the_table_says_and_nothing_else() {
    let table = Table::read();
    assert_eq!(
        table.roles,
        ["coordinator", "worker", "ops", "client", "one namespace", "sys", "other account"],
        "the columns"
    );
    assert!(table.rows.len() > 50, "the table was not read");
    let mut wrong = Vec::new();
    for form in Form::BOTH {
        let installation = Installation::start(form).await;
        let probes = installation.probes().await;
        for (n, column) in table.roles.iter().enumerate() {
            let expected: Vec<_> = table.rows.iter().map(|row| (row, row.cells[n])).collect();
            wrong.extend(try_role(&installation, &probes, column, NAMESPACE, &expected).await);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_one_namespace_can_do_nothing_in_another() {
    let table = Table::read();
    let of_namespaces: Vec<_> = table
        .rows
        .iter()
        .filter(|row| row.patterns.iter().all(|pattern| pattern.starts_with("hf.*.")))
        .map(|row| (row, table::May::default()))
        .collect();
    assert!(of_namespaces.len() >= 8);
    for form in Form::BOTH {
        let installation = Installation::start(form).await;
        let probes = installation.probes().await;
        for namespace in ["default", "team-b", "sys"] {
            let wrong = try_role(&installation, &probes, "one namespace", namespace, &of_namespaces).await;
            assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        }
        // It may listen to all namespaces, or be refused; it hears its own only.
        let every = [("hf.*.signal.>".to_owned(), "hf.default.signal.s1.lock.acquired".to_owned())];
        assert!(heard(&installation, &probes, "one namespace", &every).await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_credentials_there_is_no_connection() {
    for form in Form::BOTH {
        let installation = Installation::start(form).await;
        let url = installation.server.url();
        let refused = async |options: ConnectOptions, what: &str| {
            let error = options.connect(&url).await.err().unwrap_or_else(|| panic!("{form:?}: {what} is connected"));
            assert_eq!(error.kind(), async_nats::ConnectErrorKind::AuthorizationViolation, "{form:?}: {what}");
        };
        refused(ConnectOptions::new(), "a connection without credentials").await;
        refused(ConnectOptions::with_token("coordinator".to_owned()), "a token").await;
        for user in ["coordinator", "worker", "ops", "client", "sys", "team-a", "nobody", "", "$G"] {
            for password in ["", "wrong", "coordinator", "$HOLDFAST_COORDINATOR_PASSWORD"] {
                let options = ConnectOptions::with_user_and_password(user.to_owned(), password.to_owned());
                refused(options, user).await;
            }
        }
    }
}
