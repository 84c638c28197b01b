//! The laws of front matter, over random text and random fields.

use proptest::prelude::*;

use super::odd::{floats, front_matters, names, objects, values};
use super::*;

/// The names at the top of a front matter, in order, by a reading of their own.
fn names_in_order(front: &str) -> Vec<String> {
    let fenced = fenced(front).unwrap();
    if fenced.language == Language::Toml {
        let document: toml_edit::DocumentMut = fenced.inner.parse().unwrap();
        return document.iter().map(|(name, _)| name.to_owned()).collect();
    }
    let (mut names, mut depth, mut is_name) = (Vec::new(), 0, true);
    for event in granit_parser::Parser::new_from_str(fenced.inner) {
        use granit_parser::Event;
        let (opens, name) = match event.unwrap().0 {
            Event::SequenceStart(..) | Event::MappingStart(..) => (true, None),
            Event::SequenceEnd | Event::MappingEnd => (false, None),
            Event::Scalar(name, ..) => (false, Some(name.into_owned())),
            Event::Alias(_) => (false, Some("an alias".to_owned())),
            _ => continue,
        };
        if opens {
            depth += 1;
            continue;
        }
        depth -= usize::from(name.is_none());
        if depth == 1 {
            names.extend(name.filter(|_| is_name));
            is_name = !is_name;
        }
    }
    names
}

/// How many comments there are, and how many of them are before a name or at the end, and so within no value.
fn comments(text: &str) -> (usize, usize) {
    let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let all = lines.iter().enumerate().filter(|(_, line)| line.starts_with('#'));
    let next = |at: usize| lines[at..].iter().find(|line| !line.starts_with('#'));
    let outside = all
        .clone()
        .filter(|(at, _)| next(*at).is_none_or(|line| !line.starts_with([' ', '\t', '-']) || *line == "---"));
    (all.clone().count(), outside.count())
}

/// Fields as a log, a snapshot or a client gives them back.
fn through_json(fields: &Map<String, Value>) -> Map<String, Value> {
    holdfast_protocol::json::parse_fields(&serde_json::to_string(fields).unwrap()).unwrap()
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
            Err(error) => prop_assert!(error.to_string().contains("TOML cannot say"), "{}: {:?}", error, fields),
        }
    }

    #[test]
    fn a_change_of_one_field_keeps_the_rest_and_its_order(front in front_matters(), name in names(), value in values()) {
        let front = split(&front).front;
        let Ok(mut fields) = read(front, &limits()) else { return Ok(()) };
        fields.insert(name.clone(), value);
        keeps_the_rest(front, fields.clone(), &name)?;
        keeps_the_rest(&with_many_comments(front), fields, &name)?;
    }

    #[test]
    fn a_change_of_one_leaf_keeps_the_rest_and_its_order(
        front in front_matters(), leaf in any::<prop::sample::Index>(), value in values(),
    ) {
        let front = split(&front).front;
        let Ok(fields) = read(front, &limits()) else { return Ok(()) };
        let mut leaves = Vec::new();
        each_leaf(&Value::Object(fields.clone()), String::new(), &mut leaves);
        if fields.is_empty() {
            return Ok(());
        }
        let mut fields = Value::Object(fields);
        let leaf = leaf.get::<String>(&leaves);
        *fields.pointer_mut(leaf).unwrap() = value;
        let name = leaf.split('/').nth(1).unwrap().replace("~1", "/").replace("~0", "~");
        keeps_the_rest(front, map(fields.clone()), &name)?;
        keeps_the_rest(&with_many_comments(front), map(fields), &name)?;
    }
}

/// `front` with more lines of comments in a row than are amended, so that YAML is changed by members. Not so where its
/// members do not begin at the margin, which is then written again as a whole.
fn with_many_comments(front: &str) -> String {
    let is_content = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    let is_odd = |line: &str| line.starts_with([' ', '\t', '{']);
    let Some(fenced) = fenced(front).filter(|fenced| !fenced.inner.lines().find(is_content).is_some_and(is_odd)) else {
        return front.to_owned();
    };
    [fenced.head, &"# a comment\n".repeat(60), fenced.inner, fenced.tail].concat()
}

/// Pointers (RFC 6901) to the scalars and the empty lists and mappings of a value.
fn each_leaf(value: &Value, at: String, into: &mut Vec<String>) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            for (name, value) in members {
                each_leaf(value, format!("{at}/{}", name.replace('~', "~0").replace('/', "~1")), into);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            items.iter().enumerate().for_each(|(place, item)| each_leaf(item, format!("{at}/{place}"), into));
        }
        _ => into.push(at),
    }
}

/// `front` written with `fields`, of which the top-level member `name` may be new or of another kind.
fn keeps_the_rest(front: &str, fields: Map<String, Value>, name: &str) -> Result<(), TestCaseError> {
    let changed = match rewrite(front, &fields, "", &limits()) {
        Ok(changed) => changed,
        Err(error) => {
            prop_assert!(error.to_string().contains("TOML cannot say"), "{error}: {front:?} {fields:?}");
            return Ok(());
        }
    };
    prop_assert_eq!(read(&changed, &limits()).unwrap(), fields, "{:?} to {:?}", front, changed);
    if front.is_empty() {
        return Ok(());
    }
    let is_toml = fenced(front).unwrap().language == Language::Toml;
    let (mut before, mut after) = (names_in_order(front), names_in_order(&changed));
    // A value of TOML that becomes a section goes behind the values.
    if is_toml || !before.iter().any(|other| other == name) {
        before.retain(|other| other != name);
        after.retain(|other| other != name);
    }
    prop_assert_eq!(before, after, "{:?} to {:?}", front, changed);
    // Text that looks like a comment, and what cannot be changed in its place.
    if !is_toml && !front.contains(['?', '&', '|', '>', '\t']) && !front[3..].contains('\u{feff}') {
        prop_assert!(comments(front).1 <= comments(&changed).0, "{front:?} to {changed:?}");
    }
    Ok(())
}
