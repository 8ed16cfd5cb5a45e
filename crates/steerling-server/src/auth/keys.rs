//! API keys. What is kept of a key is its SHA-256: keys are long random strings, so that nothing slower is needed.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};
use tokio::sync::Semaphore;

use super::Scope;

/// Shortest key that is taken from `STEERLING_API_KEY`: whoever can guess it needs no hash.
const SHORTEST: usize = 16;

/// `[api_keys.NAME]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyEntry {
    sha256: String,
    #[serde(default = "all_scopes")]
    scopes: Vec<Scope>,
    max_concurrent: Option<usize>,
}

/// A key.
pub struct Key {
    name: String,
    hash: [u8; 32],
    scopes: Vec<Scope>,
    max_concurrent: Option<usize>,
    /// One permit for each request under way.
    places: Option<Arc<Semaphore>>,
    source: &'static str,
}

/// All keys; with none, everybody may do everything.
#[derive(Debug, Default)]
pub struct Keys(Vec<Key>);

/// Why keys cannot be used; names the key, never what is secret of it.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {message}")]
pub struct KeyError {
    place: String,
    message: String,
}

fn all_scopes() -> Vec<Scope> {
    Scope::ALL.to_vec()
}

fn refuse<T>(place: impl Into<String>, message: impl Into<String>) -> Result<T, KeyError> {
    Err(KeyError { place: place.into(), message: message.into() })
}

/// A new key of 32 random bytes, and its SHA-256 in hexadecimal digits.
pub fn new_key() -> (String, String) {
    let key = format!("sk-{}", URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()));
    let hash = Sha256::digest(key.as_bytes());
    (key, hash.iter().map(|byte| format!("{byte:02x}")).collect())
}

impl Keys {
    /// Those of a file, and those of the environment: `single` (STEERLING_API_KEY) is a key in clear with all scopes,
    /// `list` (STEERLING_API_KEYS) has words NAME:SCOPE+SCOPE:SHA256.
    ///
    /// # Errors
    /// For a malformed key, and for two of one name.
    pub(crate) fn new(
        file: &BTreeMap<String, KeyEntry>,
        single: Option<&str>,
        list: Option<&str>,
    ) -> Result<Self, KeyError> {
        let mut keys = Self::default();
        for (name, entry) in file {
            keys.add(name, entry, "file", &format!("api_keys.{name}"))?;
        }
        for word in list.unwrap_or_default().split_whitespace() {
            let place = "STEERLING_API_KEYS";
            let parts: Vec<&str> = word.split(':').collect();
            let [name, scopes, sha256] = parts[..] else {
                return refuse(place, format!("an entry has {} parts, NAME:SCOPES:SHA256 has 3", parts.len()));
            };
            let scope = |text: &str| {
                let found = Scope::ALL.into_iter().find(|scope| scope.as_str() == text);
                found.map_or_else(|| refuse(place, format!("{name}: `{text}` is none of generate, explain, admin")), Ok)
            };
            let scopes = scopes.split('+').map(scope).collect::<Result<_, _>>()?;
            let entry = KeyEntry { sha256: sha256.to_owned(), scopes, max_concurrent: None };
            keys.add(name, &entry, "environment", &format!("{place}: {name}"))?;
        }
        if let Some(secret) = single {
            if secret.len() < SHORTEST {
                let message =
                    format!("a key of {} characters can be guessed, {SHORTEST} are the minimum", secret.len());
                return refuse("STEERLING_API_KEY", message);
            }
            let sha256: String = Sha256::digest(secret.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
            let entry = KeyEntry { sha256, scopes: all_scopes(), max_concurrent: None };
            keys.add("default", &entry, "environment", "STEERLING_API_KEY")?;
        }
        Ok(keys)
    }

    fn add(&mut self, name: &str, entry: &KeyEntry, source: &'static str, place: &str) -> Result<(), KeyError> {
        let Some(hash) = parse_hash(&entry.sha256) else {
            return refuse(place, "`sha256` is not 64 hexadecimal digits; `steerling key NAME` makes a key");
        };
        if entry.scopes.is_empty() {
            return refuse(place, "`scopes` is empty: the key would open nothing; leave it out for all of them");
        }
        if entry.max_concurrent == Some(0) {
            return refuse(place, "`max_concurrent`: 0 is below the minimum of 1");
        }
        if self.0.iter().any(|key| key.name == name) {
            return refuse(place, format!("there are two keys of the name `{name}`"));
        }
        self.0.push(Key {
            name: name.to_owned(),
            hash,
            scopes: entry.scopes.clone(),
            max_concurrent: entry.max_concurrent,
            places: entry.max_concurrent.map(|n| Arc::new(Semaphore::new(n.min(Semaphore::MAX_PERMITS)))),
            source,
        });
        Ok(())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Key> {
        self.0.iter()
    }

    /// The key that `secret` is. The time taken tells neither which, nor how much of one was right.
    pub(crate) fn find(&self, secret: &str) -> Option<&Key> {
        let hash: [u8; 32] = Sha256::digest(secret.as_bytes()).into();
        let mut found = u64::MAX;
        for (i, key) in (0..).zip(&self.0) {
            let same: Choice = key.hash.ct_eq(&hash);
            found = u64::conditional_select(&found, &i, same);
        }
        self.0.get(usize::try_from(found).ok()?)
    }
}

impl Key {
    /// For people and logs.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `file` or `environment`.
    pub fn source(&self) -> &'static str {
        self.source
    }

    pub(crate) fn may(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }

    pub(crate) fn places(&self) -> Option<&Arc<Semaphore>> {
        self.places.as_ref()
    }

    pub(crate) fn max_concurrent(&self) -> usize {
        self.max_concurrent.unwrap_or(usize::MAX)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("name", &self.name).field("scopes", &self.scopes).finish_non_exhaustive()
    }
}

/// The body of its table, what is secret of it left out.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scopes: Vec<&str> = self.scopes.iter().map(|scope| scope.as_str()).collect();
        writeln!(f, "sha256 = \"(redacted)\"\nscopes = {scopes:?}")?;
        self.max_concurrent.map_or(Ok(()), |n| writeln!(f, "max_concurrent = {n}"))
    }
}

