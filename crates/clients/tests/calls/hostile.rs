//! Answers that no service should give. Each ends as a fact from which the worker decides: a post that
//! may have been taken is done or in doubt, never refused; a question without a usable answer has
//! failed, and is asked again.

use std::time::{Duration, Instant};

use chickwork_chatwork::id::RoomId;
use chickwork_clients::Patience;
use chickwork_clients::chatwork::{CallError, Chatwork, Limits};
use chickwork_clients::simsimi::{Answer, AskError};
use proptest::prelude::*;

use crate::canned::{self, Canned, answer, endless};
use crate::chatwork::{chatwork, posted};
use crate::simsimi::asked;
use crate::{IMPATIENT, PATIENT};

const ROOM: RoomId = RoomId(42);

/// How a post ended, by what follows from it.
#[derive(Debug, PartialEq, Eq)]
enum Post {
    /// It is in the room.
    Done,
    /// Look before posting again.
    InDoubt,
    /// It is certainly not in the room, or will be looked for after a 5xx.
    Refused(u16),
}

async fn post(answer: canned::Answer, patience: Patience) -> Post {
    match posted(answer, patience).await {
        Ok(_) => Post::Done,
        Err(CallError::InDoubt(_)) => Post::InDoubt,
        Err(CallError::Refused { status, .. }) => Post::Refused(status),
        Err(other) => panic!("from a server that has read the request: {other:?}"),
    }
}

fn bytes(text: impl Into<Vec<u8>>) -> canned::Answer {
    canned::Answer::Bytes(text.into())
}

/// An answer with a body that need not be text.
fn binary(body: &[u8]) -> canned::Answer {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
    bytes([head.as_bytes(), body].concat())
}

fn deep(depth: usize) -> String {
    format!("{}{}", "[".repeat(depth), "]".repeat(depth))
}

fn header_of(length: usize) -> String {
    format!("x-junk: {}", "a".repeat(length))
}

