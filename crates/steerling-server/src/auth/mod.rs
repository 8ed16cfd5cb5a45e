//! Who may ask for what.

mod keys;
mod layer;
mod scope;

pub(crate) use keys::KeyEntry;
pub use keys::{Key, KeyError, Keys, new_key};
pub(crate) use layer::{authorize, caller, require};
pub use scope::Scope;
pub(crate) use scope::{Access, access, to_generate};
