//! Concepts by name and by group, so that a request that names many does not read the whole catalogue for each.

use super::table::Table;

/// Ids in two orders, 8 bytes a concept.
#[derive(Debug, Clone)]
pub(super) struct Index {
    /// By name, then by id.
    names: Vec<u32>,
    /// Those with a group: by the group's id, then by id.
    groups: Vec<u32>,
}

impl Index {
    pub(super) fn new(table: &Table) -> Self {
        let mut names: Vec<u32> = (0..table.len()).collect();
        let mut groups: Vec<u32> = names.iter().copied().filter(|id| group_of(table, *id).is_some()).collect();
        // Stable: equal ones stay in the order of their ids.
        names.sort_by(|a, b| table.concept(*a).name.cmp(table.concept(*b).name));
        groups.sort_by_key(|id| group_of(table, *id));
        Self { names, groups }
    }

    /// The ids of all concepts with exactly this name, ascending.
    pub(super) fn named(&self, table: &Table, name: &str) -> &[u32] {
        let start = self.names.partition_point(|id| table.concept(*id).name < name);
        let len = self.names[start..].partition_point(|id| table.concept(*id).name == name);
        &self.names[start..start + len]
    }

    /// The ids of all concepts of a group, ascending.
    pub(super) fn members(&self, table: &Table, group: i64) -> &[u32] {
        let start = self.groups.partition_point(|id| group_of(table, *id) < Some(group));
        let len = self.groups[start..].partition_point(|id| group_of(table, *id) == Some(group));
        &self.groups[start..start + len]
    }
}

fn group_of(table: &Table, id: u32) -> Option<i64> {
    table.concept(id).group.map(|group| group.id)
}
