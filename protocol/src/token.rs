//! Tokens of locks: derived from a secret, and stored as a hash only.
//!
//! Invariant: a token never reaches a log line, because `Debug` hides it; its text must be asked for. Tokens are never
//! stored. A record has the blake3 hash of its lock's token, and the token follows from a secret that only coordinators
//! know, so that a retried acquire gets the same grant again.

use std::fmt;
use std::ops::Deref;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::id::SessionKey;
use crate::record::Lock;

/// The secret that tokens are derived from. It has no `Debug`: it must not reach a log line.
#[derive(Clone)]
pub struct Secret([u8; 32]);

impl Secret {
    /// From 32 random bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The token of one grant: keyed blake3 over namespace, id, lock revision and nonce, 160 bits in hex.
    pub fn token(&self, key: &SessionKey, lock_revision: u64, nonce: Uuid) -> Token {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(key.namespace.as_str().as_bytes()).update(&[0]);
        hasher.update(key.id.as_str().as_bytes()).update(&[0]);
        hasher.update(&lock_revision.to_be_bytes()).update(nonce.as_bytes());
        format!("hft_{}", &hasher.finalize().to_hex()[..40]).into()
    }
}

/// The hash of a token, which is what a record stores.
pub fn hash_token(token: &str) -> String {
    blake3::hash(token.as_bytes()).to_hex().to_string()
}

impl Lock {
    /// Whether `token` is this lock's. Compares in constant time.
    pub fn is_proven_by(&self, token: &str) -> bool {
        blake3::Hash::from_hex(&self.token_hash).is_ok_and(|stored| stored == blake3::hash(token.as_bytes()))
    }
}

/// The proof of holding a lock. Dereferences to its text, which must be kept secret.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
