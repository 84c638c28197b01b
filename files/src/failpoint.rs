//! Steps of a save at which a test can kill this process. Without the feature `failpoints` they do nothing.

/// The steps of a save, in their order.
#[cfg(feature = "failpoints")]
pub const STEPS: &[&str] = &[
    "checked",
    "folders",
    "created",
    "half-written",
    "written",
    "owned",
    "synced",
    "proven",
    "named",
    "exchanged",
    "placed",
    "removed",
    "durable",
];

/// Kills this process with SIGKILL if the environment asks for it at this step: `HOLDFAST_FAIL_AT=<step>`.
#[cfg(feature = "failpoints")]
pub(super) fn reached(step: &str) {
    debug_assert!(STEPS.contains(&step), "{step} is not listed");
    if std::env::var_os("HOLDFAST_FAIL_AT").is_some_and(|at| at == step) {
        let killed = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        unreachable!("{killed:?}: SIGKILL did not end this process");
    }
}

#[cfg(not(feature = "failpoints"))]
pub(super) fn reached(_: &str) {}
