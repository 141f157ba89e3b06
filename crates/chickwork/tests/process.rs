//! The binary as a person or a script meets it: what it prints where, and its exit codes.

use std::process::{Command, Output, Stdio};

/// Runs the binary with these arguments and nothing in its environment but `environment`.
fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_chickwork"))
        .args(arguments)
        .env_clear()
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .output()
        .expect("the binary was built")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn dev_needs_nothing_and_ends_after_the_first_reply() {
    let folder = tempfile::tempdir().expect("a folder");
    let temporary = folder.path().to_str().expect("a plain path");
    let output = run(&["dev", "--once"], &[("TMPDIR", temporary)]);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{out}{err}");
    assert!(
        out.contains("[To:1000001]") && out.contains("[rp aid=1000002 to="),
        "{out}"
    );
    assert_eq!(err, "", "a conversation is not disturbed by logs");
    let left = folder.path().read_dir().expect("readable").count();
    assert_eq!(left, 0, "it leaves nothing behind");
}

#[test]
fn wrong_settings_are_all_named_before_anything_starts() {
    let folder = tempfile::tempdir().expect("a folder");
    let queue = format!("sqlite:{}", folder.path().join("queue.db").display());
    let output = run(
        &["serve", "--drain", "25", "--queue", &queue],
        &[
            ("SIMSIMI_LANG", "vi"),
            ("CHATWORK_WEBHOOK_TOKEN", "open*sesame"),
        ],
    );
    let err = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{err}");
    for expected in [
        "5 settings are wrong",
        "did you mean `25s`?",
        "did you mean `vn`?",
        "CHATWORK_WEBHOOK_TOKEN:",
        "CHATWORK_API_TOKEN is not set",
        "SIMSIMI_API_KEY is not set",
    ] {
        assert!(err.contains(expected), "{expected} in {err}");
    }
    assert!(!err.contains("sesame"), "{err}");
    assert_eq!(folder.path().read_dir().expect("readable").count(), 0);
}

#[test]
fn wrong_usage_and_help_have_their_exit_codes() {
    assert_eq!(run(&[], &[]).status.code(), Some(2));
    assert_eq!(run(&["dance"], &[]).status.code(), Some(2));
    assert_eq!(run(&["serve", "--dance"], &[]).status.code(), Some(2));
    assert_eq!(
        run(
            &["send", "--type", "dance"],
            &[("CHATWORK_WEBHOOK_TOKEN", "AAAA")]
        )
        .status
        .code(),
        Some(2)
    );
    let help = run(&["--help"], &[]);
    assert_eq!(help.status.code(), Some(0));
    for command in [
        "dev",
        "serve",
        "ingress",
        "worker",
        "sandbox",
        "send",
        "topology",
        "healthcheck",
    ] {
        assert!(text(&help.stdout).contains(command), "{command}");
    }
}

#[test]
fn whoever_does_not_answer_is_not_ready() {
    let nobody = [("CHICKWORK_ADMIN_LISTEN", "127.0.0.1:1")];
    let output = run(&["healthcheck"], &nobody);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).starts_with("not ready: no answer from 127.0.0.1:1"));
    let output = run(
        &[
            "send",
            "--url",
            "http://127.0.0.1:1/webhook",
            "--token",
            "AAAA",
        ],
        &[],
    );
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).starts_with("no answer after"));
}

#[test]
fn the_topology_is_a_definitions_file_of_the_namespace() {
    let output = run(&["topology", "--namespace", "second"], &[]);
    assert_eq!(output.status.code(), Some(0));
    let definitions: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let queues = definitions["queues"].as_array().expect("queues");
    assert!(queues.iter().any(|queue| queue["name"] == "second.ask"));
    assert!(queues.iter().all(|queue| {
        queue["name"]
            .as_str()
            .is_some_and(|name| name.starts_with("second."))
    }));
}
