//! Tokens of locks: derived from a secret, and stored as a hash only.
//!
//! Invariant: tokens are never stored. A record has the blake3 hash of its lock's token, and the token follows from a
//! secret that only coordinators know, so that a retried acquire gets the same grant again.

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
    pub fn token(&self, key: &SessionKey, lock_revision: u64, nonce: Uuid) -> String {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(key.namespace.as_str().as_bytes()).update(&[0]);
        hasher.update(key.id.as_str().as_bytes()).update(&[0]);
        hasher.update(&lock_revision.to_be_bytes()).update(nonce.as_bytes());
        format!("hft_{}", &hasher.finalize().to_hex()[..40])
    }
}

/// What a record stores of a token.
pub fn hash_token(token: &str) -> String {
    blake3::hash(token.as_bytes()).to_hex().to_string()
}

impl Lock {
    /// Whether `token` is this lock's. Takes the same time wherever they differ.
    pub fn is_proven_by(&self, token: &str) -> bool {
        blake3::Hash::from_hex(&self.token_hash).is_ok_and(|stored| stored == blake3::hash(token.as_bytes()))
    }
}
