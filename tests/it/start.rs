//! Starting on a server that would not be safe: refused, with a sentence that names what is wrong.

use std::time::{Duration, Instant};

use async_nats::jetstream::stream::{Config, DiscardPolicy, StorageType};
use async_nats::jetstream::{self, Context};
use holdfast_protocol::subject::Root;
use holdfast_store::connect::{ConnectOptions, connect};
use holdfast_store::provision;
use holdfast_store::provision::{ProvisionError, Provisioned, Provisioning};
use holdfast_tests::fleet::Fleet;
use holdfast_tests::server;

/// Names a nats-server that is older than what Holdfast needs.
const OLD_SERVER_VARIABLE: &str = "HOLDFAST_OLD_NATS_SERVER";

async fn provisioned(url: &str, root: &Root) -> Result<Provisioned, ProvisionError> {
    let client = connect(&ConnectOptions::to(url)).await.unwrap();
    provision(
        &client,
        root,
        &Provisioning { signals_bytes: 1024 * 1024, acts_bytes: 1024 * 1024, ..Provisioning::default() },
    )
    .await
}

fn refusal(outcome: Result<Provisioned, ProvisionError>) -> String {
    outcome.err().expect("it starts where it must not").to_string()
}

/// What Holdfast makes by itself, with one thing changed and below another root.
async fn remade(context: &Context, like: &str, root: &Root, name: String, change: impl FnOnce(&mut Config)) {
    let mut stream = context.get_stream(like).await.unwrap();
    let found = stream.info().await.unwrap().config.clone();
    let subjects = match name.strip_prefix("KV_") {
        Some(bucket) if bucket == root.sessions_bucket() => root.sessions_stream_subjects(),
        Some(bucket) => vec![format!("$KV.{bucket}.>")],
        None => root.signals_stream_subjects(),
    };
    let mut config = Config { name, subjects, ..found };
    change(&mut config);
    context.create_stream(config).await.unwrap();
}

