//! Changes in TOML: what did not change keeps its text, and comments stay when what is below them goes.

use serde_json::json;

use super::*;

const TEXT: &str = "+++
# about title
title = 'Old' # why
# about day
day = 1979-05-27

# about list
list = [1, 0x02, 1979-05-27] # behind
# about last
last = {z = 1, a = 0x02}

# about author
[author] # who
# about name
name = 'x'
# about born
born = 1979-05-27

# about first step
[[steps]]
run = 'make'
when = 1979-05-27
# about second step
[[steps]]
run = 'test'
many = [
  1, # one
  2, # two
  3, # three
]
# end
+++
";

/// `TEXT` after `patch` is `TEXT` with `old` replaced by `new`, and nothing else.
fn changes(patch: Value, old: &str, new: &str) {
    assert!(TEXT.matches(old).count() == 1, "{old:?}");
    for (text, old, new) in [
        (TEXT.to_owned(), old.to_owned(), new.to_owned()),
        (TEXT.replace('\n', "\r\n"), old.replace('\n', "\r\n"), new.replace('\n', "\r\n")),
    ] {
        assert_eq!(patched(&text, patch.clone()), text.replace(&old, &new), "{patch}");
    }
}

#[test]
fn comments_stay_when_the_key_below_them_goes() {
    changes(json!({"title": null}), "title = 'Old' # why\n", "");
    changes(
        json!({"title": null, "day": null}),
        "title = 'Old' # why\n# about day\nday = 1979-05-27\n",
        "# about day\n",
    );
    changes(json!({"last": null}), "last = {z = 1, a = 0x02}\n", "");
    changes(json!({"author": {"name": null}}), "name = 'x'\n", "");
    changes(json!({"author": {"born": null}}), "born = 1979-05-27\n\n# about f", "\n# about f");
}

#[test]
fn comments_stay_when_the_section_below_them_goes() {
    let section = &TEXT[TEXT.find("[author]").unwrap()..TEXT.find("\n# about first").unwrap()];
    changes(json!({"author": null}), section, "");
    changes(
        json!({"author": null, "by": "x"}),
        &format!("}}\n\n# about author\n{section}"),
        "}\nby = \"x\"\n\n# about author\n",
    );
    let steps = &TEXT[TEXT.find("[[steps]]").unwrap()..TEXT.find("# end").unwrap()];
    changes(json!({"steps": null}), steps, "# about second step\n");
}

#[test]
fn a_section_may_become_a_line_and_a_line_a_section() {
    let text = "+++\na = 1\n# about f\n[f]\nx = 1\n# about s\n[s]\n+++\n";
    assert_eq!(patched(text, json!({"f": 2})), "+++\na = 1\nf = 2\n# about f\n# about s\n[s]\n+++\n");
    let text = "+++\n# about a\na = 1\nb = 2\n+++\n";
    assert_eq!(patched(text, json!({"a": {"x": 1}})), "+++\n# about a\nb = 2\n\n[a]\nx = 1\n+++\n");
}

#[test]
fn a_list_of_tables_keeps_those_that_stay() {
    let many = json!([1, 2, 3]);
    let (make, test) = (json!({"run": "make", "when": "1979-05-27"}), json!({"run": "test", "many": many}));
    let steps = |items: Value| json!({"steps": items});
    changes(steps(json!([{"run": "made", "when": "1979-05-27"}, test])), "'make'", "\"made\"");
    changes(steps(json!([make, {"run": "test", "many": [1, 5, 3]}])), "2, # two", "5, # two");
    changes(steps(json!([make, {"run": "test", "many": [1, 3]}])), "  2, # two\n", "");
    changes(steps(json!([make, {"run": "test", "many": [1, 2, 9, 3]}])), "2, # two\n", "2, # two\n  9,\n");
    changes(steps(json!([make, {"run": "test", "many": [1, 2, 3, 4]}])), "3, # three\n", "3, # three\n  4,\n");
    changes(steps(json!([make, {"run": "test", "many": [1, 2]}])), "  3, # three\n", "");
    changes(
        steps(json!([make])),
        &TEXT[TEXT.find("[[steps]]\nrun = 'test'").unwrap()..TEXT.find("# end").unwrap()],
        "",
    );
    changes(steps(json!([make, test, {"run": "more"}])), "three\n]\n", "three\n]\n\n[[steps]]\nrun = \"more\"\n");
}

