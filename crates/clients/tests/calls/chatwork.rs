//! Chatwork over the wire.

use chickwork_chatwork::id::{AccountId, MessageId, RoomId};
use chickwork_clients::Patience;
use chickwork_clients::chatwork::{
    Account, Answered, CallError, Chatwork, ContactRequest, Limits, Newest, Role, Room, RoomKind,
    RoomMessage, Settings,
};

use crate::canned::{self, Canned, answer, endless};
use crate::{IMPATIENT, PATIENT, install_tls};

const TOKEN: &str = "chatwork-token-of-the-test";
const ROOM: RoomId = RoomId(42);

pub(crate) fn chatwork(url: &str, patience: Patience) -> Chatwork {
    install_tls();
    let settings = Settings {
        url: url.to_owned(),
        api_token: TOKEN.to_owned(),
    };
    Chatwork::with_patience(settings, patience).expect("a client")
}

pub(crate) async fn posted(
    answer: canned::Answer,
    patience: Patience,
) -> Result<Option<MessageId>, CallError> {
    let server = Canned::serve(answer).await;
    let posted = chatwork(server.url(), patience).post(ROOM, "Hi").await;
    assert_eq!(server.requests().len(), 1, "a post is never repeated");
    posted.map(|answered| answered.value)
}

async fn newest(answer: canned::Answer) -> Result<Newest, CallError> {
    let server = Canned::serve(answer).await;
    let newest = chatwork(server.url(), PATIENT).newest(ROOM).await;
    newest.map(|answered| answered.value)
}

fn message_id(text: &str) -> MessageId {
    MessageId::new(text).expect("a message id")
}

/// `count` messages as Chatwork writes them.
fn messages(count: usize) -> String {
    let message = r#"{"message_id":"5","account":{"account_id":123,"name":"Bob","avatar_image_url":"x"},"body":"Hi","send_time":1384242850,"update_time":0}"#;
    format!("[{}]", vec![message; count].join(","))
}

#[tokio::test]
async fn me_is_read_with_the_token_and_tells_the_limits() {
    let server = Canned::serve(answer(
        200,
        &[
            "x-ratelimit-limit: 300",
            "x-ratelimit-remaining: 299",
            "x-ratelimit-reset: 1700000300",
            "date: Tue, 14 Nov 2023 22:13:20 GMT",
        ],
        r#"{"account_id":7,"room_id":8,"name":"Chick","chatwork_id":"","mail":""}"#,
    ))
    .await;

    let me = chatwork(&format!("{}/v2/", server.url()), PATIENT)
        .me()
        .await;

    assert_eq!(
        me,
        Ok(Answered {
            value: Account {
                account_id: AccountId(7),
                room_id: RoomId(8),
                name: "Chick".to_owned(),
            },
            limits: Limits {
                limit: Some(300),
                remaining: Some(299),
                reset: Some(1_700_000_300),
                date: jiff::Timestamp::from_second(1_700_000_000).ok(),
            },
        })
    );
    let request = server.request();
    assert!(request.starts_with("GET /v2/me HTTP/1.1\r\n"), "{request}");
    assert!(request.contains(&format!("x-chatworktoken: {TOKEN}\r\n")));
}

