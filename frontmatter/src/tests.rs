//! Front matter by example: odd files, and what changes make of them. The laws are in `laws.rs`.

mod laws;
mod nested;
mod odd;
mod pace;
mod sections;

use serde_json::json;

use super::*;

fn limits() -> Limits {
    Limits { bytes: 64 * 1024, levels: 32 }
}

fn map(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        other => panic!("{other} is not an object"),
    }
}

/// What `text` has, and that it is written as it was read.
fn fields(text: &str) -> Value {
    let parts = split(text);
    assert_eq!([parts.front, parts.body].concat(), text);
    assert_eq!(join(parts.front, parts.body), text);
    let fields = read(parts.front, &limits()).unwrap_or_else(|error| panic!("{text:?}: {error}"));
    assert_eq!(rewrite(parts.front, &fields, parts.body, &limits()).unwrap(), parts.front);
    Value::Object(fields)
}

fn refusal(text: &str) -> Error {
    read(split(text).front, &limits()).expect_err(text)
}

/// `text` after its fields were patched.
fn patched(text: &str, patch: Value) -> String {
    let parts = split(text);
    let mut fields = read(parts.front, &limits()).unwrap();
    holdfast_protocol::document::merge_patch(&mut fields, &map(patch));
    let front = rewrite(parts.front, &fields, parts.body, &limits()).unwrap();
    assert_eq!(read(&front, &limits()).unwrap(), fields);
    join(&front, parts.body)
}

#[test]
fn files_without_front_matter_have_no_fields() {
    for text in [
        "",
        "x",
        "---",
        "---\n",
        "---\nno end",
        "----\n----\n",
        " ---\n---\n",
        "\n---\n---\n",
        "+++\n---\n",
        "--- x\n---\n",
    ] {
        assert_eq!(split(text), Parts { front: "", body: text }, "{text:?}");
    }
    assert_eq!(rewrite("", &Map::new(), "body", &limits()).unwrap(), "");
}

#[test]
fn the_fences_may_be_odd_and_the_body_keeps_every_byte() {
    for (text, front) in [
        ("---\n---\n", "---\n---\n"),
        ("---\n---", "---\n---"),
        ("---\r\na: 1\r\n---\r\nx\r\n", "---\r\na: 1\r\n---\r\n"),
        ("\u{feff}---\na: 1\n---\n\u{feff}x", "\u{feff}---\na: 1\n---\n\u{feff}"),
        ("+++\na = 1\n+++\n\u{feff}\u{feff}\n", "+++\na = 1\n+++\n\u{feff}\u{feff}"),
        ("--- \t\na: 1\n---\t\n\n\nx", "--- \t\na: 1\n---\t\n"),
        ("---\na: 1\n...\n---\n", "---\na: 1\n...\n"),
        ("+++\na = 1\n+++\n---\n---\n", "+++\na = 1\n+++\n"),
        ("---\n# only a comment\n---\nx", "---\n# only a comment\n---\n"),
        ("---\n\n\n---\nx", "---\n\n\n---\n"),
    ] {
        assert_eq!(split(text).front, front, "{text:?}");
        fields(text);
    }
}

#[test]
fn yaml_is_read_by_the_core_schema_and_what_json_cannot_say_is_its_text() {
    let text = "---\nint: 12\nhex: 0x1F\nbig: 18446744073709551615\nbigger: 18446744073709551616\nfloat: 1.50\n\
        exp: 1e3\ninf: -.inf\nnan: .nan\nhuge: 1e999\ndate: 2026-11-22\nyes: yes\nno: No\ntrue: True\nnull: ~\nnone:\n\
        quoted: '1'\ntagged: !!str 1\nint_tag: !!int \"7\"\ncustom: !thing x\n1: number key\nlist: [a, 'b', 3]\n\
        text: |\n  two\n  lines\n<<: {merge: no}\n\"quoted key\": x\n---\n";
    let expected = json!({
        "int": 12, "hex": 31, "big": 18446744073709551615u64, "bigger": "18446744073709551616", "float": 1.5,
        "exp": 1000.0, "inf": "-.inf", "nan": ".nan", "huge": "1e999", "date": "2026-11-22", "yes": "yes", "no": "No",
        "true": true, "null": null, "none": null, "quoted": "1", "tagged": "1", "int_tag": 7, "custom": "x",
        "1": "number key", "list": ["a", "b", 3], "text": "two\nlines\n", "<<": {"merge": "no"}, "quoted key": "x",
    });
    assert_eq!(fields(text), expected);
}

