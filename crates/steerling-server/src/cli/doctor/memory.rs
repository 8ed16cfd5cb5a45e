//! Memory that is needed against memory that there is.

use std::fs::read_to_string;

use indicatif::BinaryBytes;

use super::Finding;

/// Whether this machine, and the container around this process, have `needed` bytes.
pub(super) fn check(needed: u64) -> Finding {
    let need = BinaryBytes(needed);
    let Some((limit, place)) = available() else {
        return Finding::Good(format!("{need} are needed; this system does not tell what there is"));
    };
    let has = BinaryBytes(limit);
    match needed <= limit {
        true => Finding::Good(format!("{need} are needed, {place} has {has}")),
        false => Finding::Bad(format!(
            "{need} are needed, {place} has {has}; lower kv_cache_mib, choose --dtype bf16 or a quantized file, or give it more"
        )),
    }
}

/// The smaller of what the machine and the control group still have.
fn available() -> Option<(u64, &'static str)> {
    let machine = field(&read_to_string("/proc/meminfo").ok()?, "MemAvailable:").map(|bytes| (bytes, "this machine"));
    let group = group(
        &read_to_string("/sys/fs/cgroup/memory.max").unwrap_or_default(),
        &read_to_string("/sys/fs/cgroup/memory.current").unwrap_or_default(),
    );
    machine.into_iter().chain(group.map(|bytes| (bytes, "this container"))).min_by_key(|(bytes, _)| *bytes)
}

/// Bytes of memory and swap that this machine has, used or not.
pub(in crate::cli) fn installed() -> Option<u64> {
    let meminfo = read_to_string("/proc/meminfo").ok()?;
    Some(field(&meminfo, "MemTotal:")? + field(&meminfo, "SwapTotal:").unwrap_or(0))
}

/// A line of /proc/meminfo, in bytes.
fn field(meminfo: &str, name: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// None without a limit.
fn group(most: &str, current: &str) -> Option<u64> {
    let most: u64 = most.trim().parse().ok()?;
    Some(most.saturating_sub(current.trim().parse().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_a_container_counts_what_is_used_of_it() {
        assert_eq!(group("1000\n", "300\n"), Some(700));
        assert_eq!(group("max\n", "300\n"), None);
        assert_eq!(field("MemTotal: 9 kB\nMemAvailable:   4 kB\n", "MemAvailable:"), Some(4096));
    }
}
