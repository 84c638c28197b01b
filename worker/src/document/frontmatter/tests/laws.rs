//! The laws of front matter, over random text and random fields.

use proptest::prelude::*;

use super::odd::{floats, front_matters, names, objects, values};
use super::*;

/// Comments and blank lines of a text, and the names at its top, in order.
fn comments(text: &str) -> Vec<&str> {
    text.lines().filter(|line| line.starts_with('#')).collect()
}

/// Fields as a log, a snapshot or a client gives them back.
fn through_json(fields: &Map<String, Value>) -> Map<String, Value> {
    serde_json::from_str(&serde_json::to_string(fields).unwrap()).unwrap()
}

/// All bits of all numbers: `-0.0` is not `0.0`.
fn exactly(fields: &Map<String, Value>) -> String {
    serde_json::to_string(fields).unwrap()
}

#[test]
fn small_numbers_are_saved_as_they_were_read() {
    let text = "---\ncharge: 1.602176634e-19\neps: 1e-30\n---\n";
    let fields = through_json(&read(text, &limits()).unwrap());
    assert_eq!(rewrite(text, &fields, "x", &limits()).unwrap(), text);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_taken_apart_without_a_loss(text in "\u{feff}{0,2}.{0,200}", front in front_matters()) {
        for text in [text.clone(), front + &text] {
            let parts = split(&text);
            prop_assert_eq!([parts.front, parts.body].concat(), text.clone());
            prop_assert_eq!(join(parts.front, parts.body), text.clone());
            if let Ok(fields) = read(parts.front, &limits()) {
                prop_assert_eq!(rewrite(parts.front, &fields, parts.body, &limits()).unwrap(), parts.front);
            }
        }
    }

    #[test]
    fn what_goes_through_json_is_written_as_it_was_read(floats in prop::collection::vec(floats(), 1..4), front in front_matters()) {
        let yaml: String = floats.iter().enumerate().map(|(n, float)| format!("f{n}: {float:e}\n")).collect();
        let toml = yaml.replace(": ", " = ");
        for front in [format!("---\n{yaml}---\n"), format!("+++\n{toml}+++\n"), front] {
            let front = split(&front).front;
            let Ok(fields) = read(front, &limits()) else { continue };
            let again = through_json(&fields);
            prop_assert_eq!(exactly(&again), exactly(&fields));
            prop_assert_eq!(&again, &fields);
            prop_assert_eq!(rewrite(front, &again, "", &limits()).unwrap(), front);
        }
    }

    #[test]
    fn any_fields_are_read_back_as_they_were_written(fields in objects()) {
        let front = rewrite("", &fields, "", &limits()).unwrap();
        prop_assert_eq!(read(&front, &limits()).unwrap(), fields.clone());
        let whole = front + "---\nbody";
        prop_assert_eq!(split(&whole).body, if fields.is_empty() { whole.as_str() } else { "---\nbody" });
    }

    #[test]
    fn any_fields_without_null_are_read_back_from_toml(fields in objects()) {
        match rewrite("+++\n+++\n", &fields, "", &limits()) {
            Ok(front) => prop_assert_eq!(read(&front, &limits()).unwrap(), fields),
            Err(error) => prop_assert!(error.message.contains("TOML cannot say"), "{}: {:?}", error, fields),
        }
    }

    #[test]
    fn a_change_of_one_field_keeps_the_rest(front in front_matters(), name in names(), value in values()) {
        let front = split(&front).front;
        let Ok(mut fields) = read(front, &limits()) else { return Ok(()) };
        fields.insert(name.clone(), value);
        match rewrite(front, &fields, "", &limits()) {
            Ok(changed) => {
                prop_assert_eq!(read(&changed, &limits()).unwrap(), fields, "{:?} to {:?}", front, changed);
                let is_toml = front.contains("+++") || front[3..].contains('\u{feff}');
                if !is_toml && !front.contains(['{', '?', '&']) && !front.contains("|") && !front.contains(">") {
                    prop_assert_eq!(comments(front), comments(&changed), "{:?} to {:?}", front, changed);
                }
            }
            Err(error) => prop_assert!(error.message.contains("TOML cannot say"), "{}: {:?} {:?}", error, front, fields),
        }
    }
}
