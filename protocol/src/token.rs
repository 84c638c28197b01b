//! The proof of holding a lock, as it goes over the wire.
//!
//! Invariant: a token reaches whoever asks for its text, and never a log line: `Debug` hides it.

use std::fmt;
use std::ops::Deref;

use serde::{Deserialize, Serialize};

/// The proof of holding a lock. Dereferences to its text, to be kept where no stranger reads it.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Token(String);

impl<T: Into<String>> From<T> for Token {
    fn from(text: T) -> Self {
        Self(text.into())
    }
}

impl Deref for Token {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_not_in_its_debug_text() {
        let token = Token::from("very-secret");
        assert!(!format!("{token:?}").contains("secret"));
        assert_eq!(&*token, "very-secret");
    }
}
