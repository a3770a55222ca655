//! The command line: exit codes, and what is said where.

use crate::harness::daemon::Home;
use crate::harness::process::finished;
use crate::harness::{soon, write};

async fn run(home: &Home, arguments: &[&str]) -> (Option<i32>, String, String) {
    finished(home.command().args(arguments)).await
}

#[tokio::test]
async fn a_wrong_configuration_exits_with_78_and_names_every_problem_and_place() {
    let home = Home::new("[cloud]\nenabled = true\nendpoint = ''\n[sensors]\npoll_intervall_seconds = 1\n");
    for arguments in [
        &["--config", "config.toml"][..],
        &["--config", "config.toml", "--once"],
        &["check", "--config", "config.toml"],
    ] {
        let (code, out, error) = run(&home, arguments).await;
        assert_eq!((code, out.as_str()), (Some(78), ""), "{error}");
        assert!(error.contains("config.toml:3:") && error.contains("cloud.endpoint"), "{error}");
        assert!(
            error.contains("config.toml:5:1") && error.contains("did you mean 'poll_interval_seconds'"),
            "{error}"
        );
    }
    assert!(!home.state_dir().exists(), "nothing was begun");
}

#[tokio::test]
async fn a_configuration_that_is_not_there_exits_with_78_and_its_name() {
    let home = Home::new("");
    let (code, _, error) = run(&home, &["--config", "elsewhere.toml"]).await;
    assert_eq!(code, Some(78));
    assert!(error.contains("elsewhere.toml"), "{error}");
}

#[tokio::test]
async fn wrong_usage_exits_with_2() {
    let home = Home::new("");
    for arguments in [&["--onse"][..], &["--config"], &["fly"], &["--once", "--config"]] {
        let (code, out, error) = run(&home, arguments).await;
        assert_eq!((code, out.as_str()), (Some(2), ""), "{arguments:?}");
        assert!(error.contains("Usage:") || error.contains("--help"), "{error}");
    }
}

#[tokio::test]
async fn version_and_help_go_to_standard_output_and_help_has_examples() {
    let home = Home::new("");
    let (code, out, _) = run(&home, &["--version"]).await;
    assert_eq!((code, out.trim()), (Some(0), concat!("pyv-edge-agent ", env!("CARGO_PKG_VERSION"))));
    let (code, out, _) = run(&home, &["--help"]).await;
    assert_eq!(code, Some(0));
    for text in ["Examples:", "--config /etc/pyvorin-edge/config.toml", "--once", "Exit codes:", "78"] {
        assert!(out.contains(text), "'{text}' is not in\n{out}");
    }
}

#[tokio::test]
async fn check_says_what_it_read_and_starts_nothing() {
    let home = Home::new("[[rules]]\nname = 'hot'\ncondition_expr = 'ctx.value > 85.0'\n");
    let (code, out, error) = run(&home, &["check", "--config", "config.toml"]).await;
    assert_eq!((code, error.as_str()), (Some(0), ""));
    assert!(out.contains("rules: hot") && out.contains("00-home.toml") && out.contains("good"), "{out}");
    assert!(!home.state_dir().exists());
}

#[tokio::test]
async fn without_config_the_file_in_the_working_directory_is_taken() {
    let home = Home::new("");
    write(&home.path("edge_config.toml"), "[[rules]]\nname = 'here'\ncondition_expr = 'True'\n");
    let (code, out, error) = run(&home, &["check"]).await;
    assert_eq!(code, Some(0), "{error}");
    assert!(out.contains("rules: here"), "{out}");
}

#[tokio::test]
async fn secrets_are_in_no_message_of_a_wrong_configuration() {
    let home = Home::new("[cloud]\nenabled = true\nendpoint = '${SECRET_URL}'\napi_key = 'kéy-4711'\n")
        .env("SECRET_URL", "ftp://user:hunter2@host/");
    let (code, _, error) = run(&home, &["--config", "config.toml"]).await;
    assert_eq!(code, Some(78), "{error}");
    assert!(!error.contains("hunter2") && !error.contains("4711"), "{error}");
}

#[tokio::test]
async fn a_reader_that_has_enough_ends_a_command_without_a_complaint() {
    let home = Home::new("");
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = home.command();
    let output = command.args(["check", "--config", "config.toml"]).stdout(writer).output();
    let output = soon("the command ends", output).await.unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &*errors), (Some(0), ""));
}
