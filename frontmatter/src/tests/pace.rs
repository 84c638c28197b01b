//! How long a change may take: an agent does it between two requests.

use std::time::{Duration, Instant};

use serde_json::json;

use super::*;

fn repeated(count: usize, line: impl Fn(usize) -> String) -> String {
    (0..count).fold(String::new(), |text, number| text + &line(number))
}

/// Changes the fields of `inner`, and sees that the result reads back.
fn changed(inner: &str, change: impl Fn(&mut Map<String, Value>)) {
    let text = format!("---\n{inner}---\n");
    let mut fields = read(&text, &limits()).unwrap_or_else(|error| panic!("{error}: {text:.80}"));
    change(&mut fields);
    let front = rewrite(&text, &fields, "", &limits()).unwrap();
    assert_eq!(read(&front, &limits()).unwrap(), fields);
}

#[test]
fn a_change_of_a_large_front_matter_takes_little_time() {
    for (name, inner) in [
        ("members", repeated(1000, |n| format!("m{n}: {n}\n"))),
        ("items", format!("l:\n{}", repeated(1500, |n| format!("- i{n}\n")))),
        ("comments", format!("{}a: 1\n", repeated(2000, |n| format!("# {n} {}\n", "x".repeat(90))))),
        ("anchors", repeated(300, |n| format!("a{n}: &a{n} 1\nb{n}: *a{n}\n"))),
        ("aliases", format!("a: &a 1\n{}", repeated(800, |n| format!("b{n}: *a\n")))),
        ("flow", format!("l: [{}]\n", repeated(2000, |n| format!("{}, ", n % 10)))),
        ("folded", format!("a: >\n{}", repeated(3000, |_| "  word\n".to_owned()))),
    ] {
        let start = Instant::now();
        let half = |items: &mut Vec<Value>| items.truncate(items.len() / 2);
        let arrays = |fields: &mut Map<String, Value>, change: fn(&mut Value)| {
            fields.values_mut().filter_map(Value::as_array_mut).flatten().for_each(change);
        };
        changed(&inner, |fields| _ = fields.insert(fields.keys().next().unwrap().clone(), json!("other")));
        changed(&inner, |fields| _ = fields.insert("new".to_owned(), json!({"a": [1]})));
        changed(&inner, |fields| fields.values_mut().for_each(|value| *value = json!("other")));
        changed(&inner, |fields| fields.retain(|name, _| name.ends_with(['1', '3'])));
        changed(&inner, |fields| fields.values_mut().filter_map(Value::as_array_mut).for_each(half));
        changed(&inner, |fields| arrays(fields, |item| *item = json!("x")));
        let took = start.elapsed();
        assert!(took < Duration::from_secs(60), "six changes of {name} took {took:?}");
    }
}
