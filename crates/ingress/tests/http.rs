//! The ingress seen from outside, over real sockets, in front of an embedded queue.

mod bench;

use std::time::{Duration, Instant};

use bench::{Bench, LIMIT, LINGER, MENTION, empty, raw, request, signature, signed};
use bytes::Bytes;
use chickwork_queue::Location;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

#[tokio::test]
async fn an_authentic_event_is_stored_and_then_acknowledged_with_nothing() {
    let bench = Bench::start().await;
    let body = MENTION.as_bytes();
    assert_eq!(
        bench.post("/webhook", &signed(body), body).await,
        empty(200)
    );

    let events = bench.archived().await;
    let [event] = events.as_slice() else {
        panic!("{events:?}")
    };
    assert_eq!(event.body, Bytes::from_static(body), "byte for byte");
    assert_eq!(
        (event.bot.as_str(), event.event_type),
        ("bot", "mention_to_me")
    );
    let claimed = tokio::time::timeout(LIMIT, bench.queue.claim_asks(1).next()).await;
    assert!(claimed.is_ok(), "it is in the ask queue");
}

#[tokio::test]
async fn the_path_names_the_bot() {
    let bench = Bench::start().await;
    let body = MENTION.as_bytes();
    assert_eq!(
        bench.post("/webhook/second", &signed(body), body).await,
        empty(200)
    );
    assert_eq!(bench.archived().await[0].bot.as_str(), "second");
    assert_eq!(
        bench
            .post("/webhook/nobody", &signed(body), body)
            .await
            .status,
        404
    );
}

#[tokio::test]
async fn the_signature_may_be_in_the_query() {
    let bench = Bench::start().await;
    let body = MENTION.as_bytes();
    let plain = signature(body);
    let encoded = plain
        .replace('+', "%2b")
        .replace('/', "%2f")
        .replace('=', "%3d");
    for value in [&encoded, &plain] {
        let target = format!("/webhook?chatwork_webhook_signature={value}");
        assert_eq!(bench.post(&target, "", body).await, empty(200));
        assert_eq!(bench.post(&target, &signed(body), body).await, empty(200));
        assert_eq!(
            bench.post(&target, &signed(b"other"), body).await.status,
            401
        );
    }
}

#[tokio::test]
async fn whoever_does_not_know_the_token_is_refused_and_nothing_is_kept() {
    let bench = Bench::start().await;
    let body = MENTION.as_bytes();
    let tampered = MENTION.replace("chào", "chao");
    for (headers, body) in [
        (String::new(), body),
        (signed(b""), body),
        (signed(body), tampered.as_bytes()),
        ("x-chatworkwebhooksignature: AAAAAAAAA\r\n".to_owned(), body),
        ("x-chatworkwebhooksignature:\r\n".to_owned(), body),
    ] {
        let answer = bench.post("/webhook", &headers, body).await;
        assert_eq!(answer.status, 401, "{headers}");
        assert_eq!(answer.body.lines().count(), 1, "one line");
        assert!(answer.body.len() < 80, "a short one");
    }
    assert_eq!(bench.archived().await, []);
}

#[tokio::test]
async fn what_is_authentic_is_never_answered_with_an_error() {
    let bench = Bench::start().await;
    let unknown = br#"{"webhook_setting_id":"1","webhook_event_type":"task_created","webhook_event_time":1,"webhook_event":{}}"#;
    for body in [&b""[..], b"no JSON", b"\xff\xfe", b"{}", unknown] {
        assert_eq!(
            bench.post("/webhook", &signed(body), body).await,
            empty(200)
        );
    }
    assert_eq!(
        bench.dead().await.len(),
        4,
        "all but the unknown type are malformed"
    );
    assert!(
        bench
            .archived()
            .await
            .iter()
            .any(|event| event.body == unknown[..])
    );
}

#[tokio::test]
async fn a_body_of_more_than_a_mebibyte_is_too_large_however_it_comes() {
    let bench = Bench::start().await;
    let largest = vec![b' '; 1024 * 1024];
    assert_eq!(
        bench.post("/webhook", &signed(&largest), &largest).await,
        empty(200),
        "malformed, but taken"
    );

    let larger = vec![b' '; 1024 * 1024 + 1];
    assert_eq!(
        bench
            .post("/webhook", &signed(&larger), &larger)
            .await
            .status,
        413
    );

    let mut chunked =
        format!("POST /webhook HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n{}\r\n", signed(&larger))
            .into_bytes();
    chunked.extend_from_slice(format!("{:x}\r\n", larger.len()).as_bytes());
    chunked.extend_from_slice(&larger);
    chunked.extend_from_slice(b"\r\n0\r\n\r\n");
    assert_eq!(bench.raw(&chunked).await.status, 413);
}

