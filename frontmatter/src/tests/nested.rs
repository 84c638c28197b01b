//! Changes deep in YAML: what did not change keeps its text, its comments and its order.

use serde_json::json;

use super::*;

const TEXT: &str = "---
defaults: &base   # for all
  size: 0x1F      # hex
  since: 1979-05-27
  # about color
  color: 'red'

site:
  <<: *base
  zebra: 1 # last in the alphabet, first here
  owner:
      name: \"Ann\"
      born: 1979-05-27   # a date
      # no mail

  alpha: [3, 0x02, 'x' , 1979-05-27]  # flow

# about steps
steps:
- run: make # build
  when: 2026-01-01
- run: test
  with: {z: 1, a: 0x02}
# the end
---
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
fn a_changed_leaf_is_all_that_changes() {
    changes(json!({"site": {"zebra": 2}}), "zebra: 1 #", "zebra: 2 #");
    changes(json!({"site": {"owner": {"name": "Bob"}}}), "\"Ann\"", "Bob");
    changes(json!({"site": {"owner": {"born": "no date"}}}), "born: 1979-05-27 ", "born: no date ");
    changes(json!({"site": {"owner": {"born": "1980-01-01"}}}), "born: 1979-05-27 ", "born: 1980-01-01 ");
    changes(json!({"site": {"owner": {"name": "two\nlines"}}}), "\"Ann\"", "|-\n        two\n        lines");
    changes(
        json!({"site": {"owner": "nobody"}}),
        ":\n      name: \"Ann\"\n      born: 1979-05-27   # a date\n",
        ": nobody\n",
    );
}

#[test]
fn a_new_member_stands_at_the_end_of_its_mapping() {
    changes(json!({"site": {"owner": {"mail": "a@b"}}}), "# a date\n", "# a date\n      mail: a@b\n");
    changes(json!({"site": {"beta": {"x": 1}}}), "# flow\n", "# flow\n  beta:\n    x: 1\n");
    changes(json!({"defaults": {"m": 1}, "site": {"<<": {"m": 1}}}), "'red'\n", "'red'\n  m: 1\n");
    changes(json!({"steps": null, "added": 1}), &TEXT[TEXT.find("steps:").unwrap()..], "# the end\nadded: 1\n---\n");
}

#[test]
fn a_removed_member_goes_and_leaves_the_comments_before_it() {
    changes(json!({"site": {"zebra": null}}), "  zebra: 1 # last in the alphabet, first here\n", "");
    changes(json!({"site": {"owner": {"born": null}}}), "      born: 1979-05-27   # a date\n", "");
    changes(json!({"site": {"owner": {"name": null}}}), "      name: \"Ann\"\n", "");
    let all = ":\n      name: \"Ann\"\n      born: 1979-05-27   # a date\n";
    changes(json!({"site": {"owner": {"name": null, "born": null}}}), all, ": {}\n");
}

#[test]
fn a_list_keeps_the_items_that_stay() {
    let steps = |items: Value| json!({"steps": items});
    let (make, test) = (json!({"run": "make", "when": "2026-01-01"}), json!({"run": "test", "with": {"z": 1, "a": 2}}));
    changes(steps(json!([make, {"run": "test", "with": {"z": 5, "a": 2}}])), "{z: 1,", "{z: 5,");
    changes(steps(json!([make, {"run": "test", "with": {"z": 1}}])), "{z: 1, a: 0x02}", "{z: 1}");
    changes(
        steps(json!([make, {"run": "test", "with": {"a": 2, "b": "x, y"}}])),
        "{z: 1, a: 0x02}",
        "{a: 0x02, b: \"x, y\"}",
    );
    changes(steps(json!([{"run": "made", "when": "2026-01-01"}, test])), "run: make #", "run: made #");
    changes(steps(json!([{"when": "2026-01-01"}, test])), "run: make # build\n  when", "when");
    changes(steps(json!([test])), "- run: make # build\n  when: 2026-01-01\n", "");
    changes(steps(json!([make])), "- run: test\n  with: {z: 1, a: 0x02}\n", "");
    changes(steps(json!([make, test, {"b": [1], "a": 2}])), "0x02}\n", "0x02}\n- a: 2\n  b:\n    - 1\n");
    changes(steps(json!([make, "new", test])), "2026-01-01\n", "2026-01-01\n- new\n");
    changes(steps(json!(["new", make, test])), "steps:\n", "steps:\n- new\n");
    changes(steps(json!([])), &TEXT[TEXT.find(":\n- run").unwrap()..TEXT.find("# the end").unwrap()], ": []\n");
}

