//! The streams: their settings are compared with those that a coordinator would make, by the same code.

use async_nats::jetstream::stream::Config;
use holdfast_store::connect::{ConnectOptions, connect};
use holdfast_store::provision::{self, Difference, Provisioning};
use tokio::time::timeout;

use super::check::Check;
use super::servers::CONNECT;
use crate::probe::{Probe, StreamSeen, Told, Unread};

/// Checks the streams; the one with the secret with the credentials of a coordinator.
pub(super) async fn checks(probe: &Probe, coordinator: Result<ConnectOptions, String>) -> Vec<Check> {
    let needed = provision::needed(&probe.root, provision::replicas(&probe.nats), &Provisioning::default());
    let secrets = format!("KV_{}", probe.root.secrets_bucket());
    let of_coordinator = as_coordinator(probe, coordinator).await;
    let mut all = Vec::new();
    for config in needed {
        let told = match &of_coordinator {
            Err(how) if config.name == secrets => {
                all.push(Check::unchecked(&config.name, "only coordinators may look at it", how));
                continue;
            }
            Ok(coordinator) if config.name == secrets => coordinator.stream(&config.name).await,
            _ => probe.stream(&config.name).await,
        };
        all.extend(of(&config, &told));
    }
    all
}

async fn as_coordinator(probe: &Probe, options: Result<ConnectOptions, String>) -> Result<Probe, String> {
    let options = ConnectOptions { name: Some("holdfast doctor: coordinator".to_owned()), ..options? };
    let connected = timeout(CONNECT, connect(&options)).await.map_err(|_| "no answer in time".to_owned())?;
    let nats = connected.map_err(|error| error.to_string())?;
    Ok(Probe { nats, ..probe.clone() })
}

fn of(needed: &Config, told: &Told<StreamSeen>) -> Vec<Check> {
    let name = &needed.name;
    let found = match told {
        Ok(seen) => &seen.config,
        Err(Unread::Missing) => {
            return vec![Check::problem(name, "does not exist", "start a coordinator, which makes it")];
        }
        Err(why) => {
            let how = "start the nats-servers that are away; check with `holdfast context show` who you are";
            return vec![Check::problem(name, why.to_string(), how)];
        }
    };
    let wrong = provision::differences(needed, found);
    let weak = provision::weaknesses(needed, found);
    let told = |difference: &Difference| {
        let Difference { setting, found, needed } = difference;
        (format!("{setting} is {found}, and should be {needed}"), fix(name, difference))
    };
    let wrong = wrong.iter().map(|difference| {
        let (found, fix) = told(difference);
        Check::problem(name, found, fix)
    });
    let weak = weak.iter().map(|difference| {
        let (found, fix) = told(difference);
        Check::problem(name, found, fix)
    });
    let all: Vec<Check> = wrong.chain(weak).collect();
    if all.is_empty() { vec![Check::ok(name, "its settings are as a coordinator makes them")] } else { all }
}

/// The command of the `nats` CLI that sets it, for a user of the account that has the streams.
fn fix(stream: &str, difference: &Difference) -> String {
    let needed = &difference.needed;
    let edit = |option: &str| format!("nats stream edit {stream} {option}");
    match difference.setting {
        "num_replicas" => edit(&format!("--replicas {needed}")),
        "duplicate_window" => edit(&format!("--dupe-window {needed}")),
        "discard" => edit(&format!("--discard {}", needed.to_lowercase())),
        "allow_direct" => edit("--allow-direct"),
        "allow_rollup_hdrs" => edit("--allow-rollup"),
        "max_age" => edit(&format!("--max-age {needed}")),
        "max_bytes" => edit("--max-bytes=-1"),
        "max_msgs" => edit("--max-msgs=-1"),
        "max_msgs_per_subject" => edit(&format!("--max-msgs-per-subject {needed}")),
        "subjects" => edit(&format!("--subjects '{needed}'")),
        setting => format!(
            "{setting} cannot be changed on a stream that exists: stop all parts, `nats stream backup {stream} DIR`, remove \
             the stream, start a coordinator, which makes it anew, and put the records back"
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use async_nats::jetstream::stream::{DiscardPolicy, StorageType};
    use holdfast_client::protocol::subject::Root;

    use super::super::check::Verdict;
    use super::*;

    /// The finding about the sessions' stream after `change`.
    fn found(change: impl FnOnce(&mut Config)) -> Vec<Check> {
        let needed = provision::needed(&Root::default(), 3, &Provisioning::default()).remove(0);
        let mut config = needed.clone();
        change(&mut config);
        let state = serde_json::from_value(serde_json::json!({"messages": 0, "bytes": 0, "first_seq": 0,
            "first_ts": "1970-01-01T00:00:00Z", "last_seq": 0, "last_ts": "1970-01-01T00:00:00Z", "consumer_count": 0}));
        of(&needed, &Ok(StreamSeen { config, state: state.unwrap(), cluster: None, ts: None }))
    }

    #[test]
    fn each_setting_that_differs_is_found_with_its_fix() {
        assert_eq!(found(|_| ())[0].verdict, Verdict::Ok);
        type Change = fn(&mut Config);
        let cases: [(Change, &str, &str); 6] = [
            (|config| config.storage = StorageType::Memory, "storage is Memory", "backup KV_sessions"),
            (|config| config.num_replicas = 1, "num_replicas is 1, and should be 3", "edit KV_sessions --replicas 3"),
            (|config| config.duplicate_window = Duration::from_secs(1), "duplicate_window is 1s", "--dupe-window 120s"),
            (|config| config.discard = DiscardPolicy::Old, "discard is Old", "--discard new"),
            (|config| config.allow_direct = false, "allow_direct is false", "--allow-direct"),
            (|config| config.max_messages_per_subject = 1, "max_msgs_per_subject is 1", "--max-msgs-per-subject 64"),
        ];
        for (change, what, fix) in cases {
            let found = found(change);
            assert_eq!((found.len(), found[0].verdict), (1, Verdict::Problem), "{what}: {found:?}");
            assert!(found[0].found.contains(what), "{what}: {found:?}");
            assert!(found[0].fix.as_deref().unwrap_or_default().contains(fix), "{fix}: {found:?}");
        }
    }
}
