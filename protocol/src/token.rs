//! Tokens of locks: derived from a secret, and stored as a hash only.
//!
//! Invariant: a token never reaches a log line, because `Debug` hides it; its text must be asked for. Tokens are never
//! stored. A record has the blake3 hash of its lock's token, and the token follows from a secret that only coordinators
//! know, so that a retried acquire gets the same grant again.

use std::fmt;
use std::ops::Deref;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::id::{RequestId, SessionKey};
use crate::record::Lock;

/// The version of the stored form of secrets.
const SECRET_VERSION: u32 = 1;
/// How many earlier secrets are kept, and how many rotations are remembered. A record's past has as many revisions, so
/// a late copy of a request finds the secret of its grant.
const SECRETS_KEPT: usize = 64;

/// The secret that tokens are derived from, with the earlier ones. It has no `Debug`: it must not reach a log line.
///
/// New tokens are derived from the current secret. The earlier ones only tell a request that is sent again which token
/// it got.
#[derive(Clone)]
pub struct Secret {
    generation: u64,
    current: [u8; 32],
    /// The latest first.
    earlier: Vec<[u8; 32]>,
    revoked_below: u64,
    /// The latest first.
    rotations: Vec<Rotation>,
}

/// A rotation that took place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rotation {
    request_id: RequestId,
    generation: u64,
}

/// What becomes of the tokens that were granted before a rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OldTokens {
    /// They stay good until their lock ends.
    Keep,
    /// Their locks are freed.
    Revoke,
}

/// The stored form of secrets that were rotated. One that never was is stored as its 32 bytes.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredSecret {
    v: u32,
    generation: u64,
    #[serde(default)]
    revoked_below: u64,
    /// In hex, the current one first.
    secrets: Vec<String>,
    #[serde(default)]
    rotations: Vec<Rotation>,
}

impl Secret {
    /// From 32 random bytes: the first generation, 0.
    pub fn new(current: [u8; 32]) -> Self {
        Self { generation: 0, current, earlier: Vec::new(), revoked_below: 0, rotations: Vec::new() }
    }

    /// Reads the stored form. `None` if it is not one of this version.
    pub fn from_stored(stored: &[u8]) -> Option<Self> {
        if let Ok(current) = <[u8; 32]>::try_from(stored) {
            return Some(Self::new(current));
        }
        let StoredSecret { v, generation, revoked_below, secrets, rotations } = serde_json::from_slice(stored).ok()?;
        let bytes = |hex: &String| blake3::Hash::from_hex(hex).ok().map(|hash| *hash.as_bytes());
        let mut secrets = secrets.iter().map(bytes).collect::<Option<Vec<_>>>()?.into_iter();
        let current = secrets.next()?;
        (v == SECRET_VERSION).then(|| Self {
            generation,
            current,
            earlier: secrets.collect(),
            revoked_below,
            rotations,
        })
    }

    /// The stored form.
    pub fn to_stored(&self) -> Vec<u8> {
        if self.generation == 0 {
            return self.current.to_vec();
        }
        let hex = |bytes: &[u8; 32]| blake3::Hash::from_bytes(*bytes).to_hex().to_string();
        let stored = StoredSecret {
            v: SECRET_VERSION,
            generation: self.generation,
            revoked_below: self.revoked_below,
            secrets: std::iter::once(&self.current).chain(&self.earlier).map(hex).collect(),
            rotations: self.rotations.clone(),
        };
        serde_json::to_vec(&stored).expect("a secret is strings and numbers")
    }

    /// How many times it was rotated.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Locks that were granted under an earlier generation than this one must be freed.
    pub fn revoked_below(&self) -> u64 {
        self.revoked_below
    }

    /// The generation that this request made, if it did.
    pub fn rotated_by(&self, request_id: &RequestId) -> Option<u64> {
        self.rotations.iter().find(|rotation| rotation.request_id == *request_id).map(|rotation| rotation.generation)
    }

    /// The secret after a rotation, with 32 new random bytes.
    #[must_use]
    pub fn rotated(&self, current: [u8; 32], old: OldTokens, request_id: &RequestId) -> Self {
        let generation = self.generation + 1;
        let before = std::iter::once(self.current).chain(self.earlier.iter().copied());
        let this = Rotation { request_id: request_id.clone(), generation };
        Self {
            generation,
            current,
            earlier: before.take(SECRETS_KEPT).collect(),
            revoked_below: if old == OldTokens::Revoke { generation } else { self.revoked_below },
            rotations: std::iter::once(this).chain(self.rotations.iter().cloned()).take(SECRETS_KEPT).collect(),
        }
    }

    /// The token of a new grant: keyed blake3 over namespace, id, lock revision and nonce, 160 bits in hex.
    pub fn token(&self, key: &SessionKey, lock_revision: u64, nonce: Uuid) -> Token {
        derived(&self.current, key, lock_revision, nonce)
    }

    /// The token that proves this lock, derived from the current secret or an earlier one.
    pub fn token_of(&self, key: &SessionKey, lock: &Lock) -> Option<Token> {
        let secrets = std::iter::once(&self.current).chain(&self.earlier);
        let mut tokens = secrets.map(|secret| derived(secret, key, lock.revision, lock.nonce));
        tokens.find(|token| lock.is_proven_by(token))
    }
}

fn derived(secret: &[u8; 32], key: &SessionKey, lock_revision: u64, nonce: Uuid) -> Token {
    let mut hasher = blake3::Hasher::new_keyed(secret);
    hasher.update(key.namespace.as_str().as_bytes()).update(&[0]);
    hasher.update(key.id.as_str().as_bytes()).update(&[0]);
    hasher.update(&lock_revision.to_be_bytes()).update(nonce.as_bytes());
    format!("hft_{}", &hasher.finalize().to_hex()[..40]).into()
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

    #[test]
    fn a_rotated_secret_is_stored_and_knows_earlier_tokens_and_rotations() {
        use crate::id::{Namespace, SessionId};
        let key = SessionKey::new(Namespace::parse("default").unwrap(), SessionId::parse("s1").unwrap());
        let first = Secret::new([7; 32]);
        assert_eq!(first.to_stored(), [7; 32], "as versions without rotation store it");
        let old = first.token(&key, 1, Uuid::nil());
        let lock: Lock = serde_json::from_value(serde_json::json!({
            "owner": "a", "revision": 1, "token_hash": hash_token(&old)
        }))
        .unwrap();
        let request = |n: u64| RequestId::parse(&format!("r{n}")).unwrap();
        let mut secret = first.rotated([8; 32], OldTokens::Keep, &request(1));
        assert_eq!((secret.generation(), secret.revoked_below()), (1, 0));
        assert_ne!(secret.token(&key, 1, Uuid::nil()), old);
        secret = secret.rotated([9; 32], OldTokens::Revoke, &request(2));
        let again = Secret::from_stored(&secret.to_stored()).unwrap();
        assert_eq!(again.token_of(&key, &lock), Some(old));
        assert_eq!((again.generation(), again.revoked_below(), again.rotated_by(&request(1))), (2, 2, Some(1)));
        assert_eq!(again.rotated_by(&request(3)), None);
        for n in 3..200 {
            secret = secret.rotated([u8::try_from(n).unwrap(); 32], OldTokens::Keep, &request(n));
        }
        assert_eq!((secret.earlier.len(), secret.rotations.len()), (SECRETS_KEPT, SECRETS_KEPT));
        for wrong in [&b""[..], b"{}", b"short", &[0; 33], br#"{"v":2,"generation":1,"secrets":[]}"#] {
            assert!(Secret::from_stored(wrong).is_none());
        }
    }
}
