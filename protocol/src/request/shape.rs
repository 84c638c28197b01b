//! Members of one JSON type only, where serde would take another as well.

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

/// A member that is an object. serde would take an array in the order of the fields as well.
pub(super) fn object<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<Option<T>, D::Error> {
    let members = Option::<Map<String, Value>>::deserialize(deserializer)?;
    members.map(|members| T::deserialize(Value::Object(members)).map_err(D::Error::custom)).transpose()
}

/// A member that is a word. serde would take `{"word": null}` as well.
pub(super) fn word<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<Option<T>, D::Error> {
    let word = Option::<String>::deserialize(deserializer)?;
    word.map(|word| T::deserialize(Value::String(word)).map_err(D::Error::custom)).transpose()
}

/// A member that is an array of objects.
pub(super) fn objects<'de, D: Deserializer<'de>, T: DeserializeOwned>(
    deserializer: D,
) -> Result<Option<Vec<T>>, D::Error> {
    let items = Option::<Vec<Map<String, Value>>>::deserialize(deserializer)?;
    let item = |members| T::deserialize(Value::Object(members)).map_err(D::Error::custom);
    items.map(|items| items.into_iter().map(item).collect()).transpose()
}
