//! What is not answered, and the reason that an operator finds.

use chickwork_chatwork::id::{AccountId, RoomId};
use chickwork_sandbox::webhook::Kind as HookKind;
use chickwork_sandbox::{Say, town};
use chickwork_tests::bot::{Plan, ROOM, SOMEBODY, mentioning};
use chickwork_tests::stage::Kind;

/// Another bot, which is ignored.
const OTHER_BOT: AccountId = AccountId(77);

/// Each kind of message that is none of the bot's business; SimSimi is never asked.
pub(super) async fn what_is_not_meant_for_the_bot_is_ignored_with_its_reason(
    kind: Kind,
) -> anyhow::Result<()> {
    let bot = Plan::on(kind)?
        .with("CHICKWORK_IGNORE_ACCOUNTS", format!("5,{OTHER_BOT}"))
        .start()
        .await?;
    let me = town::BOT;
    let in_room = |who, body: String| Say::new(ROOM, who, body);
    let mention = |body: String| Say {
        kind: Some(HookKind::MentionToMe),
        ..in_room(SOMEBODY, body)
    };
    let upload = "[info][title][dtext:file_uploaded][/title][download:1]a (1 KB)[/download][/info]";
    let cases = [
        (in_room(me, mentioning("I talk to myself")), "own"),
        (
            in_room(OTHER_BOT, mentioning("hello colleague")),
            "ignored_account",
        ),
        (
            in_room(SOMEBODY, "nobody in particular".to_owned()),
            "not_addressed",
        ),
        (
            in_room(SOMEBODY, "[To:1000003]佐藤 花さん\nhello".to_owned()),
            "not_addressed",
        ),
        (mention("[toall]\neverybody!".to_owned()), "not_addressed"),
        (
            mention(format!(
                "[qt][qtmeta aid=1 time=1][To:{me}] hi[/qt]see above"
            )),
            "not_addressed",
        ),
        (
            mention(format!("[code][To:{me}] hi[/code]")),
            "not_addressed",
        ),
        (in_room(SOMEBODY, upload.to_owned()), "system_text"),
    ];
    for (say, reason) in cases {
        let body = say.body.clone();
        let message = bot.hear(say).await?;
        assert_eq!(bot.ignored(&message).await?, reason, "{body}");
    }
    let ledger = bot.sandbox.ledger();
    assert!(
        ledger.posted.is_empty() && ledger.asked.is_empty(),
        "{ledger:?}"
    );
    bot.end().await
}

/// Two answers a minute for each sender in each room; more is not answered and costs nothing.
pub(super) async fn a_flood_is_answered_up_to_the_limit(kind: Kind) -> anyhow::Result<()> {
    let bot = Plan::on(kind)?
        .with("CHICKWORK_SENDER_LIMIT", "2/1m")
        .start()
        .await?;
    for number in 0..2 {
        let message = bot.mention(&format!("echo {number}")).await?;
        assert_eq!(bot.answer(&message).await?, number.to_string());
    }
    let message = bot.mention("echo 2").await?;
    assert_eq!(bot.ignored(&message).await?, "flood");
    // Nobody else is affected, nor the same person elsewhere.
    let message = bot.mention_in(ROOM, town::BEN, "echo by Ben").await?;
    assert_eq!(bot.answer(&message).await?, "by Ben");
    let message = bot
        .mention_in(RoomId(300_000_001), SOMEBODY, "echo elsewhere")
        .await?;
    assert_eq!(bot.answer(&message).await?, "elsewhere");
    assert_eq!(bot.asked().len(), 4);
    bot.end().await
}

/// An empty `CHICKWORK_FALLBACK` means silence.
pub(super) async fn without_a_fallback_line_the_bot_stays_silent(kind: Kind) -> anyhow::Result<()> {
    let bot = Plan::on(kind)?
        .with("CHICKWORK_FALLBACK", "")
        .start()
        .await?;
    for text in ["???", ""] {
        let message = bot.mention(text).await?;
        assert_eq!(bot.ignored(&message).await?, "nothing_to_say");
    }
    assert!(bot.sandbox.ledger().posted.is_empty());
    bot.end().await
}
