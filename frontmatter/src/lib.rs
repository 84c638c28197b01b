//! Front matter: the fields of a document as they stand at the head of its file, in YAML between `---` or in TOML
//! between `+++`.
//!
//! Laws: `split` loses no byte, and `join` puts together what it took apart; a front matter whose fields did not change
//! is written as it was read; what `rewrite` returns reads back as exactly the fields that it was given.
//! Deliberately absent: I/O, and any opinion about a body. No front matter is made before there are fields.
//!
//! What JSON cannot say is a string with the text of the source: dates, `.nan`, `.inf` and integers of more than 64
//! bits. A key that is a number, a boolean or `null` is its text; a key that is a list or a mapping is refused.

mod place;
mod same;
#[cfg(test)]
mod tests;
mod toml;
mod yaml;

use holdfast_protocol::document::check_fields;
use holdfast_protocol::error::Reason;
use holdfast_protocol::{Error, Limits};
use serde_json::{Map, Value};

use place::Place;

/// How many times the limit of fields a front matter may have as text: comments and indentation are not in the fields.
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
type Way = fn(&Fenced<'_>, &Map<String, Value>, &Limits) -> Result<String, Flaw>;

/// Why a front matter cannot be read or written.
#[derive(Debug)]
enum Flaw {
    /// It does not parse.
    Bad { at: Place, why: String },
    /// It parses, and is over a limit.
    Large { at: Place, why: String },
}

impl Flaw {
    fn bad(at: Place, why: impl Into<String>) -> Self {
        Self::Bad { at, why: why.into() }
    }

    fn error(self) -> Error {
        let (reason, at, why) = match self {
            Self::Bad { at, why } => (Reason::BadFrontmatter, at, why),
            Self::Large { at, why } => (Reason::FieldsTooLarge, at, why),
        };
        // The opening fence is the file's first line.
        let line = at.line + 1;
        // A name in it may be as long as the front matter.
        let why: String = why.chars().take(MESSAGE_CHARS).collect();
        Error::new(reason, format!("front matter, line {line}, column {}: {why}", at.column))
            .detail("line", line)
            .detail("column", at.column)
    }
}

/// How many bytes of text a front matter may have.
pub fn text_limit(limits: &Limits) -> usize {
    limits.fields_bytes.saturating_mul(TEXT_FACTOR)
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
/// `bad_frontmatter` with line and column in the file; `fields_too_large`.
pub fn read(front: &str, limits: &Limits) -> Result<Map<String, Value>, Error> {
    let Some(fenced) = fenced(front) else { return Ok(Map::new()) };
    if front.len() > text_limit(limits) {
        let message = format!("a front matter may have at most {} bytes", text_limit(limits));
        return Err(Error::new(Reason::FieldsTooLarge, message).detail("limit", text_limit(limits)));
    }
    let fields = match fenced.language {
        Language::Yaml => yaml::read(fenced.inner, limits).map(|read| read.fields),
        Language::Toml => toml::read(fenced.inner, limits),
    };
    let fields = fields.map_err(Flaw::error)?;
    check_fields(&fields, limits)?;
    Ok(fields)
}

/// `front` with exactly `fields`: what did not change stays as it is, comments and order included. Where there is no
/// front matter yet, `body` says how its lines are to end. A `front` that is nothing but a byte order mark gets fences
/// behind it. A body that begins with a byte order mark has no front matter before it when there are no fields: the
/// mark is read as the body's only there.
///
/// # Errors
/// `bad_frontmatter` for what the language of `front` cannot say, as TOML cannot say null; `fields_too_large`.
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
            let fenced =
                self::fenced(&fresh).ok_or_else(|| Error::new(Reason::Bug, "a new front matter has no fences"))?;
            if fields.is_empty() {
                return Ok(fresh.clone());
            }
            fenced
        }
    };
    let ways: &[Way] = match fenced.language {
        Language::Yaml => &[yaml::amend, yaml::amend_tops, yaml::anew, yaml::as_json],
        Language::Toml => &[toml::amend, toml::amend_plainly, toml::anew],
    };
    let mut last = Flaw::bad(Place::default(), "these fields cannot be written so that they read back the same");
    for write in ways {
        match write(&fenced, fields, limits) {
            Ok(inner) => {
                let text = [fenced.head, &inner, fenced.tail].concat();
                // The proof of the law: whatever odd front matter was amended, the result says what was asked for.
                if split(&text).front.len() == text.len() && read(&text, limits).is_ok_and(|now| now == *fields) {
                    return Ok(closed(text, &fenced, body));
                }
            }
            Err(flaw) => last = flaw,
        }
    }
    Err(last.error())
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
