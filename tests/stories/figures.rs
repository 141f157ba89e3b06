//! The figures explain what happened: after a known run they are read from every process, and their
//! sums are those of the world's ledger.

use std::time::Duration;

use anyhow::Context as _;
use chickwork_chatwork::id::{AccountId, RoomId};
use chickwork_sandbox::fault::{Call, Fault, Service, When};
use chickwork_sandbox::webhook::Kind as HookKind;
use chickwork_sandbox::{DEMO_WEBHOOK_TOKEN, Say, town};
use chickwork_tests::bot::{Bot, Plan, ROOM, SOMEBODY};
use chickwork_tests::process::http;
use chickwork_tests::stage::Kind;
use jiff::Timestamp;

/// How long a doubtful post may take to be found out about: 15 s, and then some.
const DOUBT: Duration = Duration::from_secs(60);
/// Calls that the sandbox allows; enough for the run.
const ACCOUNT_LIMIT: u32 = 200;

/// Series of one metrics page after another.
struct Figures(Vec<String>);

impl Figures {
    async fn of(bot: &Bot) -> anyhow::Result<Self> {
        let mut pages = Vec::new();
        for process in std::iter::once(&bot.front).chain(&bot.workers) {
            pages.push(process.figures().await?);
        }
        Ok(Self(pages))
    }

    /// The sum over all series of this name that have all these labels.
    fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let series = self.0.iter().flat_map(|page| page.lines());
        series
            .filter_map(|line| {
                let (series, value) = line.rsplit_once(' ')?;
                let rest = series.strip_prefix("chickwork_")?.strip_prefix(name)?;
                let is_it = (rest.is_empty() || rest.starts_with('{'))
                    && labels
                        .iter()
                        .all(|(label, value)| rest.contains(&format!("{label}=\"{value}\"")));
                is_it.then(|| value.parse::<f64>().ok()).flatten()
            })
            .sum()
    }

    /// The same, of something that is counted.
    fn count(&self, name: &str, labels: &[(&str, &str)]) -> usize {
        let sum = self.sum(name, labels);
        assert!(sum >= 0.0 && sum.fract() == 0.0, "{name} is {sum}");
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it was just looked at"
        )]
        let count = sum as usize;
        count
    }

    /// Every label value that the series of this name have.
    fn values(&self, name: &str, label: &str) -> Vec<String> {
        let start = format!("chickwork_{name}{{");
        let mut values: Vec<String> = self
            .0
            .iter()
            .flat_map(|page| page.lines())
            .filter_map(|line| {
                let labels = line.strip_prefix(&start)?;
                let value = labels.split(&format!("{label}=\"")).nth(1)?;
                Some(value.split('"').next()?.to_owned())
            })
            .collect();
        values.sort();
        values.dedup();
        values
    }
}

async fn post_raw(bot: &Bot, body: &'static [u8], signature: &str) -> anyhow::Result<u16> {
    let answer = http()?
        .post(bot.webhook_url())
        .header("x-chatworkwebhooksignature", signature)
        .body(body)
        .send()
        .await?;
    Ok(answer.status().as_u16())
}

