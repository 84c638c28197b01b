//! Creates the buckets and streams, or checks those that exist.
//!
//! Invariant: Holdfast does not start on unsafe settings; the refusal names the setting.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::context::{CreateStreamErrorKind, GetStreamError, GetStreamErrorKind};
use async_nats::jetstream::stream::{
    Config, DiscardPolicy, PersistenceMode, RetentionPolicy, StorageType, SubjectTransform,
};
use async_nats::jetstream::{self, Context};
use holdfast_protocol::subject::Root;
use holdfast_protocol::token::Secret;
use tokio::time::Instant;

use crate::jetstream::Jetstream;
use crate::{Storage, StoreError};

/// The oldest nats-server that is safe: older ones accept stale conditional writes on clusters.
pub const MINIMUM_SERVER: (i64, i64, i64) = (2, 14, 4);
/// How many messages are kept of each record and each log.
pub(crate) const PER_SUBJECT: i64 = 64;
const SIGNALS_AGE: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long acts of operators are kept. For as long a late copy of a request gives no second one.
const ACTS_AGE: Duration = Duration::from_secs(90 * 24 * 3600);
/// How long to wait for a cluster whose nodes are still starting.
const GATHER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long to wait for the stream of acts, without which a coordinator starts as well.
const ACTS_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait for one answer. A cluster that has no leader yet drops requests, and the client library would wait
/// 5 seconds for the answer.
const ASK_TIMEOUT: Duration = Duration::from_millis(750);
/// The pause before the next attempt.
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// How often a part says that it waits.
const SAY_AGAIN: Duration = Duration::from_secs(10);
/// nats-server's error code for a cluster that has too few servers yet.
const NO_SUITABLE_PEERS: u64 = 10005;

/// The part that provisions. A part checks only what it uses, and needs permissions for nothing else. Only coordinators
/// create; a worker waits until a coordinator has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Sessions, workers, secrets, kept signals and acts of operators.
    Coordinator,
    /// Sessions and workers.
    Worker,
}

/// What [`provision`] may choose.
#[derive(Clone, Debug)]
pub struct Provisioning {
    /// The part that provisions.
    pub role: Role,
    /// How many bytes of signals are kept at most. The server reserves them, so a small disk needs less than the
    /// contract's 1 GiB.
    pub signals_bytes: i64,
    /// How many bytes of acts are kept at most. The server reserves them, too.
    pub acts_bytes: i64,
}

impl Default for Provisioning {
    fn default() -> Self {
        Self { role: Role::Coordinator, signals_bytes: 1024 * 1024 * 1024, acts_bytes: 64 * 1024 * 1024 }
    }
}

impl Provisioning {
    /// What a worker uses.
    pub fn of_worker() -> Self {
        Self { role: Role::Worker, ..Self::default() }
    }
}

/// What was provisioned.
pub struct Provisioned {
    /// The store.
    pub store: Arc<Jetstream>,
    /// The number of replicas of each stream.
    pub replicas: usize,
    /// What an operator should know.
    pub warnings: Vec<String>,
}

/// Why Holdfast cannot start on this server.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionError {
    /// The server is too old.
    #[error(
        "nats-server {found} is too old: Holdfast needs 2.14.4 or newer (older ones let stale writers in on clusters)"
    )]
    TooOld {
        /// Its version.
        found: String,
    },
    /// The server has no JetStream, or this account may not use it.
    #[error("JetStream is not available: {0}; start nats-server with `jetstream` in its configuration (see nats.conf)")]
    NoJetstream(String),
    /// A stream exists with an unsafe setting.
    #[error("stream {stream} has {setting} = {found}, and Holdfast needs {needed}")]
    Setting {
        /// The stream.
        stream: String,
        /// The setting.
        setting: &'static str,
        /// Its value.
        found: String,
        /// The value it must have.
        needed: String,
    },
    /// A stream cannot be created.
    #[error("cannot create stream {stream}: {why}")]
    Create {
        /// The stream.
        stream: String,
        /// What the server said.
        why: String,
    },
    /// The store does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Checks the server, and creates or checks what the part needs below `root`. Any number of processes may do so at
