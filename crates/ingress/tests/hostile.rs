//! The ingress before those who mean it no good, or send what nobody sends: bodies that are signed
//! and make no sense, requests that never end, clients by the hundred that hold on.

mod bench;

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bench::{Answer, Bench, LIMIT, MENTION, empty, raw, request, signature, signed};
use bytes::Bytes;
use chickwork_chatwork::signature::Tokens;
use chickwork_ingress::receive::{Received, receive};
use chickwork_queue::event::{BotName, EventId};
use chickwork_queue::job::{Cause, Settled, Settlement, Step, Work};
use futures_util::future::join_all;
use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

/// What Chatwork sends has a mebibyte at most, and so has what we take.
const LARGEST: usize = 1024 * 1024;
/// Within this time whoever holds on is cut off.
const CUT_OFF: Duration = Duration::from_secs(30);
/// A good webhook is answered within this time, whoever else is there. Far above the usual
/// milliseconds, as on a shared machine a thread or a disk may stand still for seconds; yet below the
/// 10 s that Chatwork waits, and after which the first of those who hold on are cut off.
const PROMPT: Duration = Duration::from_secs(8);

/// What an authentic body is kept as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kept {
    /// In the ask queue.
    Stored,
    /// In the archive only: of a type that we do not know.
    Ignored,
    /// As a dead letter.
    Malformed,
}

/// A mention in which one member has another value, written as it stands in JSON.
fn with(member: &str, value: &str) -> Vec<u8> {
    let name = format!("\"{member}\":");
    let (before, rest) = MENTION.split_once(&name).expect("a member of a mention");
    let old = rest.find([',', '}']).expect("a value ends");
    [before, &name, value, &rest[old..]].concat().into_bytes()
}

/// A mention with bytes put in where they do harm: after the first `at`.
fn spoilt(at: &str, bytes: &[u8]) -> Vec<u8> {
    let at = MENTION.find(at).expect("a part of a mention") + at.len();
    let (before, after) = MENTION.as_bytes().split_at(at);
    [before, bytes, after].concat()
}

