//! The nats-servers: version, largest message, when they write to the disk, room, and whether they want a login.

use std::time::Duration;

use holdfast_deploy::SERVER_CONF;
use holdfast_store::connect::{ConnectError, ConnectOptions, DEFAULT_URL, connect};
use holdfast_store::provision::MINIMUM_SERVER;
use serde_json::Value;
use tokio::time::timeout;
use tracing::instrument::WithSubscriber;
use tracing::subscriber::NoSubscriber;

use super::check::Check;
use crate::probe::{Probe, data_of};

/// How long connecting as another user may take.
pub(super) const CONNECT: Duration = Duration::from_millis(1_500);
/// Where each server tells about itself.
const VARZ: &str = "$SYS.REQ.SERVER.PING.VARZ";
/// From this share of the room for streams on it is a problem, in percent.
const FULL: u64 = 95;
/// From this share on it is a warning.
const NEARLY_FULL: u64 = 80;

const RELOAD: &str = "change it in deploy/nats/server.conf and restart the server";

/// Checks the servers: the one of this connection, and with `sys` each of them.
pub(super) async fn checks(probe: &Probe, sys: Result<ConnectOptions, String>) -> Vec<Check> {
    let info = probe.nats.server_info();
    let each = match sys {
        Ok(options) => ask_each(&options).await,
        Err(how) => Err(how),
    };
    let servers = match each {
        Ok(servers) => servers,
        Err(how) => {
            let mut all = vec![
                version(&info.server_name, &info.version),
                max_payload(&info.server_name, info.max_payload as u64),
            ];
            let found = "not visible without the system account; neither are the servers that this one is connected to";
            all.push(Check::unchecked("sync_interval", found, how));
            return all;
        }
    };
    servers.iter().flat_map(|(name, server)| of(name, server)).collect()
}

/// Each server's name, and what it says about itself.
async fn ask_each(options: &ConnectOptions) -> Result<Vec<(String, Value)>, String> {
    let options = ConnectOptions { name: Some("holdfast doctor: sys".to_owned()), ..options.clone() };
    let connected = timeout(CONNECT, connect(&options)).await;
    let nats = connected.map_err(|_| "the system account does not answer".to_owned())?;
    let nats = nats.map_err(|error| format!("give a context of the system account: --sys CONTEXT ({error})"))?;
    let probe = Probe { nats, root: Default::default(), patience: CONNECT };
    let answers = probe.gather(VARZ, "").await;
    let server = |message: &async_nats::Message| {
        let (server, data) = data_of(message)?;
        data.is_object().then(|| (server["name"].as_str().unwrap_or("?").to_owned(), data))
    };
    let servers: Vec<(String, Value)> = answers.iter().filter_map(server).collect();
    if servers.is_empty() {
        return Err("use a context of the system account: --sys CONTEXT (this one gets no answer there)".to_owned());
    }
    Ok(servers)
}

/// The checks of one server.
fn of(name: &str, server: &Value) -> Vec<Check> {
    vec![
        version(name, server["version"].as_str().unwrap_or_default()),
        max_payload(name, server["max_payload"].as_u64().unwrap_or_default()),
        sync_interval(name, &server["jetstream"]["config"]),
        room(name, &server["jetstream"]),
    ]
}

fn version(name: &str, version: &str) -> Check {
    let minimum = format!("{}.{}.{}", MINIMUM_SERVER.0, MINIMUM_SERVER.1, MINIMUM_SERVER.2);
    if is_old(version) {
        let found =
            format!("{name} runs nats-server {version}; older ones than {minimum} let stale writers in on clusters");
        return Check::problem("server_version", found, format!("upgrade nats-server to {minimum} or newer"));
    }
    Check::ok("server_version", format!("{name} runs nats-server {version}"))
}

/// Whether `version` is older than what Holdfast needs; what is no version is.
fn is_old(version: &str) -> bool {
    let mut numbers = version.split(['.', '-']).map(|part| part.parse::<i64>().ok());
    let mut next = || numbers.next().flatten();
    match (next(), next(), next()) {
        (Some(major), Some(minor), Some(patch)) => (major, minor, patch) < MINIMUM_SERVER,
        _ => true,
    }
}

/// The setting `max_payload` of our own `server.conf`, in bytes.
fn needed_payload() -> u64 {
    let setting = SERVER_CONF.lines().find_map(|line| line.trim().strip_prefix("max_payload:"));
    let megabytes = setting.and_then(|value| value.trim().strip_suffix("MB")?.parse::<u64>().ok());
    megabytes.expect("server.conf has max_payload in MB") * 1024 * 1024
}

