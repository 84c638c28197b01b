//! What each user may do, tried on the servers: nothing that would let one stand in for another, and all that its part
//! needs.
//!
//! Invariant: no trial has an effect. A request is about a session that does not exist, and only asks; a write names a
//! stream that does not exist, so that the server refuses it (`Nats-Expected-Stream`); a message that is read has a
//! subject that has none.
//!
//! nats-server reports a violation apart from the request, in the order in which it reads the messages of a connection.
//! So a last message, which it surely refuses, tells that all violations before it have arrived.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::{Client, HeaderMap, Message};
use futures_util::future::{join, join_all};
use holdfast_client::protocol::subject::Root;
use holdfast_deploy::Role;
use holdfast_store::connect::{ConnectOptions, ErrorHook, connect};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use super::check::Check;
use super::servers::CONNECT;

/// How long an answer may take. A trial that gets none has reached nobody.
const ANSWER: Duration = Duration::from_millis(800);
/// How long the last violation may take.
const VIOLATION: Duration = Duration::from_millis(1_500);
const POLL: Duration = Duration::from_millis(10);
/// A session and a stream that nobody has.
const NOBODY: &str = "holdfast-doctor";
/// The error code of JetStream for an account that has none.
const NO_JETSTREAM: u64 = 10_039;

/// How a trial is made.
#[derive(Clone, Debug, PartialEq, Eq)]
enum How {
    /// A request with this body.
    Ask(String),
    /// A write that the server refuses.
    Write,
    /// A subscription.
    Listen,
}

/// What must be true of a trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    /// The part needs it.
    Allowed,
    /// It would let the user read or do what others alone may.
    Refused,
}

/// One thing to try.
#[derive(Clone, Debug)]
struct Trial {
    expect: Expect,
    how: How,
    subject: String,
    /// What it means, after "may" or "may not".
    means: &'static str,
}

/// Checks all users that there are credentials for.
pub(super) async fn checks(root: &Root, access: impl Fn(Role) -> Result<ConnectOptions, String>) -> Vec<Check> {
    let roles = [Role::Client, Role::Worker, Role::Ops, Role::Coordinator];
    let visits = roles.map(|role| {
        let options = access(role);
        async move {
            let name = format!("permissions of {}", role.user());
            match options {
                Err(how) => vec![Check::unchecked(name, "no credentials to try with", how)],
                Ok(options) if !options.has_credentials() => {
                    vec![Check::unchecked(name, "without a login there are no roles", "see `login`")]
                }
                Ok(options) => match visit(&options, &trials(role, root)).await {
                    Ok(found) => judge(role, &name, found),
                    Err(why) => vec![Check::unchecked(name, why, "correct the context")],
                },
            }
        }
    });
    join_all(visits).await.into_iter().flatten().collect()
}

