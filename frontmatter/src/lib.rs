//! Front matter: the fields of a document as they stand at the head of its file, in YAML between `---` or in TOML
//! between `+++`.
//!
//! Laws: `split` loses no byte, and `join` puts together what it took apart; a front matter whose fields did not change
//! is written as it was read; what `rewrite` returns reads back as exactly the fields that it was given.
//! Deliberately absent: I/O, and any opinion about a body. No front matter is made before there are fields.
//!
//! What JSON cannot say is a string with the text of the source: dates, `.nan`, `.inf` and integers of more than 64
//! bits. A key that is a number, a boolean or `null` is its text; a key that is a list or a mapping is refused.
//!
//! Rule: no change takes longer than about 0.2 s in a release build, whatever the text. Changes of YAML that would take
//! `yaml-edit` longer are made by whole top-level members, in linear time: one that changed may lose the comments
//! within it, all others stay as they are. That begins at about 700 lines, at 50 blank lines or lines of comments in a
//! row, or at 60 changes at once, more in a smaller text (`yaml/amend.rs`). All comments may be lost only if,
//! besides, the text is one flow mapping or does not begin at the margin (`yaml/members.rs`).
//!
//! Changing text in its place is left to crates that keep every byte. For YAML these were tried against the tests here
//! and on 1,500 random changes of random front matters: which of them read back as asked, with all other lines there.
//!
//! | crate | good | refused | wrong | other lines lost | licence, notes |
//! |---|---|---|---|---|---|
//! | `yaml-edit` 0.3.6, as in `yaml/amend.rs` | 1,494 | 0 | 0 | 6 marks | kept; slow in long lists |
//! | own code until then, 560 lines more | 1,336 | 164 | 0 | 0 | wrote whole members again where it refused |
//! | `nondestructive` 0.0.29 | 678 | 328 | 460 | 34 | MIT or Apache-2.0; no anchors, tags or `...` |
//! | `yamlpatch` 1.32 | 1,082 | 290 | 101 | 27 | MIT; some panics, no CRLF, newest compiler only, parser in C |
//! | `saphyr` 0.3, `granit-parser` 2.2 | | | | | parsers; an emitter, if any, keeps no layout |
//!
//! The reader stays `granit-parser`: it bounds nesting, tells places, and so proves by another parser what was written.

mod place;
mod same;
#[cfg(test)]
mod tests;
mod toml;
mod yaml;

use serde_json::{Map, Value};

pub use place::Place;

/// How many times the bytes of its fields a front matter may have as text.
const TEXT_FACTOR: usize = 4;

/// Most characters that a refusal says of a front matter.
const MESSAGE_CHARS: usize = 300;

/// What some systems put before the first character of a file.
pub const BYTE_ORDER_MARK: char = '\u{feff}';

/// A file's text, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts<'a> {
    /// The front matter with its fences and the byte order marks around them; empty where there is none.
    pub front: &'a str,
    /// Everything else.
    pub body: &'a str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Language {
    Yaml,
    Toml,
}

/// A front matter, taken apart.
#[derive(Clone, Copy, Debug)]
struct Fenced<'a> {
    language: Language,
    /// A byte order mark, and the line of the opening fence.
    head: &'a str,
    inner: &'a str,
    /// The line of the closing fence, and byte order marks behind it: a body behind a front matter begins with none, so
    /// that `join` can tell where one comes from.
    tail: &'a str,
}

/// How to write the text between the fences.
type Way = fn(&Fenced<'_>, &Map<String, Value>, &Limits) -> Result<String, Error>;

/// What a front matter may have.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of its fields as JSON.
    pub bytes: usize,
    /// Containers within containers, its fields themselves included.
    pub levels: usize,
}

impl Limits {
    /// How many bytes of text it may have: comments and indentation are not in the fields.
    pub fn text_bytes(&self) -> usize {
        self.bytes.saturating_mul(TEXT_FACTOR)
    }
}

/// Why a front matter cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It does not parse, or its language cannot say these fields.
    #[error("front matter, {at}: {why}")]
    Bad {
        /// Where.
        at: Place,
        /// What is wrong, at length.
        why: String,
    },
    /// It parses, and its fields are over a limit.
    #[error("front matter, {at}: {why}")]
    TooLarge {
        /// Where.
        at: Place,
        /// Which limit.
        why: String,
    },
    /// As a whole it, or its fields as JSON, are over a limit.
    #[error("{why}")]
    TooLong {
        /// Which limit.
        why: String,
        /// How many bytes it may have.
        limit: usize,
    },
}

impl Error {
    fn bad(at: Place, why: impl Into<String>) -> Self {
        // A name in it may be as long as the front matter.
        Self::Bad { at, why: why.into().chars().take(MESSAGE_CHARS).collect() }
    }

    fn too_deep(limits: &Limits, at: Place) -> Self {
        Self::TooLarge { at, why: format!("fields may be nested at most {} levels deep", limits.levels) }
    }

    fn too_long(limit: usize, why: impl FnOnce(usize) -> String) -> Self {
        Self::TooLong { why: why(limit), limit }
    }

    /// The same, with its place in the file: the opening fence is the file's first line.
    fn below_the_fence(mut self) -> Self {
        if let Self::Bad { at, .. } | Self::TooLarge { at, .. } = &mut self {
            at.line += 1;
        }
        self
    }
}

