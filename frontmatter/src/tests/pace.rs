//! How long a save may take at most, whatever front matter there is and whatever changes: on one thread, in a release
//! build, about 0.2 s. Each case here took longer once, up to 18 s, or is the worst of its kind.
//!
//! What is small keeps its comments in spite of that.

use std::time::{Duration, Instant};

use serde_json::json;

use super::*;

/// Most time for one change. A test build is slower than a release, and other tests run at the same time.
const MOST: Duration = Duration::from_secs(10);

fn repeated(count: usize, line: impl Fn(usize) -> String) -> String {
    (0..count).map(line).collect()
}

/// Changes all that is neither a list nor a mapping.
fn each_leaf(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(each_leaf),
        Value::Object(members) => members.values_mut().for_each(each_leaf),
        leaf => *leaf = json!("x"),
    }
}

fn halve(fields: &mut Map<String, Value>) {
    let mut number = 0;
    fields.retain(|_, _| (number += 1, number % 2 == 0).1);
    for items in fields.values_mut().filter_map(Value::as_array_mut) {
        items.truncate(items.len() / 2);
    }
}

#[test]
fn no_change_of_any_front_matter_takes_long() {
    for (name, inner) in [
        ("members", repeated(3000, |n| format!("m{n}: {n}\n"))),
        ("items", format!("l:\n{}", repeated(500, |n| format!("- i{n}\n")))),
        ("blank lines", format!("a: 1\n{}b: 2\n", "\n".repeat(4000))),
        ("blank lines in a list", format!("l:\n- 1\n{}- 2\n", "\n".repeat(4000))),
        ("aliases", format!("a: &a 1\n{}", repeated(400, |n| format!("b{n}: *a\n")))),
        ("aliases in lists", format!("a: &a {{x: [1]}}\n{}", repeated(240, |n| format!("b{n}: &b{n}\n  - *a\n")))),
        ("flow", format!("l: [{}]\n", repeated(1300, |n| format!("{}, ", n % 10)))),
        ("one line", format!("a: {}\nb: 1\n", "x".repeat(40_000))),
    ] {
        let text = format!("---\n{inner}---\n");
        let old = read(&text, &limits()).unwrap_or_else(|error| panic!("{name}: {error}"));
        type Change = fn(&mut Map<String, Value>);
        let changes: [(&str, Change); 6] = [
            ("a first member", |fields| fields.values_mut().take(1).for_each(|value| *value = json!("other"))),
            ("each leaf", |fields| fields.values_mut().for_each(each_leaf)),
            ("a first member less", |fields| {
                let name = fields.keys().next().unwrap().clone();
                fields.remove(&name);
            }),
            ("half of it", halve),
            ("another", |fields| *fields = map(json!({"only": 1}))),
            ("many more", |fields| fields.extend((0..1000).map(|n| (format!("new{n}"), json!(n))))),
        ];
        for (what, change) in changes {
            let mut fields = old.clone();
            change(&mut fields);
            let start = Instant::now();
            let front = rewrite(&text, &fields, "", &limits()).unwrap();
            let took = start.elapsed();
            assert!(took < MOST, "{what} of {name} took {took:?}");
            assert_eq!(read(&front, &limits()).unwrap(), fields, "{what} of {name}");
        }
    }
}

#[test]
fn what_is_ordinary_keeps_its_comments_and_its_order_through_fifty_changes() {
    let member = |n| format!("# about {n}\nm{n}: {n} # is {n}\nn{n}:\n  # in {n}\n  list: [a, b] # of {n}\n  - c\n");
    let text = format!("---\n{}---\n", repeated(50, member).replace("  - c\n", ""));
    let patch = Map::from_iter((0..50).map(|n| (format!("m{n}"), json!("new"))));
    let expected = (0..50).fold(text.clone(), |text, n| text.replace(&format!("m{n}: {n} #"), &format!("m{n}: new #")));
    assert_eq!(patched(&text, Value::Object(patch)), expected);
}

#[test]
fn what_is_large_keeps_all_comments_but_those_within_what_changed() {
    let member = |n: usize| format!("# about {n}\nm{n}: {n} # is {n}\n\n");
    let long = |value: &str| format!("long: # c\n{}# about the end\n", format!("  - {value} # i\n").repeat(2000));
    let text = |seven: &str| format!("---\n# head\n{}", repeated(2000, member).replace("m7: 7 #", seven));
    let (before, after) = (text("m7: 7 #") + &long("i"), text("m7: new #"));
    let changed = patched(&format!("{before}end: 1\n---\n"), json!({"m7": "new", "end": null, "last": true}));
    assert_eq!(changed, format!("{after}{}last: true\n---\n", long("i")));
    let changed = patched(&format!("{before}end: 1\n---\n"), json!({"long": ["i", "j"]}));
    let expected = format!("{before}end: 1\n---\n").replace(&long("i"), "long:\n  - i\n  - j\n# about the end\n");
    assert_eq!(changed, expected);
}

#[test]
fn anchors_of_a_large_text_go_with_their_aliases_and_nothing_else_does() {
    let text = "---\na: &a {k: 1} # a\n".to_owned()
        + &repeated(2000, |n| format!("m{n}: {n} # is {n}\n"))
        + "b: *a # b\n# the end\n---\n";
    let changed = patched(&text, json!({"m7": "new"}));
    assert_eq!(changed, text.replace("m7: 7 #", "m7: new #"));
    let changed = patched(&text, json!({"a": null}));
    assert_eq!(changed, text.replace("a: &a {k: 1} # a\n", "").replace("b: *a # b\n", "b:\n  k: 1\n"));
}
