//! Odd values, names and front matters, at random.

use proptest::prelude::*;
use serde_json::{Map, Value};

pub(super) fn scalars() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        floats().prop_map(Value::from),
        "[a-z0-9:#,'\"\\[\\]{}&*!|>%@`.~ \\-\n\t]{0,12}".prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        prop::sample::select(vec![
            "yes",
            "null",
            "~",
            "1.0",
            "0x1",
            "2026-11-22",
            "- a",
            "a: b",
            "---",
            "...",
            "+++",
            "a\n+++\nb",
            "a\r\n+++ \r\n",
            "---\n...\n",
            "a\nb\n",
            "\r\n",
            "\u{85}",
            "",
            " ",
            "\u{feff}",
            "=",
            "<<"
        ])
        .prop_map(Value::from),
    ]
}

/// Of every size, with all the digits that they have.
pub(super) fn floats() -> impl Strategy<Value = f64> {
    prop_oneof![
        any::<f64>(),
        any::<u64>().prop_map(f64::from_bits).prop_filter("JSON has only finite ones", |float| float.is_finite()),
        Just(1.602176634e-19),
    ]
}

pub(super) fn values() -> impl Strategy<Value = Value> {
    scalars().prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(names(), inner, 0..5)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

pub(super) fn names() -> impl Strategy<Value = String> {
    // The last ones mean something to libraries.
    let names = ["$serde_json::private::RawValue", "$serde_json::private::Number", "$__toml_private_datetime"];
    prop_oneof![
        8 => "[a-f]{1,2}",
        2 => "[a-z0-9:#'\"\\-?. \n]{0,6}",
        2 => any::<String>(),
        1 => prop::sample::select(names.map(str::to_owned).to_vec()),
    ]
}

pub(super) fn objects() -> impl Strategy<Value = Map<String, Value>> {
    prop::collection::btree_map(names(), values(), 0..6).prop_map(|members| members.into_iter().collect())
}

/// Lines as people and programs write them, and as nobody should. Some are made so that any of them go together.
const YAML: &[&str] = &[
    "a: 1",
    "b: two",
    "c: \"three\" # c",
    "d:",
    "  - x",
    "  - {y: z}",
    "  - dd: 1 # dd",
    "    de: 0x02",
    "e: |",
    "  text",
    "",
    "# note",
    "  # note",
    "f: [1,",
    "  2]",
    "g: {h: 1}",
    "? k",
    ": v",
    "a: again",
    "\ti: 1",
    "j: &j 1",
    "l: *j",
    "ja: &ja {jb: [2, *j]}",
    "la: [*ja, *j, 1979-05-27]",
    "m: >+",
    "   folded",
    "n: !!str 5",
    "- o",
    "p: 'it''s'",
    "q:   ",
    "...",
    "%YAML 1.2",
    "'r': 1",
    "\u{feff}a: 1",
    "é: ü",
    "aa: \"x\\ny\"",
    "ab:\n  ac: 1 # ac\n  # ad\n  ad:\n    ae: x\n  af: [1, {ag: 2}]",
    "ba:\n- bb: 1\n  bc: |+\n    text\n\n- - x\n  - 'y'",
];

const TOML: &[&str] = &[
    "a = 1",
    "b = 'x' # b",
    "[s]",
    "t.u = 1",
    "[[v]]",
    "w = [1, 2]",
    "x = 1979-05-27",
    "y = { z = 1 }",
    "# note",
    "",
    "zz = 2 # zz",
    "c = [\n  1, # one\n  { d = 'x' },\n  # three\n  3 # end\n]",
    "[g.h]\ni = 1",
    "[f]",
    "[[v.k]]",
    "e = \"\"\"\ntext\"\"\"",
    "d = 1.50",
];

pub(super) fn front_matters() -> impl Strategy<Value = String> {
    let lines = |lines: &'static [&'static str]| prop::collection::vec(prop::sample::select(lines), 0..10);
    let fenced = prop_oneof![
        4 => (Just("---"), lines(YAML)),
        4 => (Just("+++"), lines(TOML)),
        1 => (Just("---"), lines(TOML)),
        1 => (Just("+++"), lines(YAML)),
    ];
    (fenced, prop::sample::select(vec!["\n", "\r\n"]), any::<bool>()).prop_map(|((fence, lines), end, bom)| {
        let mark = if bom { "\u{feff}" } else { "" };
        let lines: String = lines.into_iter().map(|line| line.replace('\n', end) + end).collect();
        format!("{mark}{fence}{end}{lines}{fence}{end}")
    })
}