/// Takes a file's text apart. An opening fence without a closing one is no front matter.
pub fn split(text: &str) -> Parts<'_> {
    let end = fenced(text).map_or(0, |fenced| fenced.head.len() + fenced.inner.len() + fenced.tail.len());
    let (front, body) = text.split_at(end);
    Parts { front, body }
}

/// A file's text. A byte order mark of a body that got its first front matter comes first again.
pub fn join(front: &str, body: &str) -> String {
    match body.strip_prefix(BYTE_ORDER_MARK) {
        Some(rest) if !front.is_empty() && !front.starts_with(BYTE_ORDER_MARK) => {
            [&body[..BYTE_ORDER_MARK.len_utf8()], front, rest].concat()
        }
        _ => [front, body].concat(),
    }
}

/// The fields that `front` has.
///
/// # Errors
/// [`Error`], with line and column in the file.
pub fn read(front: &str, limits: &Limits) -> Result<Map<String, Value>, Error> {
    let Some(fenced) = fenced(front) else { return Ok(Map::new()) };
    if front.len() > limits.text_bytes() {
        return Err(Error::too_long(limits.text_bytes(), |limit| {
            format!("a front matter may have at most {limit} bytes")
        }));
    }
    let read = match fenced.language {
        Language::Yaml => yaml::read,
        Language::Toml => toml::read,
    };
    let fields = read(fenced.inner, limits).map_err(Error::below_the_fence)?;
    let bytes = serde_json::to_vec(&fields).expect("JSON values serialize").len();
    if bytes > limits.bytes {
        return Err(Error::too_long(limits.bytes, |limit| {
            format!("fields may have at most {limit} bytes as JSON, not {bytes}")
        }));
    }
    Ok(fields)
}

/// `front` with exactly `fields`: what did not change stays as it is, comments and order included. Where there is no
/// front matter yet, `body` says how its lines are to end. A `front` that is nothing but a byte order mark gets fences
/// behind it. A body that begins with a byte order mark has no front matter before it when there are no fields: the
/// mark is read as the body's only there.
///
/// # Errors
/// [`Error::Bad`] for what the language of `front` cannot say, as TOML cannot say null.
pub fn rewrite(front: &str, fields: &Map<String, Value>, body: &str, limits: &Limits) -> Result<String, Error> {
    let is_plain = front.is_empty() || body.starts_with(BYTE_ORDER_MARK);
    if is_plain && fields.is_empty() {
        return Ok(String::new());
    }
    let fresh;
    let fenced = match fenced(front) {
        Some(fenced) => {
            if read(front, limits).is_ok_and(|old| old == *fields) {
                return Ok(closed(front.to_owned(), &fenced, body));
            }
            fenced
        }
        None => {
            let mark = if front.starts_with(BYTE_ORDER_MARK) { "\u{feff}" } else { "" };
            let end = if ends_with_crlf(body) { "\r\n" } else { "\n" };
            fresh = format!("{mark}---{end}---{end}");
            let fenced = self::fenced(&fresh).expect("a new front matter has fences");
            if fields.is_empty() {
                return Ok(fresh.clone());
            }
            fenced
        }
    };
    let ways: &[Way] = match fenced.language {
        Language::Yaml => &[yaml::amend, yaml::by_members, yaml::as_json],
        Language::Toml => &[toml::amend, toml::amend_plainly, toml::anew],
    };
    let mut last = Error::bad(Place::default(), "these fields cannot be written so that they read back the same");
    for write in ways {
        match write(&fenced, fields, limits) {
            Ok(inner) => {
                let text = [fenced.head, &inner, fenced.tail].concat();
                // The proof of the law: whatever odd front matter was amended, the result says what was asked for.
                if split(&text).front.len() == text.len() && read(&text, limits).is_ok_and(|now| now == *fields) {
                    return Ok(closed(text, &fenced, body));
                }
            }
            Err(error) => last = error,
        }
    }
    Err(last.below_the_fence())
}

/// A closing fence at the end of a file needs a line of its own once there is a body.
fn closed(front: String, fenced: &Fenced<'_>, body: &str) -> String {
    let is_open = !fenced.tail.contains('\n') && !body.is_empty();
    if is_open { front + fenced.end_of_line() } else { front }
}

fn ends_with_crlf(text: &str) -> bool {
    text.find('\n').is_some_and(|at| text[..at].ends_with('\r'))
}

impl Fenced<'_> {
    fn end_of_line(&self) -> &'static str {
        if self.head.ends_with("\r\n") { "\r\n" } else { "\n" }
    }
}

fn fenced(text: &str) -> Option<Fenced<'_>> {
    let start = if text.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len_utf8() } else { 0 };
    let head = start + text[start..].find('\n')? + 1;
    let (language, closings): (_, &[&str]) = match bare(&text[start..head]) {
        "---" => (Language::Yaml, &["---", "..."]),
        "+++" => (Language::Toml, &["+++"]),
        _ => return None,
    };
    let mut at = head;
    for line in text[head..].split_inclusive('\n') {
        if closings.contains(&bare(line)) {
            let body = text[at + line.len()..].trim_start_matches(BYTE_ORDER_MARK);
            let end = text.len() - body.len();
            return Some(Fenced { language, head: &text[..head], inner: &text[head..at], tail: &text[at..end] });
        }
        at += line.len();
    }
    None
}

/// A line without what may stand behind a fence.
fn bare(line: &str) -> &str {
    line.trim_end_matches(['\n', '\r', ' ', '\t'])
}
