//! The ingress as Chatwork, its load balancer and everybody else on the internet see it.

use std::time::{Duration, Instant};

use anyhow::Context;
use chickwork_chatwork::signature::Token;
use chickwork_queue::job::{Cause, Step};
use chickwork_queue::outcome::What;
use chickwork_sandbox::DEMO_WEBHOOK_TOKEN;
use chickwork_tests::bot::{Bot, Plan, a_hook};
use chickwork_tests::process::{chickwork, http};
use chickwork_tests::said::run;
use chickwork_tests::stage::{Kind, soon};
use jiff::Timestamp;
use reqwest::{Method, RequestBuilder};

const HEADER: &str = "x-chatworkwebhooksignature";
const PARAMETER: &str = "chatwork_webhook_signature";
/// The largest body that is taken.
const LARGEST: usize = 1024 * 1024;

fn sign(body: &[u8]) -> anyhow::Result<String> {
    Ok(Token::parse(DEMO_WEBHOOK_TOKEN)?.sign(body))
}

/// A request to the webhook's address, with more of the path behind it.
fn request(bot: &Bot, method: Method, path: &str, body: &[u8]) -> anyhow::Result<RequestBuilder> {
    Ok(http()?
        .request(method, format!("{}{path}", bot.webhook_url()))
        .body(body.to_vec()))
}

/// Sends it; status and body of the answer.
async fn answer(request: RequestBuilder) -> anyhow::Result<(u16, String)> {
    let answer = request.send().await?;
    Ok((answer.status().as_u16(), answer.text().await?))
}

/// The signature in the header, in the query, in both, as `+` and as space; the bot in the path.
pub(super) async fn an_authentic_webhook_is_taken_however_it_is_signed(
    kind: Kind,
) -> anyhow::Result<()> {
    let bot = Plan::on(kind)?.start().await?;
    let mut message = 0;
    // A signature with a `+` in it, as there that makes a difference.
    let (body, signature) = loop {
        message += 1;
        let body = a_hook(&message.to_string(), "echo plus").json();
        let signature = sign(&body)?;
        if signature.contains('+') {
            break (body, signature);
        }
    };
    let encoded = signature
        .replace('+', "%2b")
        .replace('/', "%2f")
        .replace('=', "%3d");
    let with_space = signature.replace('+', "%20");
    let post = |path: String| request(&bot, Method::POST, &path, &body);
    let ways = [
        post(String::new())?.header(HEADER, &signature),
        post("/bot".to_owned())?.header(HEADER, &signature),
        post(format!("?{PARAMETER}={encoded}"))?,
        post(format!("?{PARAMETER}={signature}"))?,
        post(format!("?{PARAMETER}={with_space}"))?,
        post(format!("?other=1&{PARAMETER}={encoded}"))?.header(HEADER, &signature),
    ];
    let count = ways.len();
    for way in ways {
        assert_eq!(answer(way).await?, (200, String::new()));
    }
    let message = a_hook(&message.to_string(), "").message_id;
    assert_eq!(bot.answer(&message).await?, "plus");
    let stored = match kind {
        Kind::Sqlite => "embedded",
        Kind::Rabbitmq => "broker",
    };
    for series in [
        "chickwork_webhooks_total{result=\"stored\"}".to_owned(),
        format!("chickwork_acks_total{{stored=\"{stored}\"}}"),
    ] {
        assert_eq!(bot.front.figure(&series).await?, count as f64, "{series}");
    }
    bot.end().await
}