/// once. A worker waits without end for a coordinator to create it, and says every 10 seconds that it waits.
///
/// # Errors
/// [`ProvisionError`], which names what is wrong.
pub async fn provision(client: &Client, root: &Root, choices: &Provisioning) -> Result<Provisioned, ProvisionError> {
    check_server(client)?;
    let mut context = jetstream::new(client.clone());
    context.set_timeout(ASK_TIMEOUT);
    let replicas = replicas(client);
    let mut warnings = Vec::new();
    for config in configs(root, replicas, choices) {
        if config.name == root.audit_stream() {
            warnings.extend(ensure_acts(&context, root, config, choices.role).await?);
        } else {
            ensure_stream(&context, root, config, choices.role, GATHER_TIMEOUT).await?;
        }
    }
    let store = Arc::new(Jetstream::new(client.clone(), root.clone()).await?);
    if replicas == 1 && choices.role == Role::Coordinator {
        warnings.push(
            "a single nats-server: one copy of everything; sessions are as safe as that server's disk, and stand still while \
             it is away. A cluster of three keeps going without one of them."
                .to_owned(),
        );
    }
    Ok(Provisioned { store, replicas, warnings })
}

fn check_server(client: &Client) -> Result<(), ProvisionError> {
    let info = client.server_info();
    let (major, minor, patch) = MINIMUM_SERVER;
    if !client.is_server_compatible(major, minor, patch) {
        return Err(ProvisionError::TooOld { found: info.version });
    }
    if !info.jetstream {
        return Err(ProvisionError::NoJetstream(format!("server {} has it switched off", info.server_name)));
    }
    Ok(())
}

/// How many copies of each stream Holdfast keeps on the servers of this connection.
pub fn replicas(client: &Client) -> usize {
    if client.server_info().cluster.is_some() { 3 } else { 1 }
}

fn configs(root: &Root, replicas: usize, choices: &Provisioning) -> Vec<Config> {
    let bucket = |bucket: String, history: i64| Config {
        name: format!("KV_{bucket}"),
        subjects: vec![format!("$KV.{bucket}.>")],
        max_messages_per_subject: history,
        discard: DiscardPolicy::New,
        storage: StorageType::File,
        num_replicas: replicas,
        allow_rollup: true,
        deny_delete: true,
        allow_direct: true,
        duplicate_window: Duration::from_secs(120),
        ..Config::default()
    };
    let sessions = Config {
        subjects: root.sessions_stream_subjects(),
        description: Some("Holdfast: session records and their logs".to_owned()),
        ..bucket(root.sessions_bucket(), PER_SUBJECT)
    };
    let workers = Config {
        description: Some("Holdfast: leases of workers".to_owned()),
        allow_message_ttl: true,
        subject_delete_marker_ttl: Some(crate::LEASE_TTL),
        ..bucket(root.workers_bucket(), 1)
    };
    let secrets = Config {
        description: Some("Holdfast: secrets; only coordinators may read this".to_owned()),
        ..bucket(root.secrets_bucket(), 1)
    };
    let (source, destination) = root.signals_stream_transform();
    let signals = Config {
        name: root.signals_stream(),
        subjects: root.signals_stream_subjects(),
        subject_transform: Some(SubjectTransform { source, destination }),
        description: Some("Holdfast: session and lock signals of the last days".to_owned()),
        max_age: SIGNALS_AGE,
        max_bytes: choices.signals_bytes,
        storage: StorageType::File,
        num_replicas: replicas,
        allow_direct: true,
        // Signals can be derived from the sessions' stream again, so they need no disk flush each. Replicated streams
        // do not allow this setting; there the relay writes them in batches.
        persist_mode: (replicas == 1).then_some(PersistenceMode::Async),
        allow_atomic_publish: replicas > 1,
        ..Config::default()
    };
    let acts = Config {
        name: root.audit_stream(),
        subjects: root.audit_stream_subjects(),
        description: Some("Holdfast: what operators did to workers and to the secret".to_owned()),
        max_age: ACTS_AGE,
        max_bytes: choices.acts_bytes,
        duplicate_window: ACTS_AGE,
        storage: StorageType::File,
        num_replicas: replicas,
        allow_direct: true,
        // Nobody takes an entry out of an audit.
        deny_delete: true,
        deny_purge: true,
        ..Config::default()
    };
    match choices.role {
        Role::Coordinator => vec![sessions, workers, secrets, signals, acts],
        Role::Worker => vec![sessions, workers],
    }
}

/// Checks or creates the stream of acts. Returns what an operator should know when that is not possible: the nats.conf
/// of an earlier version does not let coordinators do it, and no session needs that stream.
async fn ensure_acts(
    context: &Context,
    root: &Root,
    config: Config,
    role: Role,
) -> Result<Option<String>, ProvisionError> {
    match ensure_stream(context, root, config, role, ACTS_TIMEOUT).await {
        Ok(()) => Ok(None),
        Err(ProvisionError::Create { stream, why }) => Ok(Some(format!(
            "cannot create or read stream {stream}: {why}. Drains, undrains and rotations of the secret are in the log \
             only, and not in `holdfast audit`. The nats.conf of this version lets coordinators create it at their start."
        ))),
        Err(error) => Err(error),
    }
}