#[tokio::test]
async fn a_body_may_come_in_pieces() {
    let bench = Bench::start().await;
    let body = MENTION.as_bytes();
    let mut chunked =
        format!("POST /webhook HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n{}\r\n", signed(body))
            .into_bytes();
    for piece in body.chunks(7) {
        chunked.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        chunked.extend_from_slice(piece);
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    assert_eq!(bench.raw(&chunked).await, empty(200));
    assert_eq!(bench.archived().await[0].body, body);
}

#[tokio::test]
async fn other_paths_and_methods_are_not_there() {
    let bench = Bench::start().await;
    for (method, target, status) in [
        ("GET", "/webhook", 405),
        ("PUT", "/webhook/bot", 405),
        ("POST", "/healthz", 405),
        ("GET", "/", 404),
        ("POST", "/webhooks", 404),
        ("POST", "/webhook/bot/more", 404),
        ("GET", "/metrics", 404),
    ] {
        let answer = bench.raw(&request(method, target, "", b"")).await;
        assert_eq!(answer.status, status, "{method} {target}");
    }
}

#[tokio::test]
async fn a_connection_serves_many_webhooks() {
    let bench = Bench::start().await;
    let body = MENTION.as_bytes();
    let one = format!(
        "POST /webhook HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n{}\r\n{MENTION}",
        body.len(),
        signed(body)
    );
    let mut stream = TcpStream::connect(bench.ingress.address())
        .await
        .expect("a listener");
    for _ in 0..20 {
        stream.write_all(one.as_bytes()).await.expect("still open");
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            assert!(stream.read_buf(&mut answer).await.expect("still open") > 0);
        }
        assert!(answer.starts_with(b"HTTP/1.1 200"));
    }
    assert_eq!(bench.archived().await.len(), 20);
}

#[tokio::test]
async fn a_stopping_ingress_says_so_before_it_stops_accepting() {
    // Time for two requests on a slow machine.
    let bench = Bench::start_lingering(Duration::from_secs(3)).await;
    let health = request("GET", "/healthz", "", b"");
    let address = bench.ingress.address();
    assert_eq!(bench.raw(&health).await.status, 200);
    assert_eq!(bench.ingress.readiness().check(), Ok(()));

    let readiness = bench.ingress.readiness();
    let stopping = tokio::spawn(bench.ingress.stop(std::future::pending()));
    while readiness.check().is_ok() {
        tokio::task::yield_now().await;
    }
    assert_eq!(raw(address, &health).await.status, 503);
    let body = MENTION.as_bytes();
    assert_eq!(
        raw(address, &request("POST", "/webhook", &signed(body), body)).await,
        empty(200),
        "still taken"
    );

    tokio::time::timeout(LIMIT, stopping)
        .await
        .expect("in time")
        .expect("no panic");
    assert!(
        TcpStream::connect(address).await.is_err(),
        "nobody listens any more"
    );
}

#[tokio::test]
async fn when_nothing_can_store_it_the_answer_says_so_in_time() {
    let nobody_listens = Location::Amqp(vec!["amqp://127.0.0.1:1".to_owned()]);
    let folder = tempfile::tempdir().expect("a folder");
    let bench = Bench::start_before(nobody_listens, folder, LINGER).await;
    let body = MENTION.as_bytes();
    let began = Instant::now();
    let answer = bench.post("/webhook", &signed(body), body).await;
    assert_eq!(answer, empty(503));
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "the ingress's own deadline"
    );
    assert!(
        bench
            .ingress
            .readiness()
            .check()
            .is_err_and(|reason| reason.contains("could not be stored"))
    );
    assert_eq!(
        bench.raw(&request("GET", "/healthz", "", b"")).await.status,
        503
    );
}

/// Somebody who has sent a part of a body, and sends no more.
async fn slow_client(bench: &Bench) -> TcpStream {
    let mut slow = TcpStream::connect(bench.ingress.address())
        .await
        .expect("a listener");
    let head = format!(
        "POST /webhook HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 10\r\n{}\r\n",
        signed(b"1234567890")
    );
    slow.write_all(head.as_bytes()).await.expect("open");
    // So the head has been read. Whoever is only halfway through it is not waited for.
    let mut invited = [0; b"HTTP/1.1 100 Continue\r\n\r\n".len()];
    let reading = tokio::time::timeout(LIMIT, slow.read_exact(&mut invited));
    reading.await.expect("in time").expect("open");
    assert_eq!(&invited, b"HTTP/1.1 100 Continue\r\n\r\n");
    slow.write_all(b"1234").await.expect("open");
    slow
}

#[tokio::test]
async fn a_stop_is_not_held_up_by_a_body_that_does_not_come() {
    let bench = Bench::start().await;
    let mut slow = slow_client(&bench).await;
    let stopping = bench.ingress.stop(std::future::pending());
    tokio::time::timeout(LIMIT, stopping)
        .await
        .expect("nobody is waited for");
    let mut answer = String::new();
    slow.read_to_string(&mut answer).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
}

#[tokio::test]
async fn the_deadline_ends_a_stop_that_would_take_longer() {
    let bench = Bench::start_lingering(LIMIT * 6).await;
    let _slow = slow_client(&bench).await;
    // Not a wait: this is the deadline that is under test.
    let deadline = tokio::time::sleep(Duration::from_millis(500));
    let stopping = bench.ingress.stop(deadline);
    tokio::time::timeout(LIMIT, stopping)
        .await
        .expect("the deadline counts");
}