/// Without a right signature nothing is stored, whoever asks and whatever for.
pub(super) async fn what_is_not_authentic_is_refused_and_not_stored(
    kind: Kind,
) -> anyhow::Result<()> {
    let bot = Plan::on(kind)?.start().await?;
    let body = a_hook("1", "let me in").json();
    let right = sign(&body)?;
    let wrong = sign(b"something else")?;
    let post = |path: &str| request(&bot, Method::POST, path, &body);
    let refused = [
        post("")?,
        post("")?.header(HEADER, &wrong),
        post("")?.header(HEADER, "not base64"),
        post("")?.header(HEADER, ""),
        post(&format!("?{PARAMETER}={}", wrong.replace('+', "%2b")))?,
        // Both, and they differ.
        post(&format!("?{PARAMETER}={}", wrong.replace('+', "%2b")))?.header(HEADER, &right),
        request(&bot, Method::POST, "", b"")?.header(HEADER, &right),
        request(&bot, Method::POST, "", &[&body[..], b" "].concat())?.header(HEADER, &right),
    ];
    let count = refused.len();
    for request in refused {
        let (status, said) = answer(request).await?;
        assert_eq!(status, 401);
        assert!(said.lines().count() <= 1 && said.len() < 100, "{said}");
    }
    let too_large = vec![b' '; LARGEST + 1];
    let elsewhere = [
        (
            request(&bot, Method::POST, "", &too_large)?.header(HEADER, sign(&too_large)?),
            413,
        ),
        (post("/nobody")?.header(HEADER, &right), 404),
        (post("/bot/more")?.header(HEADER, &right), 404),
        (post("s")?.header(HEADER, &right), 404),
        (request(&bot, Method::GET, "", b"")?, 405),
        (
            request(&bot, Method::PUT, "/bot", &body)?.header(HEADER, &right),
            405,
        ),
    ];
    for (request, status) in elsewhere {
        assert_eq!(answer(request).await?.0, status);
    }
    for (result, expected) in [
        ("refused", count as f64),
        ("too_large", 1.0),
        ("stored", 0.0),
    ] {
        let series = format!("chickwork_webhooks_total{{result=\"{result}\"}}");
        assert_eq!(bot.front.figure(&series).await?, expected, "{result}");
    }
    assert!(bot.outcomes().await?.is_empty());
    let mut archived = bot.queue().await?.archive().read(Timestamp::UNIX_EPOCH);
    assert_eq!(archived.next().await?, None);
    assert!(!bot.front.log().contains("let me in"));
    bot.end().await
}

/// Chatwork switches a webhook off that is answered with errors: what is authentic is kept, even if
/// nobody understands it.
pub(super) async fn what_is_authentic_and_not_understood_is_kept(kind: Kind) -> anyhow::Result<()> {
    let bot = Plan::on(kind)?.start().await?;
    let malformed: [&[u8]; 4] = [
        b"",
        b"\xff\xfe no JSON",
        b"[]",
        br#"{"webhook_setting_id":"1","webhook_event_type":"mention_to_me","webhook_event_time":1,"webhook_event":{}}"#,
    ];
    for body in malformed {
        let post = request(&bot, Method::POST, "", body)?.header(HEADER, sign(body)?);
        assert_eq!(answer(post).await?, (200, String::new()));
    }
    let unknown = br#"{"webhook_setting_id":"1","webhook_event_type":"room_painted","webhook_event_time":1,"webhook_event":{"colour":"yellow"}}"#;
    let post = request(&bot, Method::POST, "", unknown)?.header(HEADER, sign(unknown)?);
    assert_eq!(answer(post).await?, (200, String::new()));

    let queue = bot.queue().await?;
    let letters = bot.dead_letters().await?;
    assert_eq!(letters.len(), malformed.len());
    for letter in letters {
        assert_eq!(
            (letter.cause, letter.step),
            (Cause::Malformed, Step::Receive)
        );
        assert!(!letter.error.is_empty());
    }
    let mut follow = queue.outcomes().follow(Timestamp::UNIX_EPOCH);
    let reason = soon("the unknown type is ignored", async {
        loop {
            if let chickwork_queue::Entry::Outcome(outcome) = follow.next().await
                && let What::Ignored { reason } = outcome.what
            {
                return reason;
            }
        }
    });
    assert_eq!(reason.await?, "unknown_type");
    // Byte for byte, in the archive.
    let mut archived = Vec::new();
    let mut read = queue.archive().read(Timestamp::UNIX_EPOCH);
    while let Some(event) = read.next().await? {
        archived.push(event.body);
    }
    assert!(
        archived.iter().any(|body| body[..] == unknown[..]),
        "{archived:?}"
    );
    for (result, expected) in [("malformed", malformed.len() as f64), ("ignored", 1.0)] {
        let series = format!("chickwork_webhooks_total{{result=\"{result}\"}}");
        assert_eq!(bot.front.figure(&series).await?, expected, "{result}");
    }
    bot.end().await
}