#[tokio::test]
async fn a_post_is_a_form_in_which_every_character_survives() {
    let server = Canned::serve(answer(200, &[], r#"{"message_id":"1234"}"#)).await;
    let text = "[rp aid=1 to=2-3]\na&b=c+d 100% ;😀 chào";

    let posted = chatwork(server.url(), PATIENT).post(ROOM, text).await;

    assert_eq!(posted.map(|a| a.value), Ok(Some(message_id("1234"))));
    let request = server.request();
    assert!(
        request.starts_with("POST /rooms/42/messages HTTP/1.1\r\n"),
        "{request}"
    );
    assert!(request.contains("content-type: application/x-www-form-urlencoded\r\n"));
    let (_, body) = request.split_once("\r\n\r\n").expect("a body");
    assert_eq!(
        body,
        "body=%5Brp+aid%3D1+to%3D2-3%5D%0Aa%26b%3Dc%2Bd+100%25+%3B%F0%9F%98%80+ch%C3%A0o"
    );
}

#[tokio::test]
async fn a_post_that_was_accepted_is_done_whatever_follows() {
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n";
    for strange in [
        answer(200, &[], "garbage"),
        answer(200, &[], r#"{"message_id":1234}"#),
        answer(204, &[], ""),
        answer(201, &[], ""),
        canned::Answer::Bytes(head.into()),
        canned::Answer::Stall(head.into()),
        canned::Answer::Endless(endless(200)),
    ] {
        assert_eq!(posted(strange, PATIENT).await, Ok(None));
    }
}

#[tokio::test]
async fn no_connection_is_not_sent_and_a_lost_one_is_in_doubt() {
    let refused = chatwork("http://127.0.0.1:1", PATIENT)
        .post(ROOM, "Hi")
        .await;
    assert!(matches!(refused, Err(CallError::NotSent(_))), "{refused:?}");
    for lost in [
        canned::Answer::Drop,
        canned::Answer::Stall(Vec::new()),
        canned::Answer::Bytes(b"not HTTP at all\r\n\r\n".to_vec()),
    ] {
        let error = posted(lost, IMPATIENT).await;
        assert!(matches!(error, Err(CallError::InDoubt(_))), "{error:?}");
    }
}

#[tokio::test]
async fn a_post_never_uses_an_old_connection() {
    let keep = "HTTP/1.1 200 OK\r\ncontent-length: 22\r\n\r\n{\"message_id\":\"12345\"}";
    let server = Canned::serve(canned::Answer::Stall(keep.into())).await;
    let chatwork = chatwork(server.url(), PATIENT);
    for _ in 0..3 {
        // On a connection that is still in use by the answer before, nobody would answer.
        let posted = chatwork.post(ROOM, "Hi").await.map(|a| a.value);
        assert_eq!(posted, Ok(Some(message_id("12345"))));
    }
    assert_eq!(server.requests().len(), 3);
}

#[tokio::test]
async fn the_two_limits_are_told_apart() {
    for (said, remaining, expected) in [
        ("Rate limit for message posting per room exceeded.", 0, true),
        ("Rate limit exceeded.", 0, false),
        ("Too many", 12, true),
    ] {
        let body = format!(r#"{{"errors":["{said}"]}}"#);
        let header = format!("x-ratelimit-remaining: {remaining}");
        let error = posted(answer(429, &[&header], &body), PATIENT).await;
        assert_eq!(
            error,
            Err(CallError::Refused {
                status: 429,
                said: said.to_owned(),
                limits: Limits {
                    remaining: Some(remaining),
                    ..Limits::default()
                },
                room_limit: expected,
            })
        );
    }
}

#[tokio::test]
async fn other_answers_are_refusals_with_chatworks_words() {
    let long = format!(r#"{{"errors":["{}"]}}"#, "a".repeat(5_000));
    for (answer, expected_status, expected_words) in [
        (
            answer(401, &[], r#"{"errors":["Invalid API token"]}"#),
            401,
            "Invalid API token",
        ),
        (
            answer(400, &[], r#"{"errors":["a","b\nc"]}"#),
            400,
            "a; b c",
        ),
        (
            answer(502, &[], "<html>Bad Gateway</html>"),
            502,
            "no explanation",
        ),
        (
            answer(302, &["location: /elsewhere"], ""),
            302,
            "no explanation",
        ),
        (answer(400, &[], &long), 400, "aaa"),
        (canned::Answer::Endless(endless(500)), 500, "no explanation"),
        (canned::Answer::Stall(endless(503)), 503, "no explanation"),
    ] {
        match posted(answer, PATIENT).await {
            Err(CallError::Refused { status, said, .. }) => {
                assert_eq!(status, expected_status);
                assert!(said.starts_with(expected_words), "{said}");
                assert!(said.chars().count() <= 200);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn the_newest_messages_are_read_whatever_was_read_before() {
    let server = Canned::serve(answer(200, &[], &messages(2))).await;
    let newest = chatwork(server.url(), PATIENT).newest(ROOM).await;
    let message = RoomMessage {
        message_id: message_id("5"),
        account_id: AccountId(123),
        body: "Hi".to_owned(),
        send_time: 1_384_242_850,
        update_time: 0,
    };
    assert_eq!(
        newest.map(|answered| answered.value),
        Ok(Newest {
            messages: vec![message.clone(), message],
            whole_room: true,
        })
    );
    let request = server.request();
    assert!(
        request.starts_with("GET /rooms/42/messages?force=1 HTTP/1.1\r\n"),
        "{request}"
    );
}

#[tokio::test]
async fn a_list_is_the_whole_room_if_short_and_nothing_is_hidden() {
    let limited = ["chatwork-message-limitation: true"];
    for (answer, count, whole_room) in [
        (answer(204, &[], ""), 0, true),
        (answer(204, &limited, ""), 0, false),
        (answer(200, &[], &messages(99)), 99, true),
        (answer(200, &limited, &messages(99)), 99, false),
        (answer(200, &[], &messages(100)), 100, false),
    ] {
        let newest = newest(answer).await.expect("a list");
        assert_eq!(
            (newest.messages.len(), newest.whole_room),
            (count, whole_room)
        );
    }
}

#[tokio::test]
async fn a_reading_that_cannot_be_used_is_nonsense_and_a_cut_one_is_not() {
    for strange in [
        answer(200, &[], "<html>"),
        answer(200, &[], r#"{"errors":[]}"#),
        answer(200, &[], r#"[{"message_id":5}]"#),
        canned::Answer::Endless(endless(200)),
    ] {
        let error = newest(strange).await;
        assert!(matches!(error, Err(CallError::Nonsense(_))), "{error:?}");
    }
    let cut = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n[".to_vec();
    let error = newest(canned::Answer::Bytes(cut)).await;
    assert!(matches!(error, Err(CallError::InDoubt(_))), "{error:?}");
}

#[tokio::test]
async fn rooms_are_read_with_their_kind_and_role() {
    let body = r#"[
        {"room_id":1,"name":"Chick","type":"my","role":"admin","sticky":false,"unread_num":0},
        {"room_id":2,"name":"An","type":"direct","role":"member"},
        {"room_id":3,"name":"お知らせ","type":"group","role":"readonly"},
        {"room_id":4,"name":"","type":"theatre","role":"audience"}
    ]"#;
    let server = Canned::serve(answer(200, &["x-ratelimit-remaining: 9"], body)).await;

    let rooms = chatwork(server.url(), PATIENT)
        .rooms()
        .await
        .expect("a list");

    let room = |number, name: &str, kind, role| Room {
        room_id: RoomId(number),
        name: name.to_owned(),
        kind,
        role,
    };
    assert_eq!(
        rooms.value,
        [
            room(1, "Chick", RoomKind::My, Role::Admin),
            room(2, "An", RoomKind::Direct, Role::Member),
            room(3, "お知らせ", RoomKind::Group, Role::Readonly),
            room(4, "", RoomKind::Other, Role::Other),
        ]
    );
    assert_eq!(rooms.limits.remaining, Some(9));
    let request = server.request();
    assert!(request.starts_with("GET /rooms HTTP/1.1\r\n"), "{request}");
}

#[tokio::test]
async fn who_waits_to_be_a_contact_is_read() {
    let body =
        r#"[{"request_id":123,"account_id":363,"message":"Hi!","name":"Bob","chatwork_id":""}]"#;
    let server = Canned::serve(answer(200, &[], body)).await;

    let requests = chatwork(server.url(), PATIENT).incoming_requests().await;

    let bob = ContactRequest {
        request_id: 123,
        account_id: AccountId(363),
        name: "Bob".to_owned(),
    };
    assert_eq!(requests.map(|answered| answered.value), Ok(vec![bob]));
    let request = server.request();
    assert!(
        request.starts_with("GET /incoming_requests HTTP/1.1\r\n"),
        "{request}"
    );
}

#[tokio::test]
async fn no_rooms_and_no_requests_are_a_204_or_an_empty_list() {
    for nothing in [answer(204, &[], ""), answer(200, &[], "[]")] {
        let server = Canned::serve(nothing).await;
        let chatwork = chatwork(server.url(), PATIENT);
        assert_eq!(chatwork.rooms().await.map(|a| a.value), Ok(Vec::new()));
        let requests = chatwork.incoming_requests().await;
        assert_eq!(requests.map(|a| a.value), Ok(Vec::new()));
    }
}

#[tokio::test]
async fn the_token_shows_nowhere() {
    let chatwork = chatwork("http://127.0.0.1:1", PATIENT);
    assert!(!format!("{chatwork:?}").contains(TOKEN));
    let error = chatwork.me().await.expect_err("nobody listens");
    assert!(!format!("{error:?} {error}").contains(TOKEN));
    let said = format!(r#"{{"errors":["{TOKEN} is wrong"]}}"#);
    let error = posted(answer(401, &[], &said), PATIENT)
        .await
        .expect_err("a refusal");
    assert!(!format!("{error:?} {error}").contains(TOKEN));
}
