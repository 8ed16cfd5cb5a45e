//! What `tests/run.sh` does on a machine that lacks something: with fake tools, whose calls are noted.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const TOOLS: [&str; 11] =
    ["cc", "c++", "curl", "pgrep", "python3", "node", "npm", "chromium", "haproxy", "buildah", "debootstrap"];
/// A tool that is there and does nothing.
const THERE: &str = "exit 0";

/// A directory that is the whole PATH.
struct Machine {
    dir: tempfile::TempDir,
}

impl Machine {
    /// With all tools, cargo and apt, for the user with this id.
    fn new(uid: u32) -> Self {
        let machine = Self { dir: tempfile::tempdir().unwrap() };
        symlink("/bin/bash", machine.path("bash")).unwrap();
        TOOLS.iter().for_each(|tool| machine.tool(tool, THERE));
        machine.tool("id", &format!("echo {uid}"));
        machine.tool("cargo", "echo cargo $* >>\"$CALLS\"; exit 42");
        machine.tool("apt-get", "echo apt-get $* $DEBIAN_FRONTEND >>\"$CALLS\"");
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn tool(&self, name: &str, script: &str) {
        fs::write(self.path(name), format!("#!/bin/bash\n{script}\n")).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn without(self, names: &[&str]) -> Self {
        names.iter().for_each(|name| fs::remove_file(self.path(name)).unwrap());
        self
    }

    /// Status, standard error, and the calls of cargo and apt.
    fn run(&self, script: &str, args: &[&str]) -> (Option<i32>, String, String) {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut command = Command::new("/bin/bash");
        command.arg(root.join("tests").join(script)).args(args).env_clear();
        let Output { status, stderr, .. } =
            command.env("PATH", self.dir.path()).env("CALLS", self.path("calls")).output().unwrap();
        let calls = fs::read_to_string(self.path("calls")).unwrap_or_default();
        (status.code(), String::from_utf8(stderr).unwrap(), calls)
    }
}

#[test]
fn where_everything_is_there_nothing_is_installed() {
    for uid in [0, 1000] {
        let machine = Machine::new(uid);
        assert_eq!(machine.run("install.sh", &[]), (Some(0), String::new(), String::new()));
        let (status, _, calls) = machine.run("run.sh", &[]);
        assert_eq!((status, calls.as_str()), (Some(42), "cargo fmt --all --check\n"), "the tests begin");
    }
}

#[test]
fn without_root_the_one_command_to_run_is_printed_before_anything_is_built() {
    let machine = Machine::new(1000).without(&["node", "chromium", "cc", "c++"]);
    let (status, told, calls) = machine.run("run.sh", &[]);
    assert_eq!((status, calls.as_str()), (Some(1), ""), "{told}");
    let missing = ["cc is missing", "c++ is missing", "node is missing", "chromium is missing"];
    assert!(missing.iter().all(|line| told.lines().any(|told| told == *line)), "{told}");
    let packages = "build-essential nodejs chromium";
    let command = format!("sudo sh -c 'apt-get update && apt-get install -y --no-install-recommends {packages}'");
    assert_eq!(told.lines().last(), Some(command.as_str()));
    // What is printed is one command for a shell, and it is the one that root's run would do.
    machine.tool("sudo", "exec \"$@\"");
    symlink("/bin/sh", machine.path("sh")).unwrap();
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", &command]).env("PATH", machine.dir.path()).env("CALLS", machine.path("calls"));
    assert!(shell.status().unwrap().success());
    let calls = fs::read_to_string(machine.path("calls")).unwrap();
    assert!(calls.contains(&format!("apt-get install -y --no-install-recommends {packages}")), "{calls}");
}

#[test]
fn without_apt_the_packages_are_named() {
    for uid in [0, 1000] {
        let machine = Machine::new(uid).without(&["apt-get", "curl", "pgrep"]);
        let (status, told, calls) = machine.run("run.sh", &[]);
        assert_eq!((status, calls.as_str()), (Some(1), ""), "{told}");
        assert!(told.ends_with("Install these, by Debian's names: curl procps\n"), "{told}");
    }
}

#[test]
fn as_root_what_is_missing_is_installed_and_nothing_else() {
    let machine = Machine::new(0).without(&["chromium", "npm"]);
    let install =
        "[[ $1 != install ]] || for tool in npm chromium; do cp \"${CALLS%/*}/curl\" \"${CALLS%/*}/$tool\"; done";
    symlink("/bin/cp", machine.path("cp")).unwrap();
    machine.tool("apt-get", &format!("echo apt-get $* $DEBIAN_FRONTEND >>\"$CALLS\"; {install}"));
    let (status, told, calls) = machine.run("install.sh", &[]);
    assert_eq!(status, Some(0), "{told}");
    let expected = "apt-get update noninteractive\n\
                    apt-get install -y --no-install-recommends npm chromium noninteractive\n";
    assert_eq!(calls, expected);
    assert_eq!(machine.run("install.sh", &[]).2, expected, "a second time there is nothing to do");
}

#[test]
fn what_apt_cannot_give_ends_it() {
    let (status, told, calls) = Machine::new(0).without(&["chromium"]).run("run.sh", &[]);
    assert_eq!(status, Some(1));
    assert!(told.ends_with("chromium is missing, after it was installed with apt\n"), "{told}");
    assert!(!calls.contains("cargo"), "{calls}");
}

#[test]
fn tools_that_are_too_old_count_as_missing() {
    let machine = Machine::new(1000);
    machine.tool("python3", "[[ $2 != *version_info* ]]");
    machine.tool("node", "exit 1");
    let (status, told, _) = machine.run("install.sh", &[]);
    assert_eq!(status, Some(1));
    assert!(told.contains("python3 is older than 3.11\n") && told.contains("node is older than 18.19\n"), "{told}");
    assert!(told.ends_with(" python3 nodejs'\n"), "{told}");
}

#[test]
fn rust_is_needed_beforehand_and_said_first() {
    let machine = Machine::new(0).without(&["cargo", "chromium"]);
    let (status, told, calls) = machine.run("run.sh", &[]);
    assert_eq!((status, calls.as_str()), (Some(1), ""));
    assert_eq!(told, "cargo is missing: install Rust with rustup; rust-toolchain.toml names the version\n");
}

#[test]
fn a_suite_alone_needs_its_own_tools_alone() {
    let machine = Machine::new(1000).without(&["chromium", "buildah"]);
    assert_eq!(machine.run("install.sh", &["node", "curl"]).0, Some(0));
    let (status, told, _) = machine.run("install.sh", &["node", "chromium"]);
    assert_eq!(status, Some(1));
    assert!(told.contains("chromium is missing") && !told.contains("buildah"), "{told}");
}