/// What is tried as `role`.
fn trials(role: Role, root: &Root) -> Vec<Trial> {
    let mut all = Vec::new();
    let mut add = |expect, how: How, subject: String, means| all.push(Trial { expect, how, subject, means });
    let (allowed, refused) = (Expect::Allowed, Expect::Refused);
    let ask = |body: Value| How::Ask(body.to_string());
    let nothing = || ask(json!({}));
    let session = |verb: &str| format!("{root}.default.{verb}.{NOBODY}");
    let (sessions, workers, secrets) = (root.sessions_bucket(), root.workers_bucket(), root.secrets_bucket());
    let last = |bucket: &str| ask(json!({ "last_by_subj": format!("$KV.{bucket}.{NOBODY}") }));
    let stream = |what: &str, bucket: &str| format!("$JS.API.{what}.KV_{bucket}");
    let record = format!("$KV.{sessions}.default.{NOBODY}");
    let kept = format!("{root}.sys.keep.default.{NOBODY}.lock.released");
    if role != Role::Coordinator {
        let secret = "read the secret that lock tokens are made from";
        add(refused, last(&secrets), stream("STREAM.MSG.GET", &secrets), secret);
        add(refused, last(&secrets), stream("DIRECT.GET", &secrets), secret);
        add(refused, How::Write, format!("$KV.{secrets}.{NOBODY}"), "write the secret that lock tokens are made from");
        add(
            refused,
            How::Listen,
            ">".to_owned(),
            "read every message of its account: requests, replies and their tokens",
        );
        add(refused, How::Listen, "_INBOX.>".to_owned(), "read the replies to others, and their tokens");
        add(refused, How::Listen, "_INBOX_coordinator.>".to_owned(), "read the replies to coordinators");
        add(refused, How::Listen, format!("{root}.*.lock.>"), "answer in place of coordinators");
        add(refused, How::Write, root.act(NOBODY), "write acts of operators that nobody did");
        add(refused, How::Write, kept.clone(), "keep signals of what did not happen");
    }
    if role != Role::Ops {
        add(refused, How::Listen, "_INBOX_ops.>".to_owned(), "read the replies to operators, and their tokens");
    }
    match role {
        Role::Client => {
            add(refused, nothing(), session("admin.preview"), "send the requests of operators");
            add(refused, nothing(), format!("{root}.sys.worker.list"), "send the requests about workers");
            add(refused, How::Write, record, "write records of sessions");
            add(refused, How::Write, format!("$KV.{workers}.{NOBODY}"), "write leases of workers");
            add(refused, How::Write, format!("{root}.log.default.{NOBODY}"), "write into logs of sessions");
            add(refused, last(&sessions), stream("DIRECT.GET", &sessions), "read the records of every namespace");
            for verb in ["session.get", "lock.validate", "doc.get"] {
                add(allowed, nothing(), session(verb), "send the requests of programs");
            }
            add(allowed, How::Listen, format!("{root}.default.signal.{NOBODY}.>"), "hear signals");
        }
        Role::Worker => {
            add(refused, nothing(), session("admin.preview"), "send the requests of operators");
            for subject in [record, format!("$KV.{workers}.{NOBODY}"), format!("{root}.log.default.{NOBODY}")] {
                add(allowed, How::Write, subject, "write records, leases and logs");
            }
            for bucket in [&sessions, &workers] {
                add(allowed, nothing(), stream("STREAM.INFO", bucket), "look at its streams");
                add(allowed, last(bucket), stream("STREAM.MSG.GET", bucket), "read its streams");
                add(allowed, last(bucket), stream("DIRECT.GET", bucket), "read its streams");
            }
            add(allowed, How::Listen, format!("{root}.sys.agent.{NOBODY}.>"), "hear coordinators");
            add(allowed, How::Listen, format!("{root}.sys.control.{NOBODY}.>"), "hear coordinators");
            add(allowed, How::Listen, format!("{root}.sys.relay.floor"), "hear how far the relay came");
        }
        Role::Ops => {
            add(refused, How::Write, format!("{root}.log.default.{NOBODY}"), "write into logs of sessions");
            add(allowed, nothing(), session("admin.preview"), "send the requests of operators");
            add(allowed, nothing(), format!("{root}.sys.worker.list"), "send the requests about workers");
            add(allowed, How::Write, record, "repair records by hand");
            add(allowed, nothing(), stream("STREAM.INFO", &sessions), "look at streams");
            add(allowed, last(&sessions), stream("DIRECT.GET", &sessions), "read records");
            let acts = root.audit_stream();
            add(allowed, nothing(), format!("$JS.API.STREAM.INFO.{acts}"), "look at the acts of operators");
            let last_act = ask(json!({ "last_by_subj": root.act(NOBODY) }));
            add(allowed, last_act, format!("$JS.API.DIRECT.GET.{acts}"), "read the acts of operators");
            let relay = format!("$JS.API.CONSUMER.INFO.KV_{sessions}.relay");
            add(allowed, nothing(), relay, "see how far the relay came");
            add(allowed, How::Listen, format!("{root}.default.signal.{NOBODY}.>"), "hear signals");
        }
        Role::Coordinator | Role::Sys => {
            for bucket in [&sessions, &workers, &secrets] {
                add(allowed, nothing(), stream("STREAM.INFO", bucket), "look at its streams");
                add(allowed, last(bucket), stream("STREAM.MSG.GET", bucket), "read its streams");
            }
            for subject in [record, format!("$KV.{workers}.answered.{NOBODY}"), format!("$KV.{secrets}.token_key")] {
                add(allowed, How::Write, subject, "write records, answers and the secret");
            }
            add(allowed, How::Write, root.act(NOBODY), "keep the acts of operators");
            add(allowed, How::Write, kept, "keep signals");
            add(allowed, How::Write, root.relay_checkpoint(), "note how far the relay came");
            add(allowed, nothing(), format!("$JS.API.STREAM.INFO.{}", root.audit_stream()), "look at its streams");
            let relay = format!("$JS.API.CONSUMER.INFO.KV_{sessions}.relay");
            add(allowed, nothing(), relay, "read the stream for the relay");
            for group in ["session", "lock", "doc", "admin", "worker"] {
                add(allowed, How::Listen, format!("{root}.{NOBODY}.{group}.>"), "hear requests");
            }
            add(allowed, How::Listen, format!("{root}.sys.control.{NOBODY}.>"), "hear other coordinators");
        }
    }
    all
}

