//! What a log at `info` must not tell: tokens, keys, names, and what people said.

use std::time::Duration;

use chickwork_sandbox::fault::{Call, Fault, Service};
use chickwork_sandbox::{DEMO_API_KEY, DEMO_API_TOKEN, DEMO_WEBHOOK_TOKEN, town};
use chickwork_tests::bot::{Plan, ROOM, SOMEBODY, a_hook};
use chickwork_tests::stage::Kind;

/// What people say here, and nobody else.
const WORDS: &str = "chuyện-riêng-tư";

/// Everything that can become of a mention, and no word of it in any log.
pub(super) async fn no_log_tells_secrets_or_what_people_said(kind: Kind) -> anyhow::Result<()> {
    let mut bot = Plan::on(kind)?
        .with("CHICKWORK_SENDER_LIMIT", "4/1m")
        .with(
            "CHICKWORK_LOG_FORMAT",
            if kind == Kind::Sqlite { "json" } else { "text" },
        )
        .with("CHICKWORK_FALLBACK", format!("fallback {WORDS}"))
        .world(|world| world.bot_name = "Gà Bí Mật".to_owned())
        .start()
        .await?;
    let text = format!("echo {WORDS}");
    let repeats_it = |service| Fault::status(service, 500).with_body(format!("cannot say {WORDS}"));
    bot.sandbox.break_down(repeats_it(Service::Simsimi));
    bot.sandbox
        .break_down(repeats_it(Service::Chatwork).on(Call::Post));
    let message = bot.mention(&text).await?;
    bot.posted(Duration::from_secs(60), &message).await?;

    // Refused with words that repeat the message.
    let refusal = serde_json::json!({ "errors": [format!("not this: {WORDS}")] });
    bot.sandbox.break_down(
        Fault::status(Service::Chatwork, 400)
            .with_body(refusal)
            .on(Call::Post),
    );
    let message = bot.mention(&text).await?;
    bot.buried(Duration::from_secs(20), &message).await?;

    let message = bot.mention_in(town::READONLY, SOMEBODY, &text).await?;
    bot.buried(Duration::from_secs(20), &message).await?;

    let message = bot.mention("???").await?;
    bot.answer(&message).await?;
    for _ in 0..3 {
        bot.mention(&text).await?;
    }
    let message = bot.mention(&text).await?;
    assert_eq!(bot.ignored(&message).await?, "flood");

    let mut old = a_hook("1800000000000000001", WORDS);
    old.event_time -= 7200;
    bot.deliver(&old).await?;
    bot.buried(Duration::from_secs(20), &old.message_id).await?;

    // Authentic, and no event; then not authentic.
    let token = chickwork_chatwork::signature::Token::parse(DEMO_WEBHOOK_TOKEN)?;
    for token in [
        token,
        chickwork_chatwork::signature::Token::parse("d3Jvbmc=")?,
    ] {
        let body = format!("not JSON but {WORDS}").into_bytes();
        chickwork_sandbox::webhook::send(&bot.webhook_url(), &token, body).await?;
    }
    let refused = "chickwork_webhooks_total{result=\"refused\"}";
    bot.front
        .until_figure(refused, |figure| figure == 1.0)
        .await?;

    // And the key is refused, with words that repeat it.
    let refusal = format!("{{\"status\":403,\"statusMessage\":\"no such key: {DEMO_API_KEY}\"}}");
    bot.sandbox
        .break_down(Fault::nothing(Service::Simsimi).with_body(refusal));
    let message = bot.mention_in(ROOM, town::HANA, &text).await?;
    crate::simsimi::paused(&mut bot, &message, "ask").await?;
    bot.worker().terminate()?;
    bot.worker().exit_code().await?;

    let mut logs = bot.front.log();
    for worker in &bot.workers {
        logs.push_str(&worker.log());
    }
    assert!(
        logs.contains("dead") && logs.contains("posted"),
        "the logs tell what happened"
    );
    let names = ["Nguyễn Văn An", "Gà Bí Mật"];
    for secret in [
        WORDS,
        DEMO_WEBHOOK_TOKEN,
        DEMO_API_TOKEN,
        DEMO_API_KEY,
        "guest:guest",
    ]
    .iter()
    .chain(&names)
    {
        let told = logs.lines().find(|line| line.contains(secret));
        assert_eq!(told, None, "{secret:?} is in a log");
    }
    bot.end().await
}
