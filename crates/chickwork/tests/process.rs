//! The binary as a person or a script meets it: what it prints where, and its exit codes.

use std::ffi::OsStr;
use std::fs::Permissions;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
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

/// A wrong value for every setting, and a piece of what is said about it. Whoever adds a setting
/// adds its row here: the test below takes the settings from the help.
const WRONG: &[(&str, &[u8], &str)] = &[
    (
        "CHICKWORK_QUEUE",
        b"postgres://ulla:sesame@db/x",
        "`sqlite:PATH`",
    ),
    ("CHICKWORK_NAMESPACE", b"two words", "1 to 64 of letters"),
    ("CHICKWORK_DECLARE", b"maybe", "`active` nor `passive`"),
    ("CHICKWORK_LISTEN", b"8080", "did you mean `0.0.0.0:8080`?"),
    (
        "CHICKWORK_ADMIN_LISTEN",
        b":9090",
        "did you mean `0.0.0.0:9090`?",
    ),
    (
        "CHICKWORK_SANDBOX_LISTEN",
        b"localhost",
        "an address and a port",
    ),
    (
        "CHICKWORK_SANDBOX_WEBHOOK_URL",
        b"127.0.0.1:8080/webhook",
        "leave out `https://`?",
    ),
    (
        "CHICKWORK_SPOOL",
        b"sqlite:spool.db",
        "did you mean `spool.db`?",
    ),
    ("CHICKWORK_SPOOL_MAX_BYTES", b"1G", "did you mean `1GiB`?"),
    ("CHICKWORK_CONCURRENCY", b"0", "from 1 to 1024"),
    ("CHICKWORK_MAX_AGE", b"25h", "between 1s and 12h"),
    ("CHICKWORK_ARCHIVE_KEEP", b"7", "did you mean `7s`?"),
    ("CHICKWORK_DRAIN", b"-25s", "a length of time"),
    ("CHATWORK_WEBHOOK_TOKEN", b"open*sesame", "edit screen"),
    ("CHATWORK_API_TOKEN", b"open sesame", "contains a space"),
    ("CHATWORK_API_URL", b"https://", "has no host"),
    ("CHATWORK_ACCOUNT_LIMIT", b"300/5", "did you mean `5s`?"),
    ("CHATWORK_ROOM_LIMIT", b"ten", "such as `300/5m`"),
    (
        "CHICKWORK_SENDER_LIMIT",
        b"99999999999/1m",
        "from 1 to 1000000",
    ),
    ("CHICKWORK_IGNORE_ACCOUNTS", b"1,bot", "account ids"),
    ("SIMSIMI_API_KEY", b"sesame\n\nsesame", "contains a space"),
    (
        "SIMSIMI_API_URL",
        b"ftp://wsapi.simsimi.com",
        "does not begin with `http://`",
    ),
    ("SIMSIMI_LANG", b"vi", "did you mean `vn`?"),
    // As long as these are, they are cut where they are shown.
    ("CHICKWORK_FALLBACK", &[b'x'; 1001], "longer than 1000"),
    (
        "CHICKWORK_INGRESS_BROKER_PASSWORD",
        b"open sesame",
        "contains a space",
    ),
    (
        "CHICKWORK_WORKER_BROKER_PASSWORD",
        b"open sesame",
        "contains a space",
    ),
    (
        "CHICKWORK_OPERATOR_BROKER_PASSWORD",
        b"open sesame",
        "contains a space",
    ),
    // Any text is a filter; this is none.
    ("RUST_LOG", b"\xff", "is not UTF-8"),
    ("CHICKWORK_LOG_FORMAT", b"xml", "`text` nor `json`"),
];

/// The settings that a command reads, by its help.
fn settings_of(command: &str) -> Vec<String> {
    let help = text(&run(&[command, "--help"], &[]).stdout);
    // It is wrapped, wherever that is.
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    let names = help.split("[env: ").skip(1);
    names
        .filter_map(|rest| Some(rest.split_once(']')?.0.to_owned()))
        .filter(|name| !name.ends_with("_FILE"))
        .collect()
}

const COMMANDS: [&str; 11] = [
    "dev",
    "serve",
    "ingress",
    "worker",
    "sandbox",
    "send",
    "doctor",
    "status",
    "topology",
    "dead",
    "healthcheck",
];