/// Several tokens are right at the same time; a file may hold them.
pub(super) async fn old_and_new_token_both_work_while_rotating(kind: Kind) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("tokens");
    let new = "bmV3IHRva2VuIG9mIHRoZSBzYW1lIGxlbmd0aCBhcyBhbnk=";
    std::fs::write(&file, format!("{new},{DEMO_WEBHOOK_TOKEN}\n"))?;
    let plan = Plan::on(kind)?.with("CHATWORK_WEBHOOK_TOKEN", "");
    let plan = plan.with("CHATWORK_WEBHOOK_TOKEN_FILE", file.display().to_string());
    let bot = plan.start().await?;
    let body = a_hook("1", "hello").json();
    for signature in [sign(&body)?, Token::parse(new)?.sign(&body)] {
        let post = request(&bot, Method::POST, "", &body)?.header(HEADER, signature);
        assert_eq!(answer(post).await?.0, 200);
    }
    bot.end().await
}

/// Somebody who sends his request slowly, or not at all, keeps nobody else from being served.
pub(super) async fn slow_clients_keep_nobody_waiting(kind: Kind) -> anyhow::Result<()> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let bot = Plan::on(kind)?.start().await?;
    let address = bot.webhook_url();
    let address = address
        .trim_start_matches("http://")
        .trim_end_matches("/webhook");
    let mut slow = Vec::new();
    for _ in 0..300 {
        let mut client = tokio::net::TcpStream::connect(address).await?;
        client
            .write_all(b"POST /webhook HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
            .await?;
        slow.push(client);
    }
    let message = bot.mention("echo me first").await?;
    assert_eq!(bot.answer(&message).await?, "me first");
    // They are cut off within half a minute.
    let begun = Instant::now();
    for mut client in slow {
        let mut answer = Vec::new();
        let cut_off = client.read_to_end(&mut answer);
        let left = Duration::from_secs(30).saturating_sub(begun.elapsed());
        // However it is cut off, it is.
        let _ = tokio::time::timeout(left, cut_off)
            .await
            .context("not cut off within 30 s")?;
    }
    bot.end().await
}

/// Who can read this repository can sign for the sandbox: that is told once at the start, and by the
/// doctor, and nobody is kept from trying the bot.
pub(super) async fn a_token_that_everybody_knows_is_warned_of() -> anyhow::Result<()> {
    let warning = "CHATWORK_WEBHOOK_TOKEN is the sandbox's, which everybody knows";
    let bot = Plan::on(Kind::Sqlite)?.workers(1).start().await?;
    let warned = bot.front.log().matches(warning).count();
    assert_eq!(warned, 1, "{}", bot.front.log());
    let mut doctor = chickwork("doctor")?;
    doctor
        .envs(bot.front.environment())
        .args(["--role", "ingress"]);
    let said = run(doctor).await?;
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.out.contains(warning), "{said:?}");
    bot.end().await?;

    let own = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let bot = Plan::on(Kind::Sqlite)?
        .workers(1)
        .with("CHATWORK_WEBHOOK_TOKEN", own)
        .start()
        .await?;
    assert!(!bot.front.log().contains(warning), "{}", bot.front.log());
    bot.end().await
}
