//! Health checks, and what they come to.

use serde::Serialize;

/// What the failure of a check means for whoever runs the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Probe {
    /// The process is stuck, and a restart helps. Asked by `/healthz`.
    Liveness,
    /// The process works, and something that it needs is missing. Asked by `/readyz`. A restart does not help.
    Readiness,
}

impl Probe {
    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Liveness => "liveness",
            Self::Readiness => "readiness",
        }
    }
}

/// One check of one part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Its name, such as `relay`.
    pub check: &'static str,
    /// The part that it is about, such as `coordinator` or `worker w1`.
    pub part: String,
    /// What its failure means.
    pub probe: Probe,
    /// Whether it passes.
    pub ok: bool,
    /// Why it fails, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Check {
    /// A check that fails with `reason`, or passes.
    pub fn new(check: &'static str, part: impl Into<String>, probe: Probe, reason: Option<String>) -> Self {
        Self { check, part: part.into(), probe, ok: reason.is_none(), reason }
    }
}

/// All checks of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Health {
    /// Whether all that were asked for pass.
    pub ok: bool,
    /// The checks that were asked for.
    pub checks: Vec<Check>,
}

impl Health {
    /// What `checks` come to. `/healthz` asks for [`Probe::Liveness`]; `/readyz` asks for all.
    pub fn of(checks: Vec<Check>, asked: Probe) -> Self {
        let is_asked = |check: &Check| asked == Probe::Readiness || check.probe == Probe::Liveness;
        let checks: Vec<Check> = checks.into_iter().filter(is_asked).collect();
        Self { ok: checks.iter().all(|check| check.ok), checks }
    }

    /// The body of the answer.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("texts and booleans are JSON")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health(live: Option<&str>, ready: Option<&str>, asked: Probe) -> Health {
        let checks = vec![
            Check::new("sessions", "worker w1", Probe::Liveness, live.map(str::to_owned)),
            Check::new("nats", "worker w1", Probe::Readiness, ready.map(str::to_owned)),
        ];
        Health::of(checks, asked)
    }

    #[test]
    fn a_process_that_is_not_ready_is_alive_and_one_that_is_not_alive_is_not_ready() {
        assert!(health(None, Some("away"), Probe::Liveness).ok);
        assert!(!health(None, Some("away"), Probe::Readiness).ok);
        assert!(!health(Some("stuck"), None, Probe::Liveness).ok);
        assert!(!health(Some("stuck"), None, Probe::Readiness).ok);
        assert!(health(None, None, Probe::Readiness).ok);
    }

    #[test]
    fn the_body_lists_each_check_with_its_reason() {
        let expected = concat!(
            r#"{"ok":false,"checks":[{"check":"sessions","part":"worker w1","probe":"liveness","ok":true},"#,
            r#"{"check":"nats","part":"worker w1","probe":"readiness","ok":false,"reason":"away"}]}"#
        );
        assert_eq!(health(None, Some("away"), Probe::Readiness).to_json(), expected);
    }
}