/// What came of a trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// NATS did not let it pass.
    Violation,
    /// It reached what it is about.
    Reached,
    /// It passed and reached nobody.
    Nobody,
}

/// Connects, and tries.
async fn visit(options: &ConnectOptions, trials: &[Trial]) -> Result<Vec<(Trial, Outcome)>, String> {
    let violations: Arc<Mutex<Vec<String>>> = Arc::default();
    let noted = violations.clone();
    let hook = ErrorHook(Arc::new(move |error| {
        noted.lock().unwrap_or_else(PoisonError::into_inner).push(error.to_ascii_lowercase());
    }));
    let name = Some("holdfast doctor: permissions".to_owned());
    let options = ConnectOptions { name, on_error: Some(hook), ..options.clone() };
    let connected = timeout(CONNECT, connect(&options)).await.map_err(|_| "no answer in time".to_owned())?;
    let nats = connected.map_err(|error| error.to_string())?;
    let visitor = Visitor { nats, violations };
    let mut subscriptions = Vec::new();
    for trial in trials.iter().filter(|trial| trial.how == How::Listen) {
        subscriptions.push(visitor.nats.subscribe(trial.subject.clone()).await);
    }
    let tried = join_all(trials.iter().map(|trial| visitor.attempt(trial)));
    let (tried, ()) = join(tried, visitor.until_told()).await;
    drop(subscriptions);
    let outcome = |(trial, reached): (&Trial, Outcome)| {
        let what = if trial.how == How::Listen { "subscription" } else { "publish" };
        let is_refused = visitor.is_refused(what, &trial.subject);
        (trial.clone(), if is_refused { Outcome::Violation } else { reached })
    };
    Ok(trials.iter().zip(tried).map(outcome).collect())
}

struct Visitor {
    nats: Client,
    /// What the server reported, in lower case.
    violations: Arc<Mutex<Vec<String>>>,
}

impl Visitor {
    fn is_refused(&self, what: &str, subject: &str) -> bool {
        let words = format!("permissions violation for {what} to \"{}\"", subject.to_ascii_lowercase());
        self.violations.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|error| error.contains(&words))
    }

    async fn attempt(&self, trial: &Trial) -> Outcome {
        let request = async_nats::Request::new().timeout(Some(ANSWER));
        let request = match &trial.how {
            // An allowed subscription is enough: nobody can tell what would come.
            How::Listen => return Outcome::Reached,
            How::Ask(body) => request.payload(body.clone().into()),
            How::Write => {
                let mut headers = HeaderMap::new();
                headers.insert("Nats-Expected-Stream", NOBODY);
                request.headers(headers).payload("".into())
            }
        };
        let refused = async {
            while !self.is_refused("publish", &trial.subject) {
                sleep(POLL).await;
            }
        };
        tokio::select! {
            answer = self.nats.send_request(trial.subject.clone(), request) => match answer {
                Ok(answer) if has_reached(&answer) => Outcome::Reached,
                Ok(_) | Err(_) => Outcome::Nobody,
            },
            () = refused => Outcome::Violation,
        }
    }

    /// Waits until the server has reported all violations of what was sent before.
    async fn until_told(&self) {
        let last = format!("{NOBODY}.last");
        let until = Instant::now() + VIOLATION;
        // The trials of the same connection are sent first: they are polled before this.
        tokio::task::yield_now().await;
        if self.nats.publish(last.clone(), "".into()).await.is_err() {
            return;
        }
        while !self.is_refused("publish", &last) && Instant::now() < until {
            sleep(POLL).await;
        }
    }
}