#[test]
fn every_setting_may_be_wrong_at_once_and_each_is_named_with_its_hint() {
    // To `doctor` mistakes are findings, and `dead` has commands of its own.
    for command in COMMANDS
        .iter()
        .filter(|command| !["doctor", "dead"].contains(command))
    {
        let folder = tempfile::tempdir().expect("a folder");
        let settings = settings_of(command);
        assert!(settings.len() >= 2, "{command}: {settings:?}");
        let mut process = Command::new(env!("CARGO_BIN_EXE_chickwork"));
        process
            .arg(command)
            .env_clear()
            .env("TMPDIR", folder.path())
            .current_dir(&folder)
            .stdin(Stdio::null());
        let mut expected = Vec::new();
        for setting in &settings {
            let row = WRONG.iter().find(|(name, ..)| name == setting);
            let (name, value, hint) = row.unwrap_or_else(|| panic!("no row for {setting}"));
            process.env(name, OsStr::from_bytes(value));
            expected.push((name, hint));
        }
        let output = process.output().expect("the binary was built");
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(2), "{command}: {out}{err}");
        assert_eq!(out, "", "{command}");
        let wrong = format!("{} settings are wrong", settings.len());
        assert!(err.contains(&wrong), "{command}: {wrong}: {err}");
        for (name, hint) in expected {
            let said = err.lines().find(|line| line.trim_start().starts_with(name));
            let said = said.unwrap_or_else(|| panic!("{command}: {name} is not in {err}"));
            assert!(said.contains(hint), "{command}: {hint} in {said}");
            assert!(said.len() < 300, "{command}: {said}");
        }
        for secret in ["sesame", "ulla"] {
            assert!(!err.contains(secret), "{command}: {err}");
        }
        let left = folder.path().read_dir().expect("readable").count();
        assert_eq!(left, 0, "{command} starts nothing");
    }
}

#[test]
fn flags_that_are_all_wrong_are_named_as_flags() {
    let folder = tempfile::tempdir().expect("a folder");
    let flag = |name: &str| {
        let name = name.strip_prefix("CHICKWORK_").unwrap_or(name);
        format!("--{}", name.to_lowercase().replace('_', "-"))
    };
    let settings = settings_of("serve");
    // Text that is not UTF-8 is no flag at all.
    let wrong = WRONG
        .iter()
        .filter(|(name, ..)| *name != "RUST_LOG" && settings.iter().any(|setting| setting == name));
    let mut process = Command::new(env!("CARGO_BIN_EXE_chickwork"));
    process.arg("serve").env_clear().current_dir(&folder);
    for (name, value, _) in wrong.clone() {
        process.arg(flag(name)).arg(OsStr::from_bytes(value));
    }
    let output = process.output().expect("the binary was built");
    let err = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{err}");
    for (name, _, hint) in wrong {
        let said = err
            .lines()
            .find(|line| line.trim_start().starts_with(&flag(name)));
        assert!(
            said.is_some_and(|said| said.contains(hint)),
            "{name} in {err}"
        );
    }
    assert!(!err.contains("sesame") && !err.contains("ulla"), "{err}");
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
    for command in COMMANDS {
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
    assert!(definitions["users"].is_null() && definitions["permissions"].is_null());
}

#[test]
fn the_topology_has_a_user_for_each_password_and_tells_none() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("definitions.json");
    let secret = folder.path().join("secret");
    std::fs::write(&file, "what was there before").expect("room");
    std::fs::write(&secret, "sesame-worker\n").expect("room");
    let plain = |path: &std::path::Path| path.to_str().expect("a plain path").to_owned();
    let output = run(
        &["topology", "--output", &plain(&file)],
        &[
            ("CHICKWORK_INGRESS_BROKER_PASSWORD", "sesame-ingress"),
            ("CHICKWORK_WORKER_BROKER_PASSWORD_FILE", &plain(&secret)),
        ],
    );
    let err = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{err}");
    assert_eq!(text(&output.stdout), "");
    let users_and_place = [
        plain(&file),
        "chickwork-ingress, chickwork-worker".to_owned(),
    ];
    for told in users_and_place {
        assert!(err.contains(&told), "{told} in {err}");
    }
    let written = std::fs::read_to_string(&file).expect("it was written");
    assert!(!written.contains("sesame") && !err.contains("sesame"));
    let definitions: serde_json::Value = serde_json::from_str(&written).expect("JSON");
    let names = |kind: &str, field: &str| -> Vec<String> {
        let list = definitions[kind].as_array().expect(kind);
        let names = list.iter().map(|one| one[field].as_str().expect(field));
        names.map(str::to_owned).collect()
    };
    let users = ["chickwork-ingress", "chickwork-worker"];
    assert_eq!(names("users", "name"), users);
    assert_eq!(names("permissions", "user"), users);
    let mode = file.metadata().expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o644, "the broker's own user reads it");
    let left = folder.path().read_dir().expect("readable").count();
    assert_eq!(left, 2, "nothing is left beside it");
}

