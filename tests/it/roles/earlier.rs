//! Parts of this version with the nats.conf of an earlier one, which knows no stream of acts.

use std::time::{Duration, Instant};

use holdfast_deploy::Conf;
use serde_json::json;

use super::installation::{Form, Installation};
use super::parts::ask;

/// The settings without what they say about acts.
fn without_acts(conf: Conf) -> Conf {
    let without = |line: &str| {
        let mut parts: Vec<&str> = line.split('"').collect();
        for name in parts.iter_mut().skip(1).step_by(2) {
            if name.contains("HF_AUDIT") || name.contains(".sys.audit") {
                *name = "nothing";
            }
        }
        parts.join("\"")
    };
    conf.changed(|text| {
        // The names of imports and mappings must differ, so those lines go as a whole.
        let kept = text.lines().filter(|line| {
            let is_alone = line.contains("service:") || line.contains("HOLDFAST.API.STREAM");
            !(is_alone && line.contains("HF_AUDIT"))
        });
        kept.map(|line| without(line) + "\n").collect()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_start_and_operators_work_with_the_permissions_of_an_earlier_version() {
    for form in Form::BOTH {
        let installation = Installation::start_with(form, without_acts(form.conf())).await;
        let begun = Instant::now();
        let parts = installation.parts().await;
        println!("{form:?}: the parts start after {:?}", begun.elapsed());
        let is_told = |warning: &String| warning.contains("HF_AUDIT") && warning.contains("holdfast audit");
        assert_eq!(parts.warnings.iter().filter(|warning| is_told(warning)).count(), 1, "{:?}", parts.warnings);
        let ops = installation.connect("ops").await;
        for (subject, body) in [
            ("hf.sys.worker.drain.w1", json!({"reason": "r"})),
            ("hf.sys.worker.undrain.w1", json!({"reason": "r"})),
            ("hf.sys.admin.rotate_secret", json!({"reason": "r"})),
            ("hf.default.session.open", json!({"id": "s1"})),
        ] {
            let begun = Instant::now();
            let reply = ask(&ops, subject, body).await;
            assert!(reply["error"].is_null(), "{form:?}: {subject}: {reply}");
            assert!(begun.elapsed() < Duration::from_millis(3_500), "{form:?}: {subject}: {:?}", begun.elapsed());
        }
    }
}