#[test]
fn a_list_keeps_the_items_that_stay_and_dates_are_dates() {
    changes(json!({"list": [1, 2, "1980-01-01"]}), "0x02, 1979-05-27]", "0x02, 1980-01-01]");
    changes(json!({"list": [7, 2, "1979-05-27"]}), "[1, 0x02", "[7, 0x02");
    changes(json!({"list": [2, "1979-05-27"]}), "[1, 0x02", "[0x02");
    changes(json!({"list": [1, 2, "1979-05-27", "x"]}), "0x02, 1979-05-27]", "0x02, 1979-05-27, \"x\"]");
    changes(json!({"list": [0, 1, 2, "1979-05-27"]}), "[1, 0x02", "[0, 1, 0x02");
    changes(json!({"last": {"z": 2}}), "{z = 1,", "{z = 2,");
    changes(json!({"author": {"born": "1980-01-01"}}), "born = 1979-05-27", "born = 1980-01-01");
}

#[test]
fn a_list_without_a_last_comma_keeps_its_comments() {
    let text = "+++\na = [\n  1, # one\n  2 # two\n]\n+++\n";
    assert_eq!(patched(text, json!({"a": [1]})), "+++\na = [\n  1 # one\n]\n+++\n");
    assert_eq!(patched(text, json!({"a": [1, 2, 3]})), "+++\na = [\n  1, # one\n  2, # two\n  3\n]\n+++\n");
    assert_eq!(patched("+++\na = [ 1, 2 ]\n+++\n", json!({"a": [1, 2, 3]})), "+++\na = [ 1, 2, 3 ]\n+++\n");
    assert_eq!(patched("+++\na = [ 1, 2 ]\n+++\n", json!({"a": [1]})), "+++\na = [ 1 ]\n+++\n");
}

#[test]
fn a_string_with_the_line_of_a_fence_is_written_on_one_line() {
    for text in ["+++", "a\n+++\nb", "+++ \n", "\n+++", "\u{7f}\n+++\t\n\"\\", "a\r\nb\n", "a\nb"] {
        for front in ["+++\n+++\n", "+++\r\n+++\r\n", "+++\nb = [1]\n[t]\nk = 1 # k\n+++\n"] {
            patched(front, json!({"a": text, "t": {"k": text, "l": [text, {"m": text}]}}));
        }
    }
    assert_eq!(patched("+++\na = 1 # a\n+++\n", json!({"a": "x\n+++"})), "+++\na = \"x\\n+++\" # a\n+++\n");
    assert_eq!(patched("+++\na = 1\n+++\n", json!({"a": "x\ny"})), "+++\na = \"\"\"\nx\ny\"\"\"\n+++\n");
}

#[test]
fn a_string_with_the_line_of_a_fence_is_written_in_yaml_too() {
    for text in ["---", "a\n---\nb\n", "...\n", "a\n...\n", "--- \n---", "\n---\r\n"] {
        for front in
            ["", "---\n---\n", "---\r\n---\r\n", "---\nb:\n- a\nt:\n  k: |\n    1\n---\n", "---\n{t: {k: 1}}\n---\n"]
        {
            patched(front, json!({"a": text, "t": {"k": text, "l": [text, {"m": text}]}}));
        }
    }
}

#[test]
fn lines_within_a_string_keep_their_ends_where_those_of_the_file_are_others() {
    // The first way to write this gives the string other ends; only the reading back of it finds that.
    let text = "+++\r\na = \"\"\"\nx\ny\"\"\"\r\nb = 1\r\n+++\r\n";
    assert_eq!(fields(&patched(text, json!({"b": 2}))), json!({"a": "x\ny", "b": 2}));
}