fn parse_hash(text: &str) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (i, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(sha256: &str) -> KeyEntry {
        KeyEntry { sha256: sha256.to_owned(), scopes: all_scopes(), max_concurrent: None }
    }

    #[test]
    fn a_key_is_found_among_several_by_its_whole_text() {
        let made: Vec<(String, String)> = (0..5).map(|_| new_key()).collect();
        let file = made.iter().enumerate().map(|(i, (_, hash))| (format!("key-{i}"), entry(hash))).collect();
        let keys = Keys::new(&file, Some("a secret of the environment"), None).unwrap();
        for (i, (key, _)) in made.iter().enumerate() {
            assert_eq!(keys.find(key).unwrap().name(), format!("key-{i}"));
            assert!(keys.find(&key[1..]).is_none() && keys.find(&format!("{key}x")).is_none());
        }
        assert_eq!(keys.find("a secret of the environment").unwrap().name(), "default");
        assert!(keys.find("").is_none());
        assert!(Keys::default().find("").is_none());
    }

    #[test]
    fn the_environment_may_list_keys_by_name_scope_and_hash() {
        let (key, hash) = new_key();
        let list = format!("alice:generate+explain:{hash}\n");
        let keys = Keys::new(&BTreeMap::new(), None, Some(&list)).unwrap();
        let alice = keys.find(&key).unwrap();
        assert!(alice.may(Scope::Generate) && alice.may(Scope::Explain) && !alice.may(Scope::Admin));
        for (list, reason) in [
            ("alice:generate", "2 parts"),
            ("alice:write:ff", "`write` is none of"),
            ("alice:admin:ff", "not 64 hexadecimal"),
            (&format!("alice:admin:{}", "ü".repeat(32)), "not 64 hexadecimal"),
            (&format!("{list} {list}"), "two keys of the name `alice`"),
        ] {
            let error = Keys::new(&BTreeMap::new(), None, Some(list)).unwrap_err().to_string();
            assert!(error.starts_with("STEERLING_API_KEYS") && error.contains(reason), "{error}");
        }
        let short = Keys::new(&BTreeMap::new(), Some("hunter2"), None).unwrap_err().to_string();
        assert!(short.contains("16") && !short.contains("hunter2"), "{short}");
    }

    #[test]
    fn what_is_shown_of_a_key_is_not_secret() {
        let (key, hash) = new_key();
        let keys = Keys::new(&BTreeMap::from([("a".to_owned(), entry(&hash))]), None, None).unwrap();
        let shown = format!("{keys:?}{}", keys.iter().map(ToString::to_string).collect::<String>());
        assert!(!shown.contains(&hash) && !shown.contains(&key) && !shown.contains(&hash[..16]), "{shown}");
    }
}