#[test]
fn a_topology_that_would_be_the_same_is_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("definitions.json");
    let path = file.to_str().expect("a plain path");
    let write = |ingress: &str| {
        let environment = [
            ("CHICKWORK_INGRESS_BROKER_PASSWORD", ingress),
            ("CHICKWORK_WORKER_BROKER_PASSWORD", "sesame-worker"),
        ];
        let output = run(&["topology", "--output", path], &environment);
        let err = text(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{err}");
        (err, std::fs::read_to_string(&file).expect("it was written"))
    };
    // A replaced file is another one, whenever it was written.
    let identity = || file.metadata().expect("it is there").ino();
    let hashes = |written: &str| {
        let definitions: serde_json::Value = serde_json::from_str(written).expect("JSON");
        [0, 1].map(|user| definitions["users"][user]["password_hash"].clone())
    };

    let (err, first) = write("sesame-ingress");
    assert!(!err.contains("as it was"), "{err}");
    let before = identity();
    let (err, again) = write("sesame-ingress");
    assert!(err.contains(&format!("{path} is as it was: ")), "{err}");
    assert_eq!((&again, identity()), (&first, before));

    let (err, changed) = write("another");
    assert!(!err.contains("as it was"), "{err}");
    let ([ingress, worker], [new_ingress, new_worker]) = (hashes(&first), hashes(&changed));
    assert_ne!(ingress, new_ingress);
    assert_eq!(worker, new_worker, "a password that stays keeps its hash");

    // The broker's own user could not read it.
    std::fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("it is ours");
    let (err, readable) = write("another");
    assert!(!err.contains("as it was"), "{err}");
    assert_eq!(readable, changed);
    let mode = file.metadata().expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o644);

    for damaged in [
        &changed.as_bytes()[..changed.len() / 2],
        b"",
        b"[1]",
        b"\xff",
    ] {
        std::fs::write(&file, damaged).expect("room");
        let (err, mended) = write("another");
        assert!(!err.contains("as it was"), "{err}");
        assert_ne!(hashes(&mended), hashes(&changed), "the salts are new");
    }
}

#[test]
fn a_password_that_is_set_but_empty_is_no_user_by_mistake() {
    let empty = [
        ("CHICKWORK_INGRESS_BROKER_PASSWORD", ""),
        ("CHICKWORK_WORKER_BROKER_PASSWORD", "sesame-worker"),
        ("CHICKWORK_OPERATOR_BROKER_PASSWORD_FILE", ""),
    ];
    let output = run(&["topology"], &empty);
    let err = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{err}");
    assert_eq!(text(&output.stdout), "");
    for told in [
        "2 settings are wrong",
        "CHICKWORK_INGRESS_BROKER_PASSWORD is set but empty; give it a value, or unset it",
        "CHICKWORK_OPERATOR_BROKER_PASSWORD_FILE is set but empty",
    ] {
        assert!(err.contains(told), "{told} in {err}");
    }
}

#[test]
fn a_password_that_an_address_takes_only_encoded_is_warned_of() {
    let passwords = [
        ("CHICKWORK_INGRESS_BROKER_PASSWORD", "sesame#1"),
        ("CHICKWORK_WORKER_BROKER_PASSWORD", "Sesame-2_.~"),
    ];
    let output = run(&["topology"], &passwords);
    let err = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{err}");
    assert_eq!(err.lines().count(), 1, "{err}");
    for told in ["CHICKWORK_INGRESS_BROKER_PASSWORD", "percent-encoded"] {
        assert!(err.contains(told), "{told} in {err}");
    }
    assert!(!err.contains("sesame"), "{err}");
}

#[test]
fn a_file_that_cannot_be_written_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("nowhere/definitions.json");
    let file = file.to_str().expect("a plain path");
    let output = run(&["topology", "--output", file], &[]);
    let err = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains(file), "{err}");
}
