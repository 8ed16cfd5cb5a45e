//! The special ids by name.

use std::collections::BTreeMap;

use crate::config::SpecialIds;
use crate::{Error, Result};

/// Ids and names in the order of the released vocabulary (MODEL.md section 9).
pub(super) fn list(special: &SpecialIds) -> Vec<(u32, &'static str)> {
    let mut list = vec![
        (special.eos, "<|endoftext|>"),
        (special.pad, "<|pad|>"),
        (special.bos, "<|bos|>"),
        (special.endofchunk, "<|endofchunk|>"),
        (special.mask, "<|mask|>"),
    ];
    if let Some(chat) = special.chat {
        list.extend([
            (chat.start_header, "<|start_header_id|>"),
            (chat.end_header, "<|end_header_id|>"),
            (chat.eot, "<|eot_id|>"),
        ]);
    }
    list
}

/// The names by id; refuses an id with two meanings.
pub(super) fn names(special: &SpecialIds) -> Result<BTreeMap<u32, String>> {
    let mut names = BTreeMap::new();
    for (id, name) in list(special) {
        if let Some(other) = names.insert(id, name.to_owned()) {
            return Err(Error::Tokenizer(format!("id {id} is both {other} and {name}")));
        }
    }
    Ok(names)
}

/// The highest special id.
pub(super) fn highest(special: &SpecialIds) -> u32 {
    list(special).iter().map(|&(id, _)| id).max().unwrap_or(0)
}