#[test]
fn toml_is_read_and_what_json_cannot_say_is_its_text() {
    let text = "+++\nint = 1_000\nfloat = 1.5\ninf = -inf\nnan = nan\ndate = 1979-05-27T07:32:00Z\nday = 1979-05-27\n\
        a.b = 'dotted'\nlist = [1, 'x', { y = true }]\n[section.deep]\nk = \"v\"\n[[all]]\nn = 1\n[[all]]\nn = 2\n+++\n";
    let expected = json!({
        "int": 1000, "float": 1.5, "inf": "-inf", "nan": "nan", "date": "1979-05-27T07:32:00Z", "day": "1979-05-27",
        "a": {"b": "dotted"}, "list": [1, "x", {"y": true}], "section": {"deep": {"k": "v"}}, "all": [{"n": 1}, {"n": 2}],
    });
    assert_eq!(fields(text), expected);
}

#[test]
fn bad_front_matter_is_refused_with_line_and_column() {
    for (text, line, column) in [
        ("---\na: 1\nb: [1\n---\n", 3, 4),
        ("---\na: 1\na: 2\n---\n", 3, 1),
        ("---\n- a\n---\n", 2, 1),
        ("---\njust text\n---\n", 2, 1),
        ("---\n? [a]\n: b\n---\n", 2, 3),
        ("---\na: *nowhere\n---\n", 2, 4),
        ("---\na: &a [*a]\n---\n", 2, 8),
        ("---\na: b: c\n---\n", 2, 5),
        ("+++\na = 1\nb = \n+++\n", 3, 5),
        ("+++\na = 1\na = 2\n+++\n", 3, 1),
    ] {
        let error = refusal(text);
        let Error::Bad { at, .. } = error else { panic!("{text:?}: {error}") };
        assert_eq!(at, Place { line, column }, "{text:?}: {error}");
    }
}

#[test]
fn names_that_mean_something_to_libraries_are_names_like_others() {
    let (raw, number, time) =
        ("$serde_json::private::RawValue", "$serde_json::private::Number", "$__toml_private_datetime");
    let expected = json!({ raw: "[1]", "a": [{ number: "1" }, { raw: "x" }], "b": { time: "1979-05-27" } });
    let yaml =
        format!("---\n{raw}: \"[1]\"\na: [{{'{number}': '1'}}, {{{raw}: x}}]\nb:\n  {time}: \"1979-05-27\"\n---\n");
    let toml = format!(
        "+++\n\"{raw}\" = '[1]'\na = [{{ '{number}' = '1' }}, {{ '{raw}' = 'x' }}]\n[b]\n\"{time}\" = '1979-05-27'\n+++\n"
    );
    for text in [yaml, toml] {
        assert_eq!(fields(&text), expected);
        let more = patched(&text, json!({ "b": { raw: "{}" }, number: "2" }));
        assert_eq!(fields(&more)["b"], json!({ time: "1979-05-27", raw: "{}" }), "{more}");
        assert_eq!(fields(&more)[number], json!("2"));
    }
    let fresh = patched("text", expected.clone());
    assert_eq!(fields(&fresh), expected);
}

#[test]
fn a_refusal_says_little_of_a_long_name() {
    let long = "x".repeat(20_000);
    for text in [format!("---\n{long}: 1\n{long}: 2\n---\n"), format!("+++\n{long} = 1\n{long} = 2\n+++\n")] {
        let error = refusal(&text);
        assert!(matches!(error, Error::Bad { .. }) && error.to_string().len() < 500, "{error}");
    }
}

#[test]
fn a_front_matter_over_a_limit_is_refused_before_it_grows() {
    let yaml = |inner: &str| format!("---\n{inner}\n---\n");
    let toml = |inner: &str| format!("+++\n{inner}\n+++\n");
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for n in 1..40 {
        bomb += &format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 10].join(", "));
    }
    let mut tower = format!("a0: &a0 {}x{}\n", "[".repeat(20), "]".repeat(20));
    for n in 1..2000 {
        tower += &format!("a{n}: &a{n} [*a{}]\n", n - 1);
    }
    for text in [
        yaml(&format!("a: {}{}", "[".repeat(32), "]".repeat(32))),
        yaml(&format!("a: {}", "[".repeat(50_000))),
        yaml(&(0..33).map(|n| format!("{}a:\n", " ".repeat(n))).collect::<String>()),
        yaml(&format!("a:\n{}", "- ".repeat(50_000))),
        yaml(&format!("a: {}", "x".repeat(70_000))),
        yaml(&format!("#{}", "x".repeat(300_000))),
        yaml(&bomb),
        yaml(&tower),
        toml(&format!("a = {}1{}", "[".repeat(32), "]".repeat(32))),
        toml(&format!("a = {}", "[".repeat(50_000))),
        toml(&format!("{} = 1", vec!["a"; 50_000].join("."))),
        toml(&format!("[{}]", vec!["a"; 50_000].join("."))),
        toml(&format!("a = {{ {} = 1 }}", vec!["a"; 50_000].join("."))),
        toml(&format!("a = '{}'", "x".repeat(70_000))),
    ] {
        let start = std::time::Instant::now();
        let error = refusal(&text);
        assert!(matches!(error, Error::TooLarge { .. } | Error::TooLong { .. }), "{:.60}: {error}", text);
        assert!(start.elapsed().as_secs() < 5, "{:.60} took {:?}", text, start.elapsed());
    }
    let deepest = format!("---\na: {}{}\n---\n", "[".repeat(31), "]".repeat(31));
    fields(&deepest);
}

