//! Who may ask for what.

mod host;
mod keys;
mod layer;
mod scope;

pub use host::AllowedHost;
pub(crate) use host::{Hosts, check_host};
pub(crate) use keys::KeyEntry;
pub use keys::{Key, KeyError, Keys, new_key};
pub(crate) use layer::{authorize, caller, deadline, require};
pub use scope::Scope;
pub(crate) use scope::{Access, access, is_probe, to_generate};