#[test]
fn items_may_have_anchors_and_stand_below_their_dash() {
    let text = "---\na:\n  - &x\n    k: 1 # k\n    l: 0x02\n  - &y v # v\n  -\n    m: 3 # m\n  - - 1 # 1\n    - 0x02\nb: [*y]\n---\n";
    let items = |k, v, m, n| json!({"a": [{"k": k, "l": 2}, v, {"m": m}, [n, 2]]});
    assert_eq!(patched(text, items(5, "v", 3, 1)), text.replace("k: 1", "k: 5"));
    assert_eq!(patched(text, items(1, "w", 3, 1)), text.replace("&y v", "&y w").replace("*y", "v"));
    assert_eq!(patched(text, items(1, "v", 5, 1)), text.replace("m: 3", "m: 5"));
    assert_eq!(patched(text, items(1, "v", 3, 5)), text.replace("- 1 #", "- 5 #"));
    assert_eq!(
        patched(text, json!({"a": [{"m": 3}, [1, 2]]})),
        "---\na:\n  -\n    m: 3 # m\n  - - 1 # 1\n    - 0x02\nb: [&y v]\n---\n"
    );
    assert_eq!(
        patched(text, json!({"a": [{"k": 1, "l": 2}, "v", {"m": 3}, [1, 2, 3]]})),
        text.replace("0x02\nb", "0x02\n    - 3\nb")
    );
}

#[test]
fn a_list_in_brackets_keeps_the_items_that_stay() {
    let alpha = |items: Value| json!({"site": {"alpha": items}});
    changes(alpha(json!([3, 2, "yy", "1979-05-27"])), "'x'", "yy");
    changes(alpha(json!([2, "x", "1979-05-27"])), "[3, 0x02", "[0x02");
    changes(alpha(json!([3, 2, "x"])), ", 1979-05-27]", "]");
    changes(alpha(json!([3, 2])), ", 'x' , 1979-05-27]", "]");
    changes(alpha(json!([3, 2, "x", "1979-05-27", {"k": [1]}])), "05-27]", "05-27 , {k: [1]}]");
    changes(alpha(json!([0, 3, 2, "x", "1979-05-27"])), "[3", "[0, 3");
    changes(alpha(json!([3, 9, 2, "x", "1979-05-27"])), "[3", "[3, 9");
    changes(alpha(json!([])), "[3, 0x02, 'x' , 1979-05-27]", "[]");
    assert_eq!(
        patched("---\na: [ ]\nb: {}\n---\n", json!({"a": [1], "b": {"c": "d"}})),
        "---\na: [ 1]\nb: {c: d}\n---\n"
    );
    assert_eq!(
        patched("---\na: [1,\n  2, # two\n  3]\n---\n", json!({"a": [1, 2, 4]})),
        "---\na: [1,\n  2, # two\n  4]\n---\n"
    );
    assert_eq!(patched("---\n{b: 0x02, a: 1}\n---\n", json!({"a": 2, "c": 3})), "---\n{b: 0x02, a: 2, c: 3}\n---\n");
}

