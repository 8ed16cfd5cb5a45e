//! The seed of a request.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::json;
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

/// Drawn seeds are below this, so that clients whose numbers are doubles can hold them.
const DRAWN: u64 = 1 << 53;

/// A seed as the caller wrote it: an integer of 64 bits, with a sign or without. A negative one is the key of its two's
/// complement; answers show it as it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seed(i128);

impl Seed {
    /// Some seed.
    pub(crate) fn draw() -> Self {
        Self(rand::random_range(0..DRAWN).into())
    }

    /// The key of all random draws.
    pub(crate) fn key(self) -> u64 {
        // Two's complement: the low 64 bits.
        self.0 as u64
    }

    /// The seed `n` places behind, after the largest one comes 0.
    pub(crate) fn plus(self, n: u64) -> Self {
        let next = self.0 + i128::from(n);
        Self(if next > u64::MAX.into() { (next as u64).into() } else { next })
    }
}

impl From<u64> for Seed {
    fn from(seed: u64) -> Self {
        Self(seed.into())
    }
}

impl Serialize for Seed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match i64::try_from(self.0) {
            Ok(seed) => serializer.serialize_i64(seed),
            Err(_) => serializer.serialize_u64(self.key()),
        }
    }
}

impl<'de> Deserialize<'de> for Seed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Integer;
        impl de::Visitor<'_> for Integer {
            type Value = Seed;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an integer")
            }

            fn visit_i64<E>(self, seed: i64) -> Result<Seed, E> {
                Ok(Seed(seed.into()))
            }

            fn visit_u64<E>(self, seed: u64) -> Result<Seed, E> {
                Ok(Seed(seed.into()))
            }
        }
        deserializer.deserialize_any(Integer)
    }
}

impl PartialSchema for Seed {
    fn schema() -> RefOr<Schema> {
        let schema = json!({
            "type": "integer", "minimum": i64::MIN, "maximum": u64::MAX,
            "description": "An integer of 64 bits, with a sign or without: -1 is the same seed as 2^64 - 1.",
        });
        RefOr::T(serde_json::from_value(schema).expect("it is a schema"))
    }
}

impl ToSchema for Seed {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_shown_as_it_was_written_and_counts_up_around_the_end() {
        for (text, key) in [
            ("-1", u64::MAX),
            ("18446744073709551615", u64::MAX),
            ("-9223372036854775808", 1 << 63),
            ("9223372036854775807", (1 << 63) - 1),
            ("0", 0),
        ] {
            let seed: Seed = serde_json::from_str(text).expect(text);
            assert_eq!((seed.key(), serde_json::to_string(&seed).expect(text).as_str()), (key, text));
        }
        assert_eq!(Seed(-1).plus(2), Seed(1));
        assert_eq!(Seed::from(u64::MAX).plus(2), Seed(1));
        assert_eq!(Seed(-5).plus(u64::MAX).key(), Seed(-6).key());
        assert!(Seed::draw().key() < DRAWN);
    }
}
