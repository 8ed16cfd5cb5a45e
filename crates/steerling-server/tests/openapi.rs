//! What the program prints and refuses without a model.
#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use assert_cmd::Command;

#[test]
fn the_document_is_printed_even_when_the_environment_configures_serving() {
    let output =
        Command::cargo_bin("steerling").unwrap().arg("openapi").env("STEERLING_PORT", "9000").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), steerling_server::openapi::document());
}

#[test]
fn a_wrong_flag_is_refused_by_name() {
    for flag in ["--max-batch=0", "--timeout-seconds=-1", "--drain-seconds=soon"] {
        for command in [&[][..], &["serve"]] {
            let output = Command::cargo_bin("steerling").unwrap().args(command).arg(flag).output().unwrap();
            assert_eq!(output.status.code(), Some(2));
            assert!(String::from_utf8_lossy(&output.stderr).contains(flag.split_once('=').unwrap().0), "{flag}");
        }
    }
}