/// Whether an answer is from what the trial is about, and not from an account that has no streams.
fn has_reached(answer: &Message) -> bool {
    let told: Value = serde_json::from_slice(&answer.payload).unwrap_or_default();
    told["error"]["err_code"].as_u64() != Some(NO_JETSTREAM)
}

/// The findings about a user.
fn judge(role: Role, name: &str, tried: Vec<(Trial, Outcome)>) -> Vec<Check> {
    let user = role.user();
    let permissions = format!("{}_PERMISSIONS in deploy/nats/permissions.conf", user.to_uppercase());
    let wrong = tried.into_iter().filter_map(|(trial, outcome)| {
        let Trial { expect, how, subject, means } = trial;
        let verb = if how == How::Listen { "subscribe" } else { "publish" };
        match (expect, outcome) {
            (Expect::Refused, Outcome::Reached) => {
                let found = format!("the user {user} can {means} ({verb} {subject})");
                let fix = format!(
                    "take {subject} out of what {permissions} lets it {verb}, and out of the exports to its account; then \
                     nats-server --signal reload"
                );
                Some(Check::problem(name, found, fix))
            }
            (Expect::Allowed, Outcome::Violation) => {
                let found = format!("the user {user} may not {means} ({verb} {subject})");
                let fix =
                    format!("let it {verb} what that subject belongs to in {permissions}; then nats-server --signal reload");
                Some(Check::problem(name, found, fix))
            }
            _ => None,
        }
    });
    let wrong: Vec<Check> = wrong.collect();
    if wrong.is_empty() { vec![Check::ok(name, "it may do what its part needs, and nothing of others")] } else { wrong }
}

#[cfg(test)]
mod tests {
    use super::super::check::Verdict;
    use super::*;

    #[test]
    fn what_must_be_refused_and_what_must_be_allowed_are_told_apart() {
        let trial = |expect| Trial { expect, how: How::Write, subject: "a.b".to_owned(), means: "do it" };
        let verdict = |expect, outcome| judge(Role::Worker, "n", vec![(trial(expect), outcome)])[0].verdict;
        assert_eq!(verdict(Expect::Refused, Outcome::Reached), Verdict::Problem);
        assert_eq!(verdict(Expect::Refused, Outcome::Nobody), Verdict::Ok);
        assert_eq!(verdict(Expect::Refused, Outcome::Violation), Verdict::Ok);
        assert_eq!(verdict(Expect::Allowed, Outcome::Violation), Verdict::Problem);
        assert_eq!(verdict(Expect::Allowed, Outcome::Reached), Verdict::Ok);
        // A part that does not run is found elsewhere.
        assert_eq!(verdict(Expect::Allowed, Outcome::Nobody), Verdict::Ok);
    }

    #[test]
    fn no_trial_is_about_what_may_exist() {
        for role in [Role::Client, Role::Worker, Role::Ops, Role::Coordinator] {
            for trial in trials(role, &Root::default()) {
                let is_harmless = match &trial.how {
                    How::Write | How::Listen => true,
                    How::Ask(body) => {
                        body.contains(NOBODY)
                            || trial.subject.ends_with(NOBODY)
                            || trial.subject.contains(".INFO.")
                            || trial.subject.ends_with("worker.list")
                    }
                };
                assert!(is_harmless, "{trial:?}");
            }
        }
    }
}