fn max_payload(name: &str, found: u64) -> Check {
    let needed = needed_payload();
    if found < needed {
        let text = format!("{name} takes messages of {found} bytes; a snapshot of a large document has up to {needed}");
        return Check::problem("max_payload", text, format!("set max_payload: {}MB; {RELOAD}", needed / 1024 / 1024));
    }
    Check::ok("max_payload", format!("{name} takes messages of {found} bytes"))
}

fn sync_interval(name: &str, config: &Value) -> Check {
    if config["sync_always"].as_bool() == Some(true) {
        return Check::ok("sync_interval", format!("{name} writes each message to the disk before it acknowledges it"));
    }
    let seconds = config["sync_interval"].as_u64().map(|nanos| nanos / 1_000_000_000);
    let every = seconds.map_or("from time to time only".to_owned(), |seconds| format!("every {seconds} s"));
    let found = format!("{name} writes to the disk {every}: a power failure takes back locks and edits");
    Check::problem("sync_interval", found, format!("set sync_interval: always within jetstream {{ }}; {RELOAD}"))
}

/// How full the room for streams is.
fn room(name: &str, jetstream: &Value) -> Check {
    let most = jetstream["config"]["max_storage"].as_u64().unwrap_or_default();
    let used = jetstream["stats"]["storage"].as_u64().unwrap_or_default();
    let percent = (used.saturating_mul(100)).checked_div(most).unwrap_or_default();
    let found = format!("{name} uses {percent} % of max_file_store ({used} of {most} bytes)");
    let fix = format!("free disk space and raise max_file_store; {RELOAD}; a full store refuses all writes");
    match percent {
        FULL.. => Check::problem("file_store", found, fix),
        NEARLY_FULL.. => Check::warning("file_store", found, fix),
        _ => Check::ok("file_store", found),
    }
}

/// Whether the server lets anybody in.
pub(super) async fn login(url: Option<&str>) -> Check {
    let options = ConnectOptions {
        name: Some("holdfast doctor: nobody".to_owned()),
        ..ConnectOptions::to(url.unwrap_or(DEFAULT_URL))
    };
    // The client library logs a refusal as an error. Here it is what is wanted.
    let connecting = connect(&options).with_subscriber(NoSubscriber::default());
    match timeout(CONNECT, connecting).await {
        Ok(Ok(_)) => {
            let fix = "use nats.conf or deploy/nats/one-account.conf, which have users; remove no_auth_user; `holdfast up` \
                       without --insecure does it";
            Check::problem("login", "the server lets everybody in who reaches its port, without a login", fix)
        }
        Ok(Err(ConnectError::Denied { .. })) => Check::ok("login", "nobody gets in without a login"),
        Ok(Err(ConnectError::Settings(_))) => Check::ok("login", "nobody gets in without TLS settings"),
        Ok(Err(error)) => Check::unchecked("login", error.to_string(), "start the server"),
        Err(_) => Check::unchecked("login", "no answer in time", "ask again"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::check::Verdict;
    use super::*;

    #[test]
    fn servers_that_are_too_old_are_found() {
        for old in ["2.14.3", "2.12.9", "2.9.0-beta.1", "1.4.4", "", "new"] {
            assert_eq!(version("n1", old).verdict, Verdict::Problem, "{old}");
        }
        for good in ["2.14.4", "2.15.1", "2.14.10", "3.0.0-RC.1"] {
            assert_eq!(version("n1", good).verdict, Verdict::Ok, "{good}");
        }
    }

    #[test]
    fn settings_of_a_server_are_judged() {
        assert_eq!(needed_payload(), 8 * 1024 * 1024);
        assert_eq!(max_payload("n1", 1024 * 1024).verdict, Verdict::Problem);
        assert_eq!(max_payload("n1", 8 * 1024 * 1024).verdict, Verdict::Ok);
        let seldom = sync_interval("n1", &json!({"sync_interval": 120_000_000_000_u64}));
        assert!(seldom.verdict == Verdict::Problem && seldom.found.contains("every 120 s"), "{seldom:?}");
        assert_eq!(sync_interval("n1", &json!({"sync_always": true})).verdict, Verdict::Ok);
        let room =
            |used: u64| room("n1", &json!({"config": {"max_storage": 1000}, "stats": {"storage": used}})).verdict;
        assert_eq!(
            [room(0), room(799), room(800), room(950)],
            [Verdict::Ok, Verdict::Ok, Verdict::Warning, Verdict::Problem]
        );
    }
}