#[test]
fn a_changed_field_leaves_the_others_their_places_and_comments() {
    let text = "---\r\n# head\r\ntitle: \"Old\"   # why\r\n\r\n# about tags\r\ntags:\r\n  - a  # first\r\n  - b\r\n\r\ndate: 2026-11-22\r\n# end\r\n---\r\nbody";
    assert_eq!(
        patched(text, json!({"title": "New"})),
        text.replace("\"Old\"", "New"),
        "a value on one line is replaced alone"
    );
    assert_eq!(
        patched(text, json!({"tags": ["c"], "added": {"x": 1}})),
        text.replace("  - a  # first\r\n  - b\r\n", "  - c  # first\r\n")
            .replace("# end\r\n", "# end\r\nadded:\r\n  x: 1\r\n")
    );
    assert_eq!(patched(text, json!({"tags": null})), text.replace("tags:\r\n  - a  # first\r\n  - b\r\n", ""),);
    assert_eq!(patched("---\na: 1 # x\nb: 2\n---\n", json!({"a": "x\ny"})), "---\na: |- # x\n  x\n  y\nb: 2\n---\n");
    assert_eq!(patched("---\na: {b: 1} # x\nc:\n---\n", json!({"a": [], "c": 5})), "---\na: [] # x\nc: 5\n---\n");
    assert_eq!(
        patched("---\n  a: 1\n  b: 2\n---\n", json!({"b": {"c": 1}, "d": 4})),
        "---\n  a: 1\n  b:\n    c: 1\n  d: 4\n---\n"
    );
}

#[test]
fn a_changed_field_of_toml_leaves_the_others_their_places_and_comments() {
    let text =
        "+++\n# head\ntitle = 'Old' # why\nday = 1979-05-27\n\n[author] # who\nname = 'x'\nmail = 'y'\n+++\nbody";
    assert_eq!(patched(text, json!({"title": "New"})), text.replace("'Old'", "\"New\""));
    assert_eq!(patched(text, json!({"author": {"mail": "z"}})), text.replace("'y'", "\"z\""));
    assert_eq!(patched(text, json!({"author": {"mail": null}})), text.replace("mail = 'y'\n", ""));
    assert_eq!(patched(text, json!({"n": 1})), text.replace("05-27\n", "05-27\nn = 1\n"));
    let error = rewrite("+++\n+++\n", &map(json!({"a": [null]})), "", &limits()).unwrap_err();
    assert!(matches!(error, Error::Bad { .. }), "{error}");
}

#[test]
fn the_first_field_makes_a_front_matter_and_the_last_one_leaves_its_fences() {
    assert_eq!(patched("body", json!({"a": 1})), "---\na: 1\n---\nbody");
    assert_eq!(patched("body\r\n", json!({"a": 1})), "---\r\na: 1\r\n---\r\nbody\r\n");
    assert_eq!(
        patched("\u{feff}body", json!({"a": 1})),
        "\u{feff}---\na: 1\n---\nbody",
        "the byte order mark stays first"
    );
    assert_eq!(patched("\u{feff}---\n---", json!({"a": 1})), "\u{feff}---\na: 1\n---");
    assert_eq!(patched("---\na: 1\n---\nbody", json!({"a": null})), "---\n---\nbody");
    assert_eq!(patched("+++\na = 1\n+++\nbody", json!({"a": null})), "+++\n+++\nbody");
}

#[test]
fn members_that_lean_on_each_other_are_written_so_that_they_read_back() {
    // The anchor goes with the member that has it; flow mappings and odd keys are written anew.
    for (text, patch) in [
        ("---\na: &x [1]\nb: *x\n---\n", json!({"a": 2})),
        ("---\n{a: 1, b: 2}\n---\n", json!({"a": 2})),
        ("---\n? a\n: 1\n? b\n: 2\n---\n", json!({"a": 2, "c": 3})),
        ("---\na: |+\n  x\n\n---\n", json!({"b": 3})),
        ("---\na: >-\n  x\n # not content\nb: 1\n---\n", json!({"a": "y"})),
        ("---\na:\n- 1\n# end\nb: 1\n---\n", json!({"a": [2]})),
        ("---\n!!map\na: 1\n---\n", json!({"a": 3})),
        ("---\n&top\na: 1\n---\n", json!({"a": 3})),
        ("---\na: !!str\nb: 1\n---\n", json!({"a": "x: y"})),
        ("---\na:\n\n\n---\n", json!({"a": {"b": 1}})),
        ("---\n\"a\": 1\n---\n", json!({"a": "#"})),
    ] {
        patched(text, patch);
    }
}