/// Bodies that nobody sends, each for a reason, and what becomes of them when they are signed.
fn strange_bodies() -> Vec<(Vec<u8>, Kept)> {
    use Kept::{Ignored, Malformed, Stored};
    let mut bodies = vec![
        // Nothing, or hardly anything.
        (b"".to_vec(), Malformed),
        (b"null".to_vec(), Malformed),
        (b"[]".to_vec(), Malformed),
        (b"\"\"".to_vec(), Malformed),
        (b"{}".to_vec(), Malformed),
        (b"\0".to_vec(), Malformed),
        (vec![b' '; LARGEST], Malformed),
        (vec![b'['; LARGEST], Malformed),
        // More than one thing, or one and a bit.
        ([MENTION, MENTION].concat().into_bytes(), Malformed),
        ([MENTION, "x"].concat().into_bytes(), Malformed),
        ([MENTION, "\0"].concat().into_bytes(), Malformed),
        (MENTION.as_bytes()[..MENTION.len() - 1].to_vec(), Malformed),
        ([" \r\n", MENTION, "\t\n"].concat().into_bytes(), Stored),
        // Encodings.
        (["\u{feff}", MENTION].concat().into_bytes(), Malformed),
        (
            MENTION.encode_utf16().flat_map(u16::to_le_bytes).collect(),
            Malformed,
        ),
        (with("body", r#""\ud800""#), Malformed),
        (with("body", r#""\udc00\ud800""#), Malformed),
        (with("body", r#""\ud83d\ude00""#), Stored),
        (with("body", r#""a\u0000b""#), Stored),
        // Members that are not what they have to be.
        (with("webhook_event_type", "null"), Malformed),
        (
            with("webhook_event_type", r#"["mention_to_me"]"#),
            Malformed,
        ),
        (with("webhook_setting_id", "1"), Malformed),
        (with("webhook_setting_id", r#""""#), Stored),
        (with("body", "null"), Malformed),
        (with("body", r#"["[To:4]"]"#), Malformed),
        (
            MENTION.replace(r#""body":"#, r#""text":"#).into_bytes(),
            Malformed,
        ),
        // Twice the same: the last one counts, for every reader of JSON that we know.
        (with("room_id", r#""twelve","room_id":13"#), Stored),
        (with("room_id", r#"12,"room_id":"thirteen""#), Malformed),
        // Types that nobody has told us of.
        (with("webhook_event_type", r#""""#), Ignored),
        (with("webhook_event_type", r#""MENTION_TO_ME""#), Ignored),
        (with("webhook_event_type", r#""mention_to_me ""#), Ignored),
        (
            with(
                "webhook_event_type",
                &format!("\"{}\"", "x".repeat(100_000)),
            ),
            Ignored,
        ),
        (
            br#"{"webhook_event_type":"x","webhook_event":[[[[1e999]]]]}"#.to_vec(),
            Malformed,
        ),
    ];
    // Nested deeper than any reader's stack.
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let nested = [open.repeat(10_000), "1".to_owned(), close.repeat(10_000)].concat();
        bodies.push((
            with("update_time", &format!("0,\"new\":{nested}")),
            Malformed,
        ));
        bodies.push((with("webhook_event_type", &nested), Malformed));
        bodies.push((nested.into_bytes(), Malformed));
    }
    // No text at all, wherever it stands.
    for place in [
        "{\"",
        "\"mention",
        "chào",
        "_time\":",
        "\"update_time\":0}}",
        "\"18",
    ] {
        for bytes in [&b"\xff"[..], b"\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"] {
            bodies.push((spoilt(place, bytes), Malformed));
        }
    }
    // Ids: a room and an account are whole numbers, a message is a short word.
    for member in ["room_id", "from_account_id", "to_account_id"] {
        for (value, kept) in [
            ("0", Stored),
            ("18446744073709551615", Stored),
            ("18446744073709551616", Malformed),
            ("-1", Malformed),
            ("-0", Malformed),
            ("12.0", Malformed),
            ("1e30", Malformed),
            ("1e999", Malformed),
            ("012", Malformed),
            ("\"12\"", Malformed),
            ("\"\"", Malformed),
            ("null", Malformed),
            ("true", Malformed),
            ("[12]", Malformed),
            ("NaN", Malformed),
        ] {
            bodies.push((with(member, value), kept));
        }
        let digits = "9".repeat(10_000);
        bodies.push((with(member, &digits), Malformed));
    }
    for (value, kept) in [
        (r#""18a""#.to_owned(), Stored),
        (format!("\"{}\"", "9".repeat(40)), Stored),
        (format!("\"{}\"", "9".repeat(41)), Malformed),
        (format!("\"{}\"", "9".repeat(10 * 1024)), Malformed),
        ("18".to_owned(), Malformed),
        ("1e30".to_owned(), Malformed),
        (r#""""#.to_owned(), Malformed),
        (r#""1\u00008""#.to_owned(), Malformed),
        (r#""1 8""#.to_owned(), Malformed),
        (r#""18\r\nx: y""#.to_owned(), Malformed),
        (r#""１８""#.to_owned(), Malformed),
        ("null".to_owned(), Malformed),
    ] {
        bodies.push((with("message_id", &value), kept));
    }
    // Times are whole seconds, of any year that fits.
    for member in ["webhook_event_time", "send_time", "update_time"] {
        for (value, kept) in [
            ("-1", Stored),
            ("9223372036854775807", Stored),
            ("-9223372036854775808", Stored),
            ("9223372036854775808", Malformed),
            ("18446744073709551615", Malformed),
            ("1e10", Malformed),
            ("1.5", Malformed),
            ("\"1700000003\"", Malformed),
            ("null", Malformed),
        ] {
            bodies.push((with(member, value), kept));
        }
    }
    // As long as it may be.
    let words = "ひよこ😀[To:4]".repeat(40_000);
    bodies.push((with("body", &format!("\"{words}\"")), Stored));
    bodies
}

#[tokio::test]
async fn whatever_is_signed_is_answered_with_200_and_kept_as_it_came() {
    let bench = Bench::start().await;
    let bodies = strange_bodies();
    let mut expected = BTreeMap::new();
    for (body, kept) in &bodies {
        let answer = bench.post("/webhook", &signed(body), body).await;
        assert_eq!(answer, empty(200), "{}", start_of(body));
        let twice = expected.insert(body.clone(), *kept);
        assert_eq!(twice, None, "listed twice: {}", start_of(body));
    }

    // Where each of them is.
    let mut asked = HashSet::new();
    let mut claims = bench.queue.claim_asks(16);
    let stored = expected.values().filter(|kept| **kept == Kept::Stored);
    for _ in 0..stored.count() {
        let claim = tokio::time::timeout(LIMIT, claims.next()).await;
        let claim = claim.expect("one more in the ask queue");
        let Work::Ask(event) = &claim.job().work else {
            panic!("an event");
        };
        asked.insert(event.id);
        let settlement = Settlement::Done;
        let outcomes = Vec::new();
        let settled = claim.settle(Settled {
            settlement,
            outcomes,
        });
        settled.await.expect("settled");
    }
    let mut dead = HashSet::new();
    for letter in bench.dead().await {
        assert_eq!(
            (letter.cause, letter.step),
            (Cause::Malformed, Step::Receive)
        );
        let error = &letter.error;
        assert!(!error.is_empty() && error.len() < 100, "{error}");
        assert!(!error.contains("chào"), "no words of people: {error}");
        dead.insert(letter.id);
    }
    let mut found = BTreeMap::new();
    for event in bench.archived().await {
        let kept = match (asked.contains(&event.id), dead.contains(&event.id)) {
            (true, false) => Kept::Stored,
            (false, true) => Kept::Malformed,
            (false, false) => Kept::Ignored,
            (true, true) => panic!("{} is asked about and dead", start_of(&event.body)),
        };
        let twice = found.insert(event.body.to_vec(), kept);
        assert_eq!(twice, None, "kept twice: {}", start_of(&event.body));
    }
    assert_eq!(found.len(), expected.len());
    for (body, kept) in &expected {
        assert_eq!(found.get(body), Some(kept), "{}", start_of(body));
    }
    assert_eq!(bench.ingress.readiness().check(), Ok(()));
}

/// As much of a body as can stand in an error.
fn start_of(body: &[u8]) -> String {
    let shown = &body[..body.len().min(400)];
    format!("{} bytes: {}", body.len(), shown.escape_ascii())
}

#[tokio::test]
async fn what_is_not_signed_is_refused_however_strange_it_is() {
    let bench = Bench::start().await;
    for (number, (body, _)) in strange_bodies().iter().enumerate() {
        let headers = match number % 3 {
            0 => String::new(),
            1 => signed(b"another body"),
            _ => format!("x-chatworkwebhooksignature: {}=\r\n", signature(body)),
        };
        let answer = bench.post("/webhook", &headers, body).await;
        assert_eq!(answer.status, 401, "{}", start_of(body));
        assert!(answer.body.len() < 80 && answer.body.lines().count() == 1);
    }
    assert_eq!(bench.archived().await, []);
    assert_eq!(bench.dead().await.len(), 0);
}

/// Sends bytes and reads what comes until the connection is closed; empty if nothing came.
async fn said_to(address: SocketAddr, request: &[u8]) -> String {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.expect("a listener");
        // Whoever is told off in the middle of his request cannot finish it.
        let _ = stream.write_all(request).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    };
    tokio::time::timeout(LIMIT, exchange)
        .await
        .expect("closed in time")
}

/// Sees that a good webhook is taken, and promptly.
async fn takes_a_good_one(bench: &Bench) {
    let begun = Instant::now();
    let body = MENTION.as_bytes();
    let answer: Answer = bench.post("/webhook", &signed(body), body).await;
    assert_eq!(answer, empty(200));
    assert!(begun.elapsed() < PROMPT, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn ten_mebibytes_are_too_large_with_a_length_and_in_pieces() {
    let bench = Bench::start().await;
    let body = vec![b'x'; 10 * LARGEST];
    let answer = bench.post("/webhook", &signed(&body), &body).await;
    assert_eq!(answer, empty(413));

    let head = format!(
        "POST /webhook HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n{}\r\n",
        signed(&body)
    );
    let mut chunked = head.into_bytes();
    for piece in body.chunks(64 * 1024) {
        chunked.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        chunked.extend_from_slice(piece);
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    assert_eq!(bench.raw(&chunked).await, empty(413));

    // A length that no number holds, and one that is a lie.
    for (length, statuses) in [
        ("99999999999999999999", &[400][..]),
        ("18446744073709551615", &[400, 413]),
        ("-1", &[400]),
        ("1e3", &[400]),
        ("10\r\ncontent-length: 11", &[400]),
        ("10\r\ntransfer-encoding: chunked", &[400]),
    ] {
        let head = format!(
            "POST /webhook HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n0123456789"
        );
        assert_error(
            &said_to(bench.ingress.address(), head.as_bytes()).await,
            statuses,
        );
    }
    takes_a_good_one(&bench).await;
    assert_eq!(bench.archived().await.len(), 1);
}

/// Sees that this is one answer with one of these statuses.
fn assert_error(answer: &str, statuses: &[u16]) {
    let status = answer
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3)?.parse().ok());
    assert!(
        status.is_some_and(|status| statuses.contains(&status)),
        "{statuses:?} expected: {answer:?}"
    );
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_their_order() {
    let bench = Bench::start().await;
    let mut pipeline = Vec::new();
    let mut expected = Vec::new();
    for number in 0..50 {
        let body = with("message_id", &format!("\"{number}\""));
        let (target, headers, status) = match number % 4 {
            0 => ("/webhook", signed(&body), 200),
            1 => ("/webhook", signed(b"another"), 401),
            2 => ("/webhook/second", signed(&body), 200),
            _ => ("/elsewhere", signed(&body), 404),
        };
        // All but the last keep the connection open.
        let one = request("POST", target, &headers, &body);
        let one = match number {
            49 => one,
            _ => replaced(&one, "connection: close\r\n", ""),
        };
        pipeline.extend_from_slice(&one);
        expected.push(status);
    }
    let answers = said_to(bench.ingress.address(), &pipeline).await;
    let statuses: Vec<u16> = answers
        .split("HTTP/1.1 ")
        .skip(1)
        .filter_map(|answer| answer.get(..3)?.parse().ok())
        .collect();
    assert_eq!(statuses, expected);
    // And each was taken as itself.
    let kept: Vec<_> = bench
        .archived()
        .await
        .into_iter()
        .map(|event| (event.message_id.expect("a mention").to_string(), event.bot))
        .collect();
    let of = |number: u32, bot: &str| (number.to_string(), BotName::new(bot).expect("a name"));
    let taken = (0..50).filter_map(|number| match number % 4 {
        0 => Some(of(number, "bot")),
        2 => Some(of(number, "second")),
        _ => None,
    });
    assert_eq!(kept, taken.collect::<Vec<_>>());
}

fn replaced(request: &[u8], what: &str, by: &str) -> Vec<u8> {
    let at = request
        .windows(what.len())
        .position(|window| window == what.as_bytes())
        .expect("it is there");
    [&request[..at], by.as_bytes(), &request[at + what.len()..]].concat()
}

#[tokio::test]
async fn floods_of_headers_end_in_an_error_and_harm_nobody() {
    let bench = Bench::start().await;
    let body = MENTION.as_bytes();
    let many: String = (0..10_000)
        .map(|number| format!("x-{number}: y\r\n"))
        .collect();
    let floods = [
        ("ten thousand headers", many),
        (
            "one of a mebibyte",
            format!("x: {}\r\n", "y".repeat(LARGEST)),
        ),
        (
            "a name of a mebibyte",
            format!("{}: y\r\n", "x".repeat(LARGEST)),
        ),
        ("a hundred signatures", signed(body).repeat(100)),
        ("no header at all", "x".repeat(LARGEST)),
        ("a header with a zero", "x: \0\r\n".to_owned()),
        ("a folded header", "x: y\r\n z\r\n".to_owned()),
    ];
    for (flood, headers) in floods {
        let headers = format!("{}{headers}", signed(body));
        let answer = said_to(
            bench.ingress.address(),
            &request("POST", "/webhook", &headers, body),
        )
        .await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
            "{flood}: {answer:?}"
        );
        takes_a_good_one(&bench).await;
    }
    // The same for lines that are no request.
    let long_target = format!("/webhook?{}", "x=y&".repeat(LARGEST / 4));
    for line in [
        request("POST", &long_target, &signed(body), body),
        request("POST", "/webhook\u{7f}", &signed(body), body),
        b"\0\0\0\0\r\n\r\n".to_vec(),
        b"POST /webhook HTTP/9.9\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 somebody speaks TLS\r\n\r\n".to_vec(),
        vec![b'\n'; LARGEST],
    ] {
        let answer = said_to(bench.ingress.address(), &line).await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
            "{answer:?}"
        );
        takes_a_good_one(&bench).await;
    }
    // Signatures that agree are one, up to as many headers as anybody sends.
    let agreeing = signed(body).repeat(50);
    assert_eq!(bench.post("/webhook", &agreeing, body).await, empty(200));
}

/// How somebody holds a connection without getting anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Holds {
    /// Sends nothing.
    Silent,
    /// Sends half a head.
    HalfAHead,
    /// Sends half a body.
    HalfABody,
    /// Sends its head a byte at a time.
    DribblesHead,
    /// Sends its body a byte at a time.
    DribblesBody,
    /// Sends a body in pieces that has no end.
    EndlessBody,
    /// Sends one good request and then the next head a byte at a time.
    DribblesNextHead,
    /// Sends requests and reads no answer.
    Deaf,
}

impl Holds {
    /// What is sent at once, and then again and again.
    fn sends(self) -> (Vec<u8>, Option<&'static [u8]>) {
        let health = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
        let head = "POST /webhook HTTP/1.1\r\nhost: x\r\n";
        let long = format!("{head}content-length: 1000\r\n\r\n{{");
        let chunked = format!("{head}transfer-encoding: chunked\r\n\r\n");
        match self {
            Self::Silent => (Vec::new(), None),
            Self::HalfAHead => (head.into(), None),
            Self::HalfABody => (long.into(), None),
            Self::DribblesHead => (head.into(), Some(b"x")),
            Self::DribblesBody => (long.into(), Some(b" ")),
            Self::EndlessBody => (chunked.into(), Some(b"4\r\nabcd\r\n")),
            Self::DribblesNextHead => ([&health[..], head.as_bytes()].concat(), Some(b"x")),
            Self::Deaf => (Vec::new(), Some(health)),
        }
    }

    /// Holds on until cut off, and tells how long that took from when it got nowhere.
    async fn on(self, address: SocketAddr) -> Duration {
        let socket = TcpSocket::new_v4().expect("a socket");
        if let Self::Deaf = self {
            // So that unread answers are soon in the way.
            socket.set_recv_buffer_size(4096).expect("a small buffer");
        }
        let stream = socket.connect(address).await.expect("a listener");
        let (mut read, mut write) = stream.into_split();
        let (first, more) = self.sends();
        // An error says that it is over already.
        let _ = write.write_all(&first).await;
        if let Self::DribblesNextHead = self {
            let answered = read_until(&mut read, b"ready\n");
            let answered = tokio::time::timeout(LIMIT, answered).await;
            answered.expect("the first request is a good one");
        }
        let begun = Instant::now();
        let sending = async {
            let Some(more) = more else {
                return std::future::pending().await;
            };
            let mut since = begun;
            while write.write_all(more).await.is_ok() {
                match self {
                    Self::Deaf => since = Instant::now(),
                    // Not a wait: so slow is this client.
                    _ => tokio::time::sleep(Duration::from_secs(1)).await,
                }
            }
            since
        };
        let reading = async {
            if let Self::Deaf = self {
                return std::future::pending().await;
            }
            // Closed in order or not: it is closed.
            let _ = read.read_to_end(&mut Vec::new()).await;
            begun
        };
        let cut_off = async {
            tokio::select! {
                since = sending => since,
                since = reading => since,
            }
        };
        let limit = CUT_OFF + PROMPT;
        let since = tokio::time::timeout(limit, cut_off).await;
        let since = since.unwrap_or_else(|_| panic!("{self:?} holds on after {limit:?}"));
        since.elapsed()
    }
}

/// Reads what comes up to this end.
async fn read_until(read: &mut OwnedReadHalf, end: &[u8]) {
    let mut answer = Vec::new();
    while !answer.ends_with(end) {
        assert!(read.read_buf(&mut answer).await.expect("still open") > 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_hold_on_are_cut_off_and_nobody_waits_for_them() {
    /// Of each kind.
    const CLIENTS: usize = 100;
    let bench = Bench::start().await;
    let address = bench.ingress.address();
    let mut clients = JoinSet::new();
    for holds in [Holds::Silent, Holds::HalfAHead, Holds::HalfABody] {
        for _ in 0..CLIENTS {
            clients.spawn(async move { (holds, holds.on(address).await) });
        }
    }
    for holds in [
        Holds::DribblesHead,
        Holds::DribblesBody,
        Holds::EndlessBody,
        Holds::DribblesNextHead,
        Holds::Deaf,
    ] {
        for number in 0..5 {
            clients.spawn(async move {
                // Not a wait: they come one after the other, so that a machine that stands still
                // for a moment does not delay the end of all of them.
                tokio::time::sleep(Duration::from_secs(number)).await;
                (holds, holds.on(address).await)
            });
        }
    }
    // All the while, good ones are served.
    let mut shortest = BTreeMap::new();
    loop {
        tokio::select! {
            client = clients.join_next() => match client {
                Some(client) => {
                    let (holds, held) = client.expect("cut off");
                    let shortest = shortest.entry(holds).or_insert(held);
                    *shortest = held.min(*shortest);
                }
                None => break,
            },
            // Not a wait: so often do the good ones come.
            () = tokio::time::sleep(Duration::from_millis(300)) => takes_a_good_one(&bench).await,
        }
    }
    // All of them were cut off. How soon, those tell that this machine has not delayed.
    for (holds, held) in shortest {
        assert!(held <= CUT_OFF, "{holds:?}: {held:?}");
    }
    takes_a_good_one(&bench).await;
    assert_eq!(bench.dead().await.len(), 0);
}

/// Large bodies are read a few at a time, so that a crowd of them cannot fill the memory; what is
/// small passes them by, and what is large has its turn when they are cut off.
#[tokio::test]
async fn a_crowd_of_large_bodies_waits_its_turn_and_small_ones_pass() {
    let bench = Bench::start().await;
    let half = vec![b' '; 512 * 1024];
    let mut crowd = Vec::new();
    for _ in 0..100 {
        let mut client = TcpStream::connect(bench.ingress.address())
            .await
            .expect("a listener");
        let head = "POST /webhook HTTP/1.1\r\nhost: x\r\ncontent-length: 1048576\r\n\r\n";
        client.write_all(head.as_bytes()).await.expect("written");
        // Those that have to wait are not read on, and do not get rid of it.
        let sending = client.write_all(&half);
        let _ = tokio::time::timeout(Duration::from_millis(50), sending).await;
        crowd.push(client);
    }
    // Five at once, as each costs a write to the disk and the crowd does not stay for long.
    let takes_good_ones = async || {
        join_all((0..5).map(|_| takes_a_good_one(&bench))).await;
    };
    // More than there are threads that serve: now each has read those of the crowd that it has.
    takes_good_ones().await;
    let large = format!("{MENTION}{}", " ".repeat(256 * 1024));
    let (address, headers) = (bench.ingress.address(), signed(large.as_bytes()));
    let request = request("POST", "/webhook", &headers, large.as_bytes());
    let waiting = tokio::spawn(async move { raw(address, &request).await });
    for _ in 0..4 {
        takes_good_ones().await;
    }
    assert!(
        !waiting.is_finished(),
        "others that came later have been served"
    );
    drop(crowd);
    assert_eq!(waiting.await.expect("an answer"), empty(200));
}

/// Any JSON, not too much of it.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(|number| json!(number)),
        any::<String>().prop_map(Value::from),
        "[0-9]{1,50}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 20, 5, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::btree_map("[a-z_]{0,12}", inner, 0..5)
                .prop_map(|members| members.into_iter().collect::<Value>()),
        ]
    })
}

/// What is done to a webhook.
#[derive(Debug, Clone)]
enum Change {
    Replace(Value),
    Remove,
    Add(String, Value),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        any_json().prop_map(Change::Replace),
        Just(Change::Remove),
        ("[a-z_]{0,12}", any_json()).prop_map(|(name, value)| Change::Add(name, value)),
    ]
}

/// The places in a webhook, as JSON pointers, the whole first.
fn places(value: &Value) -> Vec<String> {
    let mut places = vec![String::new()];
    for (name, member) in value.as_object().into_iter().flatten() {
        let below = places_of(name, member);
        places.extend(below);
    }
    places
}

fn places_of(name: &str, member: &Value) -> Vec<String> {
    let below = places(member);
    below
        .into_iter()
        .map(|place| format!("/{name}{place}"))
        .collect()
}

fn changed(mut webhook: Value, place: &str, change: Change) -> Value {
    match change {
        Change::Replace(value) => *webhook.pointer_mut(place).expect("a place") = value,
        Change::Remove => {
            if let Some((parent, name)) = place.rsplit_once('/') {
                let parent = webhook.pointer_mut(parent).expect("a place");
                parent.as_object_mut().expect("an object").remove(name);
            }
        }
        Change::Add(name, value) => {
            if let Some(members) = webhook.pointer_mut(place).and_then(Value::as_object_mut) {
                members.insert(name, value);
            }
        }
    }
    webhook
}

/// A documented webhook, of each type.
fn documented() -> impl Strategy<Value = Value> {
    let types = vec!["message_created", "message_updated", "mention_to_me"];
    proptest::sample::select(types).prop_map(|event_type| {
        let mut webhook: Value = serde_json::from_str(MENTION).expect("JSON");
        webhook["webhook_event_type"] = json!(event_type);
        if event_type != "mention_to_me" {
            let event = webhook["webhook_event"].as_object_mut().expect("an object");
            event.remove("from_account_id");
            event.remove("to_account_id");
            event.insert("account_id".to_owned(), json!(3));
        }
        webhook
    })
}

fn received(body: Vec<u8>) -> Received {
    let body = Bytes::from(body);
    let verified = Tokens::parse(bench::TOKEN)
        .expect("a token")
        .verify(body.clone(), &signature(&body))
        .expect("signed by us");
    let (now, id) = (Timestamp::UNIX_EPOCH, EventId::fresh());
    receive(&verified, &BotName::default(), now, id)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_webhook_changed_at_any_place_is_sorted_and_what_is_known_keeps_its_ids(
        webhook in documented(),
        at: proptest::sample::Index,
        change in change(),
    ) {
        let place = at.get(&places(&webhook)).clone();
        let webhook = changed(webhook, &place, change);
        let body = webhook.to_string();
        match received(body.clone().into_bytes()) {
            Received::Known(event) => {
                let told = &webhook["webhook_event"];
                prop_assert_eq!(json!(event.event_type), webhook["webhook_event_type"].clone());
                prop_assert_eq!(json!(event.room_id), told["room_id"].clone());
                prop_assert_eq!(json!(event.message_id), told["message_id"].clone());
                prop_assert_eq!(event.body, body);
            }
            Received::Unknown(event) => {
                prop_assert!(webhook["webhook_event_type"].is_string());
                prop_assert_eq!((event.event_type, event.room_id), ("other", None));
                prop_assert_eq!(event.body, body);
            }
            Received::Malformed { event, error } => {
                prop_assert_eq!((event.event_type, event.room_id), ("other", None));
                prop_assert!(error.len() < 100);
                prop_assert_eq!(event.body, body);
            }
        }
    }

    #[test]
    fn any_bytes_are_sorted(bytes: Vec<u8>) {
        let received = received(bytes.clone());
        let (Received::Known(event) | Received::Unknown(event) | Received::Malformed { event, .. }) = received;
        prop_assert_eq!(event.body, bytes);
    }
}

/// A signature that is none: nonsense, or a good one that was tampered with.
fn no_signature() -> impl Strategy<Value = String> {
    let good = signature(MENTION.as_bytes());
    prop_oneof![
        "[ -~]{0,80}",
        "[A-Za-z0-9+/]{43}=",
        "\\PC{0,40}",
        (0..good.len(), "[ -~]").prop_map({
            let good = good.clone();
            move |(at, other)| [&good[..at], &other, &good[at + 1..]].concat()
        }),
        (0..good.len()).prop_map({
            let good = good.clone();
            move |at| good[..at].to_owned()
        }),
        "[ -~]{1,10}".prop_map(move |more| format!("{good}{more}")),
    ]
    .prop_filter("the right one", |text| {
        text.trim().replace(' ', "+") != signature(MENTION.as_bytes())
    })
}

#[test]
fn no_other_signature_is_believed_in_header_or_query() {
    let runtime = tokio::runtime::Runtime::new().expect("threads");
    let bench = runtime.block_on(Bench::start());
    let config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(200)
    };
    proptest!(config, |(header in no_signature(), query in no_signature(), encode: bool)| {
        let query: String = if encode {
            query.bytes().map(|byte| format!("%{byte:02x}")).collect()
        } else {
            // Without what ends a parameter, or the line.
            query.chars().filter(|c| c.is_ascii_graphic() && !"#&%".contains(*c)).collect()
        };
        prop_assume!(query != signature(MENTION.as_bytes()));
        let headers = [
            (format!("x-chatworkwebhooksignature: {header}\r\n"), String::new()),
            (String::new(), format!("?chatwork_webhook_signature={query}")),
            (format!("x-chatworkwebhooksignature: {header}\r\n"), format!("?chatwork_webhook_signature={query}")),
        ];
        for (headers, query) in headers {
            let body = MENTION.as_bytes();
            let request = request("POST", &format!("/webhook{query}"), &headers, body);
            let answer = runtime.block_on(said_to(bench.ingress.address(), &request));
            // Not every text can stand in a header or a query.
            prop_assert!(answer.starts_with("HTTP/1.1 401") || answer.starts_with("HTTP/1.1 400"), "{}", answer);
        }
    });
    runtime.block_on(async {
        assert_eq!(bench.archived().await, []);
        takes_a_good_one(&bench).await;
    });
}