/// Checks a stream. A coordinator creates it if it is missing, a worker waits for it.
async fn ensure_stream(
    context: &Context,
    root: &Root,
    config: Config,
    role: Role,
    patience: Duration,
) -> Result<(), ProvisionError> {
    let mut waiting = Waiting::begin(patience);
    let mut has_changed = false;
    loop {
        let why = match context.get_stream(&config.name).await {
            Ok(stream) => match upgraded(root, &config, &stream.cached_info().config) {
                // Another coordinator may have changed it a moment ago, so it is read again then.
                Some(next) if role == Role::Coordinator && !has_changed => match context.update_stream(next).await {
                    Ok(_) => {
                        tracing::info!(stream = config.name, "changed the stream from an earlier version's settings");
                        has_changed = true;
                        continue;
                    }
                    Err(error) => format!(
                        "an earlier version made it, and its settings cannot be changed: {error}; the nats.conf of this \
                         version lets coordinators change it"
                    ),
                },
                _ => return check_settings(&config, &stream.cached_info().config),
            },
            Err(error) if is_missing(&error) => match role {
                Role::Worker => {
                    waiting.is_for_a_coordinator();
                    format!("stream {} is missing: no coordinator has run here yet", config.name)
                }
                // Another process may have created it a moment ago, so it is read again then.
                Role::Coordinator => match create_stream(context, &config).await? {
                    None => continue,
                    Some(why) => why,
                },
            },
            Err(error) => error.to_string(),
        };
        if waiting.is_over() {
            return Err(ProvisionError::Create { stream: config.name, why });
        }
        waiting.say(&why);
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

/// The settings for a stream of signals that an earlier version made: it took signals on their own subjects.
fn upgraded(root: &Root, needed: &Config, found: &Config) -> Option<Config> {
    let mut subjects = found.subjects.clone();
    subjects.sort_unstable();
    let is_of_before = needed.name == root.signals_stream()
        && found.subject_transform.is_none()
        && subjects == root.signals_stream_subjects_before();
    is_of_before.then(|| Config {
        subjects: needed.subjects.clone(),
        subject_transform: needed.subject_transform.clone(),
        allow_atomic_publish: needed.allow_atomic_publish && found.num_replicas > 1,
        ..found.clone()
    })
}

fn is_missing(error: &GetStreamError) -> bool {
    matches!(error.kind(), GetStreamErrorKind::JetStream(ref inner) if inner.code() == 404)
}

/// Creates a stream. Returns why it could not be created just now; `None` when it was.
async fn create_stream(context: &Context, config: &Config) -> Result<Option<String>, ProvisionError> {
    let Err(error) = context.create_stream(config.clone()).await else { return Ok(None) };
    match error.kind() {
        // Wrong names and limits stay wrong; missing peers and leaders may appear.
        CreateStreamErrorKind::JetStream(inner)
            if !matches!(inner.code(), 503 | 500) && inner.error_code().0 != NO_SUITABLE_PEERS =>
        {
            Err(ProvisionError::Create { stream: config.name.clone(), why: inner.to_string() })
        }
        _ => Ok(Some(error.to_string())),
    }
}

/// How long one stream was waited for.
struct Waiting {
    deadline: Option<Instant>,
    said: Instant,
}

impl Waiting {
    fn begin(patience: Duration) -> Self {
        let now = Instant::now();
        Self { deadline: Some(now + patience), said: now }
    }

    /// From now on it waits without end.
    fn is_for_a_coordinator(&mut self) {
        self.deadline = None;
    }

    fn is_over(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() > deadline)
    }

    fn say(&mut self, why: &str) {
        if self.said.elapsed() >= SAY_AGAIN {
            tracing::warn!("waiting for storage: {why}");
            self.said = Instant::now();
        }
    }
}

fn check_settings(needed: &Config, found: &Config) -> Result<(), ProvisionError> {
    match differences(needed, found).into_iter().next() {
        None => Ok(()),
        Some(Difference { setting, found, needed: value }) => {
            Err(ProvisionError::Setting { stream: needed.name.clone(), setting, found, needed: value })
        }
    }
}

/// A setting of a stream that is not as Holdfast needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The setting, as the server names it.
    pub setting: &'static str,
    /// Its value.
    pub found: String,
    /// The value that it should have.
    pub needed: String,
}

impl Difference {
    fn between(setting: &'static str, needed: String, found: String) -> Option<Self> {
        (needed != found).then_some(Self { setting, found, needed })
    }
}

