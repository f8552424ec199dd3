//! The binary's command line: what it refuses, how it says so, and that it then touches nothing.

use std::process::{Command, Output};

fn corelane(dir: &std::path::Path, arguments: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_corelane"));
    command.args(arguments).current_dir(dir).env_remove("RUST_LOG").envs(env.iter().copied());
    command.output().expect("runs")
}

#[test]
fn says_its_version() {
    let output = corelane(std::path::Path::new("/"), &["--version"], &[]);
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), concat!("corelane ", env!("CARGO_PKG_VERSION")));
}

#[test]
fn refuses_bad_settings_before_anything_is_opened() {
    let dir = tempfile::tempdir().expect("temporary directory");
    for (arguments, env, expected) in [
        (
            &["serve", "--override", "num.partitions=many"][..],
            &[][..],
            "corelane: num.partitions=many (from --override): must be a whole number of at least 1\n",
        ),
        (
            &["serve"],
            &[("KAFKA_LISTENERS", "SSL://:9093")],
            "corelane: listeners=SSL://:9093 (from the environment variable KAFKA_LISTENERS): must be a list of PLAINTEXT listeners",
        ),
        (
            &["serve", "--config", "no-such-file"],
            &[],
            "corelane: cannot read the configuration file no-such-file: No such file or directory",
        ),
        (&["serve"], &[("RUST_LOG", "corelane=loud")], "corelane: RUST_LOG=corelane=loud: "),
    ] {
        let output = corelane(dir.path(), arguments, env);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.starts_with(expected), "{said}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).expect("readable").count(), 0);
}

#[test]
fn tools_refuse_what_kafkas_refuse_and_touch_nothing() {
    for (arguments, expected) in [
        (&["topics"][..], "Command must include exactly one action: --list, --describe, --create, --alter or --delete\n"),
        (&["topics", "--list"], "--bootstrap-server must be specified\n"),
        (&["topics", "--list", "--nonsense"], "nonsense is not a recognized option\n"),
        (&["topics", "--create", "--topic", "t", "--partitions"], "Option partitions requires an argument\n"),
        (&["topics", "--create", "--topic", "t", "--partitions", "abc"], "Cannot parse argument 'abc' of option partitions\n"),
        (&["console-producer"], "Missing required argument \"[topic]\"\n"),
        (&["consumer-groups", "--list"], "Missing required argument \"[bootstrap-server]\"\n"),
        (&["get-offsets", "--bootstrap-server", "nowhere"], "--bootstrap-server must be a list of HOST:PORT"),
    ] {
        let output = corelane(std::path::Path::new("/"), arguments, &[]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(said.starts_with(expected) && output.stdout.is_empty(), "{arguments:?}: {said}");
    }
    let help = corelane(std::path::Path::new("/"), &["consumer-groups", "--help"], &[]);
    assert!(help.status.success() && String::from_utf8_lossy(&help.stdout).contains("--reset-offsets"));
}
