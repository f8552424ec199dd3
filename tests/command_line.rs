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