/// The settings of `found` with which Holdfast does not start. Empty: it starts.
pub fn differences(needed: &Config, found: &Config) -> Vec<Difference> {
    let subjects = |config: &Config| {
        let mut subjects = config.subjects.clone();
        subjects.sort_unstable();
        subjects.join(", ")
    };
    let transform = |config: &Config| {
        let transform = config.subject_transform.as_ref();
        transform.map_or("none".to_owned(), |of| format!("{} to {}", of.source, of.destination))
    };
    let limit = |value: i64| if value <= 0 { "unlimited".to_owned() } else { value.to_string() };
    let flag = |setting, needed: bool, found: bool| Difference::between(setting, needed.to_string(), found.to_string());
    let mut all = vec![
        // Sealing changes other settings as well, so this is checked first.
        flag("sealed", false, found.sealed),
        Difference::between("subjects", subjects(needed), subjects(found)),
        Difference::between("subject_transform", transform(needed), transform(found)),
        Difference::between("retention", format!("{:?}", RetentionPolicy::Limits), format!("{:?}", found.retention)),
        Difference::between("storage", format!("{:?}", needed.storage), format!("{:?}", found.storage)),
    ];
    if needed.max_age.is_zero() {
        all.extend([
            Difference::between("discard", format!("{:?}", needed.discard), format!("{:?}", found.discard)),
            Difference::between("max_age", "0ns".to_owned(), format!("{:?}", found.max_age)),
            Difference::between("max_bytes", "unlimited".to_owned(), limit(found.max_bytes)),
            Difference::between("max_msgs", "unlimited".to_owned(), limit(found.max_messages)),
            Difference::between(
                "max_msgs_per_subject",
                limit(needed.max_messages_per_subject),
                limit(found.max_messages_per_subject),
            ),
            flag("allow_rollup_hdrs", true, found.allow_rollup),
            flag("deny_delete", true, found.deny_delete),
            flag("allow_direct", true, found.allow_direct),
        ]);
    }
    all.push(flag("allow_msg_ttl", needed.allow_message_ttl, found.allow_message_ttl));
    all.into_iter().flatten().collect()
}

/// The settings of `found` with which Holdfast starts, but promises less than with its own: fewer replicas, a shorter
/// window for duplicates, or signals and acts that are kept for a shorter time.
pub fn weaknesses(needed: &Config, found: &Config) -> Vec<Difference> {
    let too_few = found.num_replicas < needed.num_replicas;
    let too_short = found.duplicate_window < needed.duplicate_window;
    let kept_less = !needed.max_age.is_zero() && !found.max_age.is_zero() && found.max_age < needed.max_age;
    let direct = !needed.max_age.is_zero() && !found.allow_direct;
    [
        too_few.then(|| Difference {
            setting: "num_replicas",
            found: found.num_replicas.to_string(),
            needed: needed.num_replicas.to_string(),
        }),
        too_short.then(|| Difference {
            setting: "duplicate_window",
            found: format!("{:?}", found.duplicate_window),
            needed: format!("{:?}", needed.duplicate_window),
        }),
        kept_less.then(|| Difference {
            setting: "max_age",
            found: format!("{:?}", found.max_age),
            needed: format!("{:?}", needed.max_age),
        }),
        direct.then(|| Difference { setting: "allow_direct", found: "false".to_owned(), needed: "true".to_owned() }),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The settings of the streams below `root` that a part makes on servers that keep `replicas` copies.
pub fn needed(root: &Root, replicas: usize, choices: &Provisioning) -> Vec<Config> {
    configs(root, replicas, choices)
}

/// 32 random bytes for a new secret.
pub fn fresh_secret() -> [u8; 32] {
    rand::random()
}

/// Reads the secret that tokens are derived from, or creates it. For coordinators only. The first writer decides it for
/// all.
///
/// # Errors
/// [`StoreError`] when the bucket of secrets cannot be read or written, or the value in it is not a secret.
pub async fn token_secret(store: &Jetstream) -> Result<Secret, StoreError> {
    let deadline = Instant::now() + GATHER_TIMEOUT;
    loop {
        let found = match store.secret().await {
            // A stream that was just created, maybe by another process, may not have a leader yet.
            Err(StoreError::Unavailable(_)) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
            found => found?,
        };
        if let (_, Some(stored)) = found {
            let unknown = || StoreError::Refused("the stored secret is not one of this version".to_owned());
            return Secret::from_stored(&stored).ok_or_else(unknown);
        }
        match store.put_secret(found.0, fresh_secret().to_vec().into()).await {
            // Another process may have been first. It is read again in any case.
            Ok(_) | Err(StoreError::Moved { .. } | StoreError::Unknown(_)) => {}
            Err(error) => return Err(error),
        }
    }
}