/// Mentions that are answered, refused, lost on the way, tried again, ignored; webhooks that are
/// malformed, unknown, forged, too large: everything that came in is found in one sum, everything
/// that went out in another.
pub(super) async fn the_figures_add_up_to_what_happened(kind: Kind) -> anyhow::Result<()> {
    let begun = Timestamp::now().as_second();
    let bot = Plan::on(kind)?
        .world(|world| world.account_limit = (ACCOUNT_LIMIT, Duration::from_secs(300)))
        .with("CHATWORK_ACCOUNT_LIMIT", format!("{ACCOUNT_LIMIT}/5m"))
        .with("CHICKWORK_SENDER_LIMIT", "6/5m")
        .start()
        .await?;

    // Answered at once, after a retry, without words, and after a lost answer.
    let mut answered = Vec::new();
    for number in 1..=3 {
        answered.push(bot.mention(&format!("echo {number}")).await?);
    }
    answered.push(bot.mention("???").await?);
    for message in &answered {
        bot.posted(DOUBT, message).await?;
    }
    bot.sandbox
        .break_down(Fault::status(Service::Simsimi, 500).on(Call::Talk));
    let retried = bot.mention("echo again").await?;
    bot.posted(DOUBT, &retried).await?;
    let lost = Fault::drop(Service::Chatwork, When::After).on(Call::Post);
    bot.sandbox.break_down(lost);
    let doubtful = bot.mention("echo lost").await?;
    assert!(
        bot.posted(DOUBT, &doubtful).await?,
        "it is found by looking"
    );

    // Not answered: one flood, one of the bot's own, one for nobody.
    let flood = bot.mention("echo too much").await?;
    assert_eq!(bot.ignored(&flood).await?, "flood");
    let own = bot.mention_in(ROOM, town::BOT, "me").await?;
    assert_eq!(bot.ignored(&own).await?, "own");
    let nobody = Say::new(ROOM, SOMEBODY, "nobody in particular".to_owned());
    let nobody = bot.hear(nobody).await?;
    assert_eq!(bot.ignored(&nobody).await?, "not_addressed");

    // Given up: refused by Chatwork, and too old when it came.
    let refused = bot
        .mention_in(town::READONLY, SOMEBODY, "let me in")
        .await?;
    bot.buried(DOUBT, &refused).await?;
    let old = chickwork_sandbox::webhook::Hook {
        event_time: begun - 24 * 3600,
        kind: HookKind::MentionToMe,
        author: AccountId(12),
        room_id: RoomId(200_000_900),
        ..chickwork_tests::bot::a_hook("31", "long ago")
    };
    assert_eq!(bot.deliver(&old).await?.status, Some(200));
    bot.buried(DOUBT, &old.message_id).await?;

    // Not events: malformed, of an unknown type, forged (twice), too large.
    let token = chickwork_chatwork::signature::Token::parse(DEMO_WEBHOOK_TOKEN)?;
    let malformed: &[u8] = b"{\"webhook_setting_id\":";
    assert_eq!(
        post_raw(&bot, malformed, &token.sign(malformed)).await?,
        200
    );
    let unknown: &[u8] = br#"{"webhook_setting_id":"1","webhook_event_type":"room_painted","webhook_event_time":1,"webhook_event":{}}"#;
    assert_eq!(post_raw(&bot, unknown, &token.sign(unknown)).await?, 200);
    for _ in 0..2 {
        assert_eq!(post_raw(&bot, b"{}", &token.sign(b"[]")).await?, 401);
    }
    let large: &'static [u8] = vec![b' '; (1 << 20) + 1].leak();
    assert_eq!(post_raw(&bot, large, &token.sign(large)).await?, 413);

    // What becomes of an event is told before its claim has ended, and the figure comes last.
    let (events, posts) = (11, 6);
    let settled = async {
        loop {
            let figures = Figures::of(&bot).await?;
            let asks = figures.count("jobs_total", &[("step", "ask"), ("outcome", "answered")]);
            let posted = figures.count("jobs_total", &[("step", "post"), ("outcome", "posted")]);
            let ignored = figures.count("jobs_total", &[("step", "ask"), ("outcome", "ignored")]);
            let dead = figures.count("jobs_total", &[("outcome", "dead")]);
            if asks == 7 && posted == posts && ignored == 3 && dead == 2 {
                return anyhow::Ok(figures);
            }
            // Figures tell nobody that they have changed.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let figures = chickwork_tests::stage::soon("everything is settled", settled).await;
    let figures = match figures {
        Ok(figures) => figures?,
        Err(late) => {
            let pages = Figures::of(&bot).await?.0.join("\n");
            return Err(late).context(pages);
        }
    };
    let ledger = bot.sandbox.ledger();
    let webhooks = |result| figures.count("webhooks_total", &[("result", result)]);

    // What came in.
    let taken = ledger
        .said
        .iter()
        .filter(|said| said.webhook_status == Some(200));
    assert_eq!(webhooks("stored"), events);
    assert_eq!(webhooks("stored"), taken.count() + 1, "one came by hand");
    assert_eq!((webhooks("malformed"), webhooks("ignored")), (1, 1));
    assert_eq!((webhooks("refused"), webhooks("too_large")), (2, 1));
    assert_eq!(webhooks("unavailable"), 0);
    let stored = match kind {
        Kind::Sqlite => "embedded",
        Kind::Rabbitmq => "broker",
    };
    assert_eq!(
        figures.count("acks_total", &[("stored", stored)]),
        events + 2
    );
    assert_eq!(figures.count("acks_total", &[]), events + 2);
    assert_eq!(figures.count("publish_seconds_count", &[]), events + 2);
    assert_eq!(figures.count("ack_seconds_count", &[]), events + 2 + 2);
    let last = figures.sum("last_webhook_seconds", &[]);
    assert!(last >= begun as f64 && last <= Timestamp::now().as_second() as f64 + 1.0);

    // What went out.
    assert_eq!(ledger.posted.len(), posts);
    assert_eq!(figures.count("reply_seconds_count", &[]), posts);
    let simsimi = figures.count("call_seconds_count", &[("service", "simsimi")]);
    assert_eq!(simsimi, ledger.asked.len());
    let chatwork = figures.count("call_seconds_count", &[("service", "chatwork")]);
    assert_eq!(chatwork, ledger.calls.len());
    for (result, status) in [
        ("ok", Some(200)),
        ("refused", Some(403)),
        ("in_doubt", None),
    ] {
        let labels = [("service", "chatwork"), ("result", result)];
        let answered = ledger.calls.iter().filter(|call| call.status == status);
        assert_eq!(
            figures.count("call_seconds_count", &labels),
            answered.count(),
            "{result}"
        );
    }
    let left = figures.sum("ratelimit_remaining", &[]);
    assert_eq!(left, f64::from(ACCOUNT_LIMIT) - ledger.calls.len() as f64);

    // Every event that was taken has ended, in one of three ways.
    let ignored = figures.count("jobs_total", &[("step", "ask"), ("outcome", "ignored")]);
    let dead = figures.count("jobs_total", &[("outcome", "dead")]);
    assert_eq!(webhooks("stored"), posts + ignored + dead);
    for (cause, expected) in [
        ("refused", 1),
        ("expired", 1),
        ("malformed", 1),
        ("exhausted", 0),
    ] {
        assert_eq!(
            figures.count("dead_total", &[("cause", cause)]),
            expected,
            "{cause}"
        );
    }
    assert_eq!(figures.count("dead_total", &[]), dead + 1);
    let letters = bot.dead_letters().await?;
    assert_eq!(figures.count("dead_total", &[]), letters.len());

    // How it stands.
    for step in ["ask", "post"] {
        assert_eq!(figures.count("paused", &[("step", step)]), 0);
    }
    match kind {
        Kind::Sqlite => {
            let queues = [("ask", 0), ("dead", letters.len()), ("post.bot", 0)];
            assert_eq!(
                figures.values("queue_jobs", "queue"),
                queues.map(|(queue, _)| queue)
            );
            for (queue, jobs) in queues {
                assert_eq!(
                    figures.count("queue_jobs", &[("queue", queue)]),
                    jobs,
                    "{queue}"
                );
                let oldest = figures.sum("queue_oldest_seconds", &[("queue", queue)]);
                assert_eq!(oldest > 0.0, jobs > 0, "{queue}: {oldest}");
            }
        }
        Kind::Rabbitmq => {
            assert_eq!(figures.count("broker_up", &[]), 2, "in both processes");
            assert_eq!(figures.count("broker_blocked", &[]), 0);
        }
    }
    let identities = ["room", "account", "message", "id", "sender"];
    for page in &figures.0 {
        let labelled = |label: &str| {
            page.contains(&format!("{{{label}=")) || page.contains(&format!(",{label}="))
        };
        assert!(
            !identities.into_iter().any(labelled),
            "labels are few: {page}"
        );
    }
    bot.end().await
}