/// What is wrong with a stream.
type Change = fn(&mut Config);

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_jetstream_is_refused() {
    let server = server::own(|options| options.conf = "max_payload: 8MB".into()).await.unwrap();
    let told = refusal(provisioned(&server.url(), &Root::default()).await);
    assert!(told.contains("JetStream is not available") && told.contains("nats.conf"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_without_jetstream_is_refused() {
    let conf = "jetstream {}\naccounts { A { jetstream: enabled, users: [{user: a, password: a}] }, B { users: [{user: b, password: b}] } }\n\
                no_auth_user: b";
    let server = server::own(|options| options.conf = conf.into()).await.unwrap();
    let told = refusal(provisioned(&server.url(), &Root::default()).await);
    assert!(told.contains("JetStream"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_with_other_settings_is_refused_by_the_settings_name() {
    let url = server::shared().await.unwrap().url();
    let good = Fleet::empty(url).await.unwrap();
    let context = jetstream::new(good.nats.clone());
    let changes: [(&str, &str, Change); 12] = [
        ("discard", "Old", |config| config.discard = DiscardPolicy::Old),
        ("max_msgs_per_subject", "63", |config| config.max_messages_per_subject = 63),
        ("max_msgs_per_subject", "unlimited", |config| config.max_messages_per_subject = -1),
        ("deny_delete", "false", |config| config.deny_delete = false),
        ("allow_direct", "false", |config| config.allow_direct = false),
        ("max_age", "3600s", |config| config.max_age = Duration::from_secs(3600)),
        ("max_bytes", "1048576", |config| config.max_bytes = 1024 * 1024),
        ("max_msgs", "1000", |config| config.max_messages = 1000),
        ("storage", "Memory", |config| config.storage = StorageType::Memory),
        ("allow_rollup_hdrs", "false", |config| config.allow_rollup = false),
        ("subjects", "$KV", |config| config.subjects.truncate(1)),
        ("sealed", "true", |config| config.sealed = true),
    ];
    for (n, (setting, value, change)) in changes.into_iter().enumerate() {
        let root = Root::parse(&format!("{}-{n}", good.root)).unwrap();
        let name = root.sessions_stream();
        if setting == "sealed" {
            // Only a stream that is there can be sealed.
            provisioned(url, &root).await.unwrap();
            let mut config = context.get_stream(&name).await.unwrap().cached_info().config.clone();
            change(&mut config);
            context.update_stream(config).await.unwrap();
        } else {
            remade(&context, &good.root.sessions_stream(), &root, name.clone(), change).await;
        }
        let told = refusal(provisioned(url, &root).await);
        let beginning = format!("stream {name} has {setting} = ");
        assert!(told.starts_with(&beginning) && told.contains(value) && told.contains("needs"), "{setting}: {told}");
        for stream in [
            name,
            format!("KV_{}", root.workers_bucket()),
            format!("KV_{}", root.secrets_bucket()),
            root.signals_stream(),
            root.audit_stream(),
        ] {
            // Not all of them were made.
            context.delete_stream(stream).await.ok();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_buckets_are_looked_at_too() {
    let url = server::shared().await.unwrap().url();
    let good = Fleet::empty(url).await.unwrap();
    let context = jetstream::new(good.nats.clone());
    let bucket = |bucket: String| format!("KV_{bucket}");
    let root = Root::parse(&format!("{}-w", good.root)).unwrap();
    let name = bucket(root.workers_bucket());
    remade(&context, &bucket(good.root.workers_bucket()), &root, name.clone(), |config| {
        // Leases would never end.
        config.allow_message_ttl = false;
        config.subject_delete_marker_ttl = None;
    })
    .await;
    let told = refusal(provisioned(url, &root).await);
    assert!(told.starts_with(&format!("stream {name} has allow_msg_ttl = false")), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_already_is_taken_over_with_its_secret() {
    let mut fleet = Fleet::start(server::shared().await.unwrap().url()).await.unwrap();
    fleet.open("s1").await;
    let acquire = serde_json::json!({"owner": "a", "request_id": "r1"});
    let grant = fleet.ask("lock.acquire", "s1", acquire.clone()).await.ok();
    // As many processes as like may provision at once, and all have one secret.
    let again = futures_util::future::join_all((0..4).map(|_| provisioned(&fleet.url, &fleet.root))).await;
    assert!(
        again.into_iter().all(|outcome| outcome.is_ok_and(|found| found.replicas == 1 && found.warnings.len() == 1))
    );
    fleet.stop_coordinator().await;
    fleet.add_coordinator().await.unwrap();
    assert_eq!(fleet.ask("lock.acquire", "s1", acquire).await.ok(), grant, "a token is derived, not kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_too_old_is_refused() {
    let Some(binary) = std::env::var_os(OLD_SERVER_VARIABLE) else {
        println!("skipped: {OLD_SERVER_VARIABLE} does not name a nats-server before 2.14.4");
        return;
    };
    let server = server::own(|options| options.binary = binary.into()).await.unwrap();
    let told = refusal(provisioned(&server.url(), &Root::default()).await);
    assert!(told.contains("is too old") && told.contains("2.14.4"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_fresh_servers_the_first_signal_comes_within_a_second_of_the_first_commit() {
    for size in [1, 3] {
        let (one, three);
        let url = if size == 1 {
            one = server::own(|_| ()).await.unwrap();
            one.url()
        } else {
            three = server::own_cluster().await.unwrap();
            three.url()
        };
        let fleet = Fleet::start(&url).await.unwrap();
        let signals = fleet.signals().await.unwrap();
        let asked = Instant::now();
        fleet.open("s1").await;
        signals.wait_for("s1", "session.opened").await;
        let took = asked.elapsed();
        println!("the first signal came {took:?} after the first request on {size}");
        assert!(took < Duration::from_secs(1), "on {size}: {took:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_of_signals_of_an_earlier_version_is_changed_and_keeps_what_it_has() {
    for url in [server::shared().await.unwrap().url().to_owned(), server::shared_cluster().await.unwrap().url()] {
        let client = connect(&ConnectOptions::to(&url)).await.unwrap();
        let context = jetstream::new(client.clone());
        let root = Root::parse(&format!("b{}", &uuid::Uuid::new_v4().simple().to_string()[..16])).unwrap();
        let config = Config {
            name: root.signals_stream(),
            subjects: root.signals_stream_subjects_before().to_vec(),
            num_replicas: provision::replicas(&client),
            max_age: Duration::from_secs(7 * 24 * 3600),
            allow_direct: true,
            ..Config::default()
        };
        context.create_stream(config).await.unwrap();
        let subject = format!("{root}.default.signal.s1.lock.acquired");
        context.publish(subject.clone(), "before".into()).await.unwrap().await.unwrap();
        provisioned(&url, &root).await.unwrap();
        let kept = format!("{root}.sys.keep.default.s1.lock.acquired");
        context.publish(kept, "after".into()).await.unwrap().await.unwrap();
        let stream = context.get_stream(root.signals_stream()).await.unwrap();
        for (sequence, expected) in [(1, "before"), (2, "after")] {
            let stored = stream.get_raw_message(sequence).await.unwrap();
            assert_eq!((stored.subject.as_str(), &stored.payload[..]), (&*subject, expected.as_bytes()));
        }
        // Nothing is left to change.
        provisioned(&url, &root).await.unwrap();
    }
}
