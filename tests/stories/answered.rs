//! What is answered, and how it looks in the room.

use std::time::Duration;

use chickwork_chatwork::id::MessageId;
use chickwork_sandbox::fault::{Fault, Service};
use chickwork_sandbox::webhook::Kind as HookKind;
use chickwork_sandbox::{Say, small_talk, town};
use chickwork_tests::bot::{Plan, ROOM, SOMEBODY};
use chickwork_tests::stage::Kind;

/// In each of the three languages a mention is answered once, with SimSimi's own words.
pub(super) async fn a_mention_is_answered_in_its_room_with_simsimis_words(
    kind: Kind,
) -> anyhow::Result<()> {
    let mut bot = Plan::on(kind)?.start().await?;
    for (who, text) in [
        (town::AN, "Chào bạn, hôm nay bạn thế nào?"),
        (town::HANA, "こんにちは、元気ですか？"),
        (town::BEN, "Hello, how are you today?"),
    ] {
        let message = bot.mention_in(ROOM, who, text).await?;
        assert_eq!(Some(bot.answer(&message).await?), small_talk(text, "vn"));
        assert!(!bot.posted(Duration::from_secs(10), &message).await?);
    }
    assert_eq!(bot.asked().len(), 3);
    let received = "chickwork_webhooks_total{result=\"stored\"}";
    assert_eq!(bot.front.figure(received).await?, 3.0);
    let posted = "chickwork_jobs_total{step=\"post\",outcome=\"posted\"}";
    bot.worker()
        .until_figure(posted, |figure| figure == 3.0)
        .await?;
    assert_eq!(
        bot.worker().figure("chickwork_reply_seconds_count").await?,
        3.0
    );
    bot.end().await
}

/// The account's webhook, the room's webhook, an edit; a To tag, a reply tag, and the old form of it.
pub(super) async fn every_way_to_address_the_bot_is_answered(kind: Kind) -> anyhow::Result<()> {
    let bot = Plan::on(kind)?.start().await?;
    let earlier = bot.mention("echo first").await?;
    bot.answer(&earlier).await?;
    let me = town::BOT;
    let ways = [
        (HookKind::MentionToMe, format!("[To:{me}] echo to")),
        (
            HookKind::MessageCreated,
            format!("[To:{me}] echo in the room"),
        ),
        (
            HookKind::MessageCreated,
            format!("[rp aid={me} to={ROOM}-{earlier}] Chickwork\necho reply"),
        ),
        (
            HookKind::MentionToMe,
            format!("[返信 aid={me} to={ROOM}-{earlier}]\necho old reply"),
        ),
        (HookKind::MessageUpdated, format!("[To:{me}]\necho edited")),
        // Only the webhook says so.
        (HookKind::MentionToMe, "echo without a tag".to_owned()),
    ];
    for (kind, body) in ways {
        let expected = body.split_once("echo ").map(|(_, words)| words.to_owned());
        let say = Say {
            kind: Some(kind),
            ..Say::new(ROOM, SOMEBODY, body)
        };
        let message = bot.hear(say).await?;
        assert_eq!(Some(bot.answer(&message).await?), expected);
    }
    bot.end().await
}

/// Names, quotes and emoticons do not reach SimSimi, nor does more than a hundred characters.
pub(super) async fn what_was_said_is_asked_without_what_surrounds_it(
    kind: Kind,
) -> anyhow::Result<()> {
    let bot = Plan::on(kind)?.unlimited().start().await?;
    let me = town::BOT;
    let long = "ă".repeat(300);
    let cases = [
        (format!("[To:{me}]Chickwork さん\nXin chào"), "Xin chào"),
        (format!("[To:{me}] Chickworkさん　元気？"), "元気？"),
        (format!("[To:{me}]Chickwork hello there"), "hello there"),
        (
            format!("[To:{me}]Chickwork\n[To:{}]佐藤 花さん\nlunch?", town::HANA),
            "lunch?",
        ),
        (
            format!("[To:{me}]Chickwork\n[qt][qtmeta aid=1 time=1]old words[/qt]what about this?"),
            "what about this?",
        ),
        (
            format!("[To:{me}]Chickwork\ngood morning (roger) :)"),
            "good morning",
        ),
        (
            format!("[To:{me}]Chickwork\n[info][title]news[/title]today[/info]"),
            "news today",
        ),
        (
            format!("[To:{me}]Chickwork\n{long}"),
            &long[.."ă".len() * 100],
        ),
    ];
    for (body, question) in cases {
        let message = bot.hear(Say::new(ROOM, SOMEBODY, body)).await?;
        bot.answer(&message).await?;
        assert_eq!(bot.asked().last().map(String::as_str), Some(question));
    }
    let asked = bot.sandbox.ledger().asked;
    assert!(
        asked
            .iter()
            .all(|asked| asked.length <= 100 && asked.status == Some(200))
    );
    bot.end().await
}

/// SimSimi may say anything; in the room it is only text.
pub(super) async fn an_answer_cannot_call_everybody(kind: Kind) -> anyhow::Result<()> {
    let bot = Plan::on(kind)?.start().await?;
    let answers = [
        (
            "{\"status\":200,\"atext\":\"[toall] wake up [To:1000002]\"}",
            "［toall] wake up ［To:1000002]",
        ),
        (
            "{\"status\":200,\"atext\":\"[/code][info]a\\tb\\u0007[/info]\"}",
            "［/code]［info]a b［/info]",
        ),
    ];
    for (said, posted) in answers {
        bot.sandbox
            .break_down(Fault::nothing(Service::Simsimi).with_body(said));
        let message = bot.mention("say something").await?;
        assert_eq!(bot.answer(&message).await?, posted);
    }
    bot.end().await
}

/// SimSimi's 228, and a mention with nothing in it, get the line of the language; SimSimi is not
/// asked for nothing.
pub(super) async fn who_cannot_be_understood_gets_the_friendly_line(
    kind: Kind,
) -> anyhow::Result<()> {
    let bot = Plan::on(kind)?.with("SIMSIMI_LANG", "ja").start().await?;
    let message = bot.mention("???").await?;
    assert!(bot.answer(&message).await?.contains("ぴよぴよ"));
    let message: MessageId = bot.mention("").await?;
    assert!(bot.answer(&message).await?.contains("ぴよぴよ"));
    assert_eq!(bot.asked(), ["???"]);
    bot.end().await
}