#[test]
fn odd_keys_and_tags_stay_as_they_are() {
    let text = "---\na:\n  ? z\n  : 1\n  ? w\n  : 2\nb: !!map {z: !!str x, w: 2}\n---\n";
    assert_eq!(
        patched(text, json!({"a": {"w": 3, "x": 4}, "b": {"z": 5}})),
        "---\na:\n  ? z\n  : 1\n  ? w\n  : 3\n  ? x\n  : 4\nb: !!map {z: 5, w: 2}\n---\n"
    );
}

#[test]
fn a_tag_of_somebody_elses_stays_where_its_value_can_be_a_string() {
    let text = "---\na: !secret x # a\nb: [!secret x, 0x02]\nc: !secret\n  d: 1\ne: !!str 5 # e\n---\n";
    assert_eq!(patched(text, json!({"a": "yy"})), text.replace("x # a", "yy # a"));
    assert_eq!(
        patched(text, json!({"b": ["yy", 2], "c": {"d": 2}})),
        text.replace("[!secret x", "[!secret yy").replace("d: 1", "d: 2")
    );
    assert_eq!(patched(text, json!({"a": 5, "e": 5})), text.replace("!secret x # a", "5 # a").replace("!!str 5", "5"));
}

#[test]
fn an_alias_of_what_changes_is_written_out_and_nothing_else_is() {
    let text = "---\n# head\na: &x {k: 1} # anchored\nb: *x # alias\nc: [*x, 0x02]\nd: &y\n  e: *x\n  f: 1\ng: *y\n# end\n---\n";
    assert_eq!(
        patched(text, json!({"a": {"k": 2}})),
        text.replace("{k: 1}", "{k: 2}")
            .replace("b: *x # alias\n", "b: # alias\n  k: 1\n")
            .replace("[*x", "[{k: 1}")
            .replace("e: *x\n", "e:\n    k: 1\n"),
    );
    assert_eq!(
        patched(text, json!({"d": {"f": 2}})),
        text.replace("f: 1", "f: 2").replace("g: *y\n", "g:\n  e:\n    k: 1\n  f: 1\n")
    );
    assert_eq!(patched(text, json!({"g": {"f": 2}})), text.replace("g: *y\n", "g:\n  e:\n    k: 1\n  f: 2\n"));
    assert_eq!(
        patched(TEXT, json!({"defaults": {"size": 32}})),
        TEXT.replace("0x1F", "32").replace("<<: *base\n", "<<:\n    color: red\n    since: 1979-05-27\n    size: 31\n")
    );
    let removed = patched(text, json!({"a": null}));
    assert!(
        removed.contains("# head\nb:") && removed.contains("# alias\n") && removed.contains("g: *y\n# end\n"),
        "{removed}"
    );
}

#[test]
fn many_changes_at_once_are_each_in_their_place() {
    let patch = json!({
        "site": {"<<": null, "zebra": null, "owner": {"name": null, "mail": "m"}, "new": [1], "alpha": [2, 4]},
        "defaults": {"color": null, "m": 1},
        "steps": [{"run": "make", "x": {}}, "z"],
        "top": {"a": null},
    });
    let expected = "---
defaults: &base   # for all
  size: 0x1F      # hex
  since: 1979-05-27
  m: 1
  # about color

site:
  owner:
      born: 1979-05-27   # a date
      mail: m
      # no mail

  alpha: [2, 4]  # flow
  new:
    - 1

# about steps
steps:
- run: make # build
  x: {}
- z
# the end
top: {}
---
";
    assert_eq!(patched(TEXT, patch), expected);
}

#[test]
fn many_aliases_of_what_changes_are_written_out_and_the_comments_stay() {
    let text =
        (0..150).fold("---\na: &a {k: 1} # a\n".to_owned(), |text, n| text + &format!("b{n}: *a # {n}\n")) + "---\n";
    let changed = patched(&text, json!({"a": {"k": 2}}));
    assert!(changed.contains("a: &a {k: 2} # a\n") && changed.contains("b149: # 149\n  k: 1\n"), "{changed}");
}
