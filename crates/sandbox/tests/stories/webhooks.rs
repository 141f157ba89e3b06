//! Webhooks, and the controls that scripts use.

use bytes::Bytes;
use chickwork_chatwork::signature::Tokens;
use chickwork_sandbox::town::{AN, BOT, GROUP};
use chickwork_sandbox::webhook::Kind;
use chickwork_sandbox::{DEMO_WEBHOOK_TOKEN, Say};
use serde_json::{Value, json};

use crate::receiver::{self, Arrived, header};
use crate::{Scene, answered, json};

fn event(arrived: &Arrived) -> Value {
    serde_json::from_slice(&arrived.body).expect("JSON")
}

#[tokio::test]
async fn whoever_asks_for_its_health_is_told_that_it_is_ready() {
    let scene = Scene::new().await;
    // As `chickwork healthcheck` asks a process of the bot.
    let answer = answered(scene.client.get(scene.url("/readyz"))).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.text().await.expect("a word"), "ready");
}

#[tokio::test]
async fn a_mention_arrives_signed_once_as_chatwork_sends_it() {
    let scene = Scene::new().await;
    let (url, mut webhooks) = receiver::listen(200).await;
    scene.sandbox.set_webhook_url(&url);

    let said = scene
        .sandbox
        .say(Say::new(GROUP, AN, format!("[To:{BOT}] xin chào 😀")))
        .await;

    assert_eq!(said.webhook_status, Some(200));
    assert_eq!(said.kind, Kind::MentionToMe);
    let arrived = webhooks.recv().await.expect("a webhook");
    let head = &arrived.head;
    assert_eq!(header(head, "user-agent"), Some("ChatWork-Webhook/1.0.0"));
    assert_eq!(header(head, "content-type"), Some("application/json"));
    let signature = header(head, "x-chatworkwebhooksignature").expect("a signature");
    let tokens = Tokens::parse(DEMO_WEBHOOK_TOKEN).expect("tokens");
    tokens
        .verify(Bytes::from(arrived.body.clone()), signature)
        .expect("a good signature");
    let encoded = signature
        .replace('+', "%2b")
        .replace('/', "%2f")
        .replace('=', "%3d");
    let line = format!("POST /webhook?chatwork_webhook_signature={encoded} HTTP/1.1");
    assert_eq!(head.lines().next(), Some(line.as_str()));
    let event = event(&arrived);
    assert_eq!(event["webhook_event_type"], "mention_to_me");
    assert_eq!(event["webhook_event"]["from_account_id"], json!(AN));
    assert_eq!(event["webhook_event"]["to_account_id"], json!(BOT));
    assert_eq!(event["webhook_event"]["message_id"], json!(said.message_id));
}

#[tokio::test]
async fn a_webhook_that_fails_is_noted_and_never_sent_again() {
    let scene = Scene::new().await;
    let (url, mut webhooks) = receiver::listen(503).await;
    scene.sandbox.set_webhook_url(&url);
    assert_eq!(
        scene
            .sandbox
            .say(Say::new(GROUP, AN, "one"))
            .await
            .webhook_status,
        Some(503)
    );

    scene.sandbox.set_webhook_url("http://127.0.0.1:1/webhook");
    let said = scene.sandbox.say(Say::new(GROUP, AN, "two")).await;
    assert_eq!(said.webhook_status, None);
    assert!(
        said.webhook_error
            .is_some_and(|error| !error.contains("signature"))
    );

    scene.sandbox.set_webhook_url(&url);
    scene.sandbox.say(Say::new(GROUP, AN, "three")).await;
    for expected in ["one", "three"] {
        let arrived = webhooks.recv().await.expect("a webhook");
        assert_eq!(event(&arrived)["webhook_event"]["body"], expected);
    }
    assert!(webhooks.try_recv().is_err());
    assert_eq!(scene.sandbox.ledger().said.len(), 3);
}

#[tokio::test]
async fn a_message_can_be_edited_and_told_again() {
    let scene = Scene::new().await;
    let (url, mut webhooks) = receiver::listen(200).await;
    scene.sandbox.set_webhook_url(&url);
    let first = scene.sandbox.say(Say::new(GROUP, AN, "Hi")).await;
    let again = Say {
        message_id: Some(first.message_id.clone()),
        ..Say::new(GROUP, AN, "Hi")
    };
    scene.sandbox.say(again.clone()).await;
    let edit = Say {
        kind: Some(Kind::MessageUpdated),
        body: "Ho".to_owned(),
        ..again
    };
    scene.sandbox.say(edit).await;

    let mut events = Vec::new();
    for _ in 0..3 {
        events.push(event(&webhooks.recv().await.expect("a webhook")));
    }
    for event in &events {
        assert_eq!(
            event["webhook_event"]["message_id"],
            json!(first.message_id)
        );
        assert_eq!(event["webhook_event"]["account_id"], json!(AN));
    }
    assert_eq!(events[0]["webhook_event_type"], "message_created");
    assert_eq!(events[1]["webhook_event"]["update_time"], 0);
    assert_eq!(events[2]["webhook_event_type"], "message_updated");
    assert_ne!(events[2]["webhook_event"]["update_time"], 0);
    let read = json(scene.get(&format!("/rooms/{GROUP}/messages?force=1")).await).await;
    assert_eq!(read.as_array().map(Vec::len), Some(1));
    assert_eq!(read[0]["body"], "Ho");
}

#[tokio::test]
async fn a_script_says_reads_the_ledger_and_clears_it() {
    let scene = Scene::new().await;
    let (url, _webhooks) = receiver::listen(200).await;
    scene.sandbox.set_webhook_url(&url);
    let say = scene.client.post(scene.url("/say"));
    let words = format!(r#"{{"room_id":{GROUP},"account_id":{AN},"body":"Hi"}}"#);
    let said = json(answered(say.body(words)).await).await;
    assert_eq!(said["webhook_status"], 200);
    assert!(said["webhook_millis"].is_number());
    assert_eq!(said["message_id"].as_str().map(str::len), Some(19));
    scene.post(GROUP, "Ho").await;

    let ledger = async |query: &str| {
        let url = scene.url(&format!("/ledger{query}"));
        json(answered(scene.client.get(url)).await).await
    };
    let all = ledger("").await;
    assert_eq!(all["said"][0], said);
    assert_eq!(all["posted"][0]["body"], "Ho");
    assert_eq!(all["calls"][0]["call"], "post");
    assert_eq!(all["totals"]["last"], 3);
    let newer = ledger("?since=2").await;
    assert_eq!(newer["said"], json!([]));
    assert_eq!(newer["calls"], all["calls"]);

    answered(scene.client.delete(scene.url("/ledger"))).await;
    assert_eq!(ledger("").await["totals"]["said"], 0);
    let wrong = answered(scene.client.post(scene.url("/say")).body("{}")).await;
    assert_eq!(wrong.status(), 400);
    assert!(json(wrong).await["error"].is_string());
}