#[tokio::test]
async fn a_post_with_a_strange_answer_is_done_in_doubt_or_refused_for_what_it_is() {
    let many_headers = vec!["x-junk: 1"; 300];
    let ok = r#"{"message_id":"5"}"#;
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 18\r\n\r\n";
    for (name, answer, expected) in [
        // Taken, whatever is said about it.
        (
            "megabytes",
            answer(200, &[], &"x".repeat(10 << 20)),
            Post::Done,
        ),
        (
            "no UTF-8",
            binary(b"\xff\xfe{\"message_id\":\"5\"}"),
            Post::Done,
        ),
        ("deep", answer(200, &[], &deep(100_000)), Post::Done),
        (
            "a long id",
            answer(
                200,
                &[],
                &format!(r#"{{"message_id":"{}"}}"#, "1".repeat(999)),
            ),
            Post::Done,
        ),
        (
            "an id with a tag",
            answer(200, &[], r#"{"message_id":"1]\n[toall]"}"#),
            Post::Done,
        ),
        (
            "an error in a 200",
            answer(200, &[], r#"{"errors":["no"]}"#),
            Post::Done,
        ),
        (
            "compressed",
            answer(200, &["content-encoding: gzip"], ok),
            Post::Done,
        ),
        (
            "a place to go to",
            answer(200, &["location: /elsewhere"], ok),
            Post::Done,
        ),
        (
            "100 KB of headers",
            answer(200, &[&header_of(100_000)], ok),
            Post::Done,
        ),
        (
            "a wrong length",
            bytes(format!(
                "HTTP/1.1 200 OK\r\ncontent-length: 9999999999999\r\n\r\n{ok}"
            )),
            Post::Done,
        ),
        (
            "broken chunks",
            bytes("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nx"),
            Post::Done,
        ),
        (
            "a dribble",
            canned::Answer::Dribble(head.into()),
            Post::Done,
        ),
        (
            "hints first",
            bytes(format!(
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\n\r\n{head}{ok}"
            )),
            Post::Done,
        ),
        (
            "old HTTP",
            bytes(format!("HTTP/1.0 200\r\n\r\n{ok}")),
            Post::Done,
        ),
        // Nobody can tell.
        (
            "only hints",
            bytes("HTTP/1.1 100 Continue\r\n\r\n"),
            Post::InDoubt,
        ),
        (
            "another protocol",
            bytes(
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: chat\r\n\r\n",
            ),
            Post::InDoubt,
        ),
        ("300 headers", answer(200, &many_headers, ok), Post::InDoubt),
        (
            "2 MB of headers",
            answer(200, &[&header_of(2 << 20)], ok),
            Post::InDoubt,
        ),
        (
            "headers without end",
            canned::Answer::Endless("HTTP/1.1 200 OK\r\nx-junk: ".into()),
            Post::InDoubt,
        ),
        (
            "two lengths",
            bytes("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx"),
            Post::InDoubt,
        ),
        ("no status", bytes("HTTP/1.1 OK\r\n\r\n"), Post::InDoubt),
        (
            "a small status",
            bytes("HTTP/1.1 007 Bond\r\n\r\n"),
            Post::InDoubt,
        ),
        (
            "a control character",
            bytes("HTTP/1.1 200 OK\r\nx: a\0b\r\n\r\n"),
            Post::InDoubt,
        ),
        (
            "TLS",
            bytes(b"\x15\x03\x01\x00\x02\x02\x46".to_vec()),
            Post::InDoubt,
        ),
        // It says no.
        (
            "a loop",
            answer(308, &["location: /rooms/42/messages"], ""),
            Post::Refused(308),
        ),
        (
            "no room for it",
            answer(507, &[], &"x".repeat(10 << 20)),
            Post::Refused(507),
        ),
        (
            "no words",
            binary_with_status(403, b"\xff\xff"),
            Post::Refused(403),
        ),
        (
            "deep words",
            answer(400, &[], &format!(r#"{{"errors":{}}}"#, deep(10_000))),
            Post::Refused(400),
        ),
        (
            "a status of its own",
            answer(999, &[], ""),
            Post::Refused(999),
        ),
    ] {
        assert_eq!(post(answer, PATIENT).await, expected, "{name}");
    }
}

#[tokio::test]
async fn a_post_whose_answer_does_not_begin_in_time_is_in_doubt() {
    for (name, answer) in [
        (
            "hints without end",
            canned::Answer::Over("HTTP/1.1 100 Continue\r\n\r\n".into()),
        ),
        (
            "a dribbled head",
            canned::Answer::Dribble(b"HTTP/1.1 200 ".to_vec()),
        ),
    ] {
        assert_eq!(post(answer, IMPATIENT).await, Post::InDoubt, "{name}");
    }
}

fn binary_with_status(status: u16, body: &[u8]) -> canned::Answer {
    let length = body.len();
    let head = format!("HTTP/1.1 {status} Canned\r\ncontent-length: {length}\r\n\r\n");
    bytes([head.as_bytes(), body].concat())
}

#[tokio::test]
async fn what_a_dribble_has_to_say_is_not_waited_for() {
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n";
    let begun = Instant::now();
    let done = posted(canned::Answer::Dribble(head.into()), PATIENT).await;
    assert_eq!(done, Ok(None));
    assert!(begun.elapsed() < Duration::from_secs(5), "of ten");
}

#[tokio::test]
async fn absurd_limits_are_not_believed_and_the_post_is_done() {
    let far = "253402300799";
    for (headers, believed) in [
        (
            ["x-ratelimit-limit: -5", "x-ratelimit-remaining: -1"],
            Limits::default(),
        ),
        (
            [
                "x-ratelimit-limit: 4294967296",
                "x-ratelimit-remaining: 99999999999999999999",
            ],
            Limits::default(),
        ),
        (
            ["x-ratelimit-limit: 3e2", "x-ratelimit-remaining: many"],
            Limits::default(),
        ),
        (
            ["x-ratelimit-limit:", "x-ratelimit-reset: 0"],
            Limits::default(),
        ),
        (
            [
                "x-ratelimit-reset: -1",
                "date: Thu, 01 Jan 1970 00:00:00 GMT",
            ],
            Limits::default(),
        ),
        (
            [
                &format!("x-ratelimit-reset: {far}"),
                "date: Fri, 31 Dec 9999 23:59:59 GMT",
            ],
            Limits::default(),
        ),
        (
            [
                "x-ratelimit-reset: 1700000300\r\nx-ratelimit-reset: 1",
                "date: yesterday",
            ],
            Limits {
                reset: Some(1_700_000_300),
                ..Limits::default()
            },
        ),
    ] {
        let server = Canned::serve(answer(200, &headers, r#"{"message_id":"5"}"#)).await;
        let posted = chatwork(server.url(), PATIENT).post(ROOM, "Hi").await;
        let posted = posted.expect("it was taken");
        assert_eq!(posted.limits, believed, "{headers:?}");
        assert!(posted.value.is_some());
    }
}

#[tokio::test]
async fn a_list_that_is_none_is_nonsense_and_one_without_end_in_sight_runs_out_of_time() {
    let reads = async |answer, patience| {
        let server = Canned::serve(answer).await;
        let chatwork: Chatwork = chatwork(server.url(), patience);
        let (rooms, requests, newest, me) = tokio::join!(
            chatwork.rooms(),
            chatwork.incoming_requests(),
            chatwork.newest(ROOM),
            chatwork.me(),
        );
        [
            rooms.map(drop),
            requests.map(drop),
            newest.map(drop),
            me.map(drop),
        ]
    };
    for (name, strange) in [
        ("HTML", answer(200, &[], "<html>")),
        ("nothing", answer(200, &[], "")),
        ("deep", answer(200, &[], &deep(100_000))),
        ("no UTF-8", binary(b"[\"\xff\"]")),
        (
            "texts for numbers",
            answer(200, &[], r#"[{"room_id":"1","request_id":"1"}]"#),
        ),
        (
            "negative numbers",
            answer(200, &[], r#"[{"room_id":-1,"request_id":-1}]"#),
        ),
        ("no end", canned::Answer::Endless(endless(200))),
    ] {
        for read in reads(strange, PATIENT).await {
            assert!(
                matches!(read, Err(CallError::Nonsense(_))),
                "{name}: {read:?}"
            );
        }
    }
    let dribble = canned::Answer::Dribble(endless(200));
    for read in reads(dribble, IMPATIENT).await {
        assert!(matches!(read, Err(CallError::InDoubt(_))), "{read:?}");
    }
}

#[tokio::test]
async fn simsimis_strange_answers_are_taken_literally_or_have_failed() {
    let said = |atext: &str| {
        let body = serde_json::json!({ "status": 200, "atext": atext });
        (
            answer(200, &[], &body.to_string()),
            Ok(Answer::Said(atext.to_owned())),
        )
    };
    let failed = |answer| {
        (
            answer,
            Err(AskError::Failed("HTTP 200, no explanation".to_owned())),
        )
    };
    let silence = |body| (answer(200, &[], body), Ok(Answer::NothingToSay));
    let too_large = || Err(AskError::Failed("the answer is too large".to_owned()));
    for (name, (answer, expected)) in [
        // What it says is not made harmless here: whoever posts it does that.
        ("emoji", said(&"😀".repeat(256))),
        ("tags", said("[To:1] [toall] [/code] [rp aid=1 to=2-3]")),
        ("control characters", said("a\u{0}\u{7}\u{1b}[31m\u{202e}b")),
        ("a very long answer", said(&"ち".repeat(10_000))),
        (
            "no UTF-8",
            (
                binary(b"{\"status\":200,\"atext\":\"a\xffb\"}"),
                Ok(Answer::Said("a\u{fffd}b".to_owned())),
            ),
        ),
        (
            "half a character",
            (
                answer(200, &[], r#"{"status":200,"atext":"\ud83d"}"#),
                Err(AskError::Failed("HTTP 200, no explanation".to_owned())),
            ),
        ),
        (
            "100 KB of headers",
            (
                answer(200, &[&header_of(100_000)], r#"{"status":200,"atext":"a"}"#),
                Ok(Answer::Said("a".to_owned())),
            ),
        ),
        // Nothing in it.
        ("no words", silence(r#"{"status":200,"atext":""}"#)),
        ("a number", silence(r#"{"status":200,"atext":5}"#)),
        ("a list", silence(r#"{"status":200,"atext":["a"]}"#)),
        (
            "not understood, at length",
            silence(r#"{"status":228,"atext":"a"}"#),
        ),
        // No answer.
        (
            "HTML",
            failed(answer(200, &["content-type: text/html"], "<html>Hi</html>")),
        ),
        ("nothing", failed(answer(200, &[], ""))),
        ("zeros", failed(binary(&[0; 1000]))),
        (
            "a list for an object",
            failed(answer(200, &[], r#"["status",200]"#)),
        ),
        ("deep", failed(answer(200, &[], &deep(10_000)))),
        (
            "an answer deep down",
            failed(answer(
                200,
                &[],
                &format!(r#"{{"a":{},"status":200,"atext":"a"}}"#, deep(1_000)),
            )),
        ),
        (
            "numbers for words",
            (
                answer(200, &[], r#"{"status":500,"statusMessage":7}"#),
                Err(AskError::Failed("500 no explanation".to_owned())),
            ),
        ),
        (
            "a status beyond numbers",
            failed(answer(200, &[], r#"{"status":99999999999999999999}"#)),
        ),
        (
            "10 MiB",
            (answer(200, &[], &"x".repeat(10 << 20)), too_large()),
        ),
        (
            "10 MiB of words",
            (
                answer(
                    200,
                    &[],
                    &format!(r#"{{"status":200,"atext":"{}"}}"#, "x".repeat(10 << 20)),
                ),
                too_large(),
            ),
        ),
    ] {
        assert_eq!(asked(answer, PATIENT).await, expected, "{name}");
    }
    let dribble = canned::Answer::Dribble(endless(200));
    assert_eq!(asked(dribble, IMPATIENT).await, Err(AskError::TimedOut));
}

/// What answers are made of, whole and in pieces.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let known = prop::sample::select(vec![
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 403 No\r\n",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.0 ",
        "204",
        " ",
        "\r\n",
        "\r\n\r\n",
        "content-length: 10\r\n",
        "content-length: -1\r\n",
        "transfer-encoding: chunked\r\n",
        "location: /x\r\n",
        "x-ratelimit-remaining: 0\r\n",
        "5\r\nhello\r\n",
        "0\r\n\r\n",
        "{\"message_id\":\"5\"}",
        "{\"errors\":[\"no\"]}",
        "{\"status\":200,\"atext\":\"a\"}",
        "{",
        "\"",
        "[",
        "\0",
    ]);
    prop_oneof![
        known.prop_map(|text| text.as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 0..40),
    ]
}

fn pieces() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(piece(), 0..12).prop_map(|pieces| pieces.concat())
}

fn on_a_runtime<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(test)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_post_that_was_accepted_is_never_refused(rest in pieces(), status in 200..300_u16) {
        let start = format!("HTTP/1.1 {status} OK\r\n").into_bytes();
        let post = on_a_runtime(post(bytes([start, rest].concat()), PATIENT));
        prop_assert!(matches!(post, Post::Done | Post::InDoubt), "{:?}", post);
    }

    #[test]
    fn any_bytes_are_an_answer_or_none(answer in pieces()) {
        let refusal = |status| String::from_utf8_lossy(&answer).contains(&format!(" {status}"));
        match on_a_runtime(post(bytes(answer.clone()), PATIENT)) {
            Post::Refused(status) => prop_assert!(refusal(status), "{}", status),
            Post::Done | Post::InDoubt => {}
        }
        if let Err(error) = on_a_runtime(asked(bytes(answer), PATIENT)) {
            let error = error.to_string();
            prop_assert!(error.chars().count() < 300 && !error.contains(char::is_control), "{}", error);
        }
    }
}
