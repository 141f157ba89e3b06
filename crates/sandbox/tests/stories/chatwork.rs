//! Chatwork's API: who am I, rooms, reading, posting, limits.

use std::time::Duration;

use chickwork_chatwork::id::RoomId;
use chickwork_sandbox::town::{AN, BOT, DIRECT, GROUP, HANA, MY_CHAT, READONLY};
use chickwork_sandbox::{Say, Settings};
use serde_json::json;

use crate::{Scene, answered, demo, json};

#[tokio::test]
async fn without_the_right_token_nothing_is_told() {
    let scene = Scene::new().await;
    let me = scene.client.get(scene.url("/v2/me"));
    for request in [
        me.try_clone().expect("no body"),
        me.header("x-chatworktoken", "wrong"),
    ] {
        let response = answered(request).await;
        assert_eq!(response.status(), 401);
        assert_eq!(
            json(response).await,
            json!({"errors": ["Invalid API token"]})
        );
    }
}

#[tokio::test]
async fn the_bot_learns_who_it_is_and_where_and_with_whom() {
    let scene = Scene::new().await;
    let me = json(scene.get("/me").await).await;
    assert_eq!(me["account_id"], json!(BOT));
    assert_eq!(me["room_id"], json!(MY_CHAT));
    assert_eq!(me["name"], "Chickwork");

    let rooms = json(scene.get("/rooms").await).await;
    let types: Vec<&str> = rooms
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|room| room["type"].as_str())
        .collect();
    assert_eq!(types, ["my", "group", "group", "direct", "group"]);
    let readonly = json(scene.get(&format!("/rooms/{READONLY}")).await).await;
    assert_eq!(readonly["role"], "readonly");
    let members = json(scene.get(&format!("/rooms/{DIRECT}/members")).await).await;
    assert_eq!(members[1]["name"], "Nguyễn Văn An");
    let contacts = json(scene.get("/contacts").await).await;
    assert_eq!(contacts[0]["room_id"], json!(DIRECT));
    assert_eq!(scene.get("/incoming_requests").await.status(), 204);

    assert_eq!(scene.get("/rooms/1").await.status(), 404);
    assert_eq!(scene.get("/nowhere").await.status(), 404);
}

#[tokio::test]
async fn who_asks_to_be_a_contact_has_no_direct_chat_until_that_is_accepted() {
    let scene = Scene::new().await;
    let contacts = async || json(scene.get("/contacts").await).await;
    let asking = |account| {
        let request = scene.client.post(scene.url("/contact-requests"));
        answered(request.json(&json!({ "account_id": account })))
    };
    let first = json(asking(AN).await).await;
    assert_eq!(json(asking(AN).await).await, first, "asking twice is once");
    asking(HANA).await;

    let requests = json(scene.get("/incoming_requests").await).await;
    assert_eq!(requests.as_array().map(Vec::len), Some(2));
    assert_eq!(requests[0]["request_id"], first["request_id"]);
    assert_eq!(requests[0]["account_id"], json!(AN));
    assert_eq!(contacts().await, json!([]));
    assert_eq!(scene.get(&format!("/rooms/{DIRECT}")).await.status(), 404);
    assert_eq!(scene.post(DIRECT, "Hi").await.status(), 404);
    let said = scene.sandbox.say(Say::new(DIRECT, AN, "Hi")).await;
    assert_eq!(said.webhook_status, None);

    let accepted = answered(scene.client.delete(scene.url("/contact-requests"))).await;
    assert_eq!(accepted.status(), 204);
    assert_eq!(scene.get("/incoming_requests").await.status(), 204);
    assert_eq!(scene.post(DIRECT, "Hi").await.status(), 200);
    assert_eq!(contacts().await[1]["account_id"], json!(HANA));
    assert_eq!(
        asking(BOT).await.status(),
        400,
        "nobody is their own contact"
    );
}

#[tokio::test]
async fn the_bots_role_in_a_room_can_be_changed() {
    let scene = Scene::new().await;
    let change = |room: RoomId, role: &str| {
        let request = scene.client.post(scene.url("/rooms"));
        answered(request.json(&json!({ "room_id": room, "role": role })))
    };
    for (role, status) in [("readonly", 403), ("member", 200), ("admin", 200)] {
        assert_eq!(change(GROUP, role).await.status(), 204);
        let room = json(scene.get(&format!("/rooms/{GROUP}")).await).await;
        assert_eq!(room["role"], role);
        assert_eq!(scene.post(GROUP, "Hi").await.status(), status);
    }
    assert_eq!(change(GROUP, "audience").await.status(), 400);
    assert_eq!(change(RoomId(7), "readonly").await.status(), 204);
    assert_eq!(scene.post(RoomId(7), "Hi").await.status(), 403);
}

#[tokio::test]
async fn nothing_new_is_204_without_a_body() {
    let scene = Scene::new().await;
    let path = format!("/rooms/{GROUP}/messages");
    for path in [path.clone(), format!("{path}?force=1")] {
        let response = scene.get(&path).await;
        assert_eq!(response.status(), 204);
        assert_eq!(response.text().await.expect("a body"), "");
    }
}

#[tokio::test]
async fn reading_gives_the_newest_hundred_or_what_is_new() {
    let scene = Scene::new().await;
    for n in 1..=120 {
        scene.sandbox.say(Say::new(GROUP, AN, format!("{n}"))).await;
    }
    let path = format!("/rooms/{GROUP}/messages");
    let newest = format!("{path}?force=1");

    let first = json(scene.get(&path).await).await;
    assert_eq!(first.as_array().map(Vec::len), Some(100));
    assert_eq!(first[0]["body"], "21");
    assert_eq!(first[99]["body"], "120");
    assert_eq!(first[0]["account"]["account_id"], json!(AN));
    assert_eq!(scene.get(&path).await.status(), 204);
    assert_eq!(json(scene.get(&newest).await).await, first);

    scene.sandbox.say(Say::new(GROUP, AN, "121")).await;
    let new = json(scene.get(&path).await).await;
    assert_eq!(new.as_array().map(Vec::len), Some(1));
    let id = new[0]["message_id"].as_str().expect("a text");
    assert_eq!(json(scene.get(&format!("{path}/{id}")).await).await, new[0]);
    assert_eq!(scene.get(&format!("{path}/1")).await.status(), 404);
}

#[tokio::test]
async fn a_post_is_in_the_room_and_in_the_ledger_and_told_to_listeners() {
    let scene = Scene::new().await;
    let mut posts = scene.sandbox.posts();
    let text = format!("[rp aid={AN} to={GROUP}-77]\nxin chào & 100% + 😀");

    let response = scene.post(GROUP, &text).await;

    assert_eq!(response.status(), 200);
    let message_id = json(response).await["message_id"].clone();
    assert_eq!(message_id.as_str().map(str::len), Some(19));
    let told = posts.recv().await.expect("a post");
    assert_eq!(json!(told.message_id), message_id);
    assert_eq!(told.body, text);
    let ledger = scene.sandbox.ledger();
    assert_eq!(
        ledger.posted[0].answers.as_ref().map(|id| id.as_str()),
        Some("77")
    );
    assert_eq!(
        ledger
            .answers_to(ledger.posted[0].answers.as_ref().expect("one"))
            .len(),
        1
    );
    let read = json(scene.get(&format!("/rooms/{GROUP}/messages?force=1")).await).await;
    assert_eq!(read[0]["body"], json!(text));
    assert_eq!(read[0]["account"]["account_id"], json!(BOT));
}

#[tokio::test]
async fn arguments_count_in_a_form_only() {
    let scene = Scene::new().await;
    let url = scene.url(&format!("/v2/rooms/{GROUP}/messages"));
    let posting = |url: String| {
        let request = scene.client.post(url);
        request.header("x-chatworktoken", chickwork_sandbox::DEMO_API_TOKEN)
    };
    for request in [
        posting(format!("{url}?body=Hi")),
        posting(url.clone()).json(&json!({"body": "Hi"})),
        posting(url.clone()).form(&[("text", "Hi")]),
        posting(url.clone()).form(&[("body", "")]),
    ] {
        let response = answered(request).await;
        assert_eq!(response.status(), 400);
        let required = json!({"errors": ["Parameter 'body' is required"]});
        assert_eq!(json(response).await, required);
    }
    assert_eq!(scene.sandbox.ledger().totals.posted, 0);
}

#[tokio::test]
async fn what_may_not_be_posted_is_refused() {
    let scene = Scene::new().await;
    assert_eq!(scene.post(GROUP, &"ち".repeat(65_535)).await.status(), 200);
    assert_eq!(scene.post(GROUP, &"a".repeat(65_536)).await.status(), 400);
    assert_eq!(scene.post(RoomId(1), "Hi").await.status(), 404);
    let response = scene.post(READONLY, "Hi").await;
    assert_eq!(response.status(), 403);
    let words = "You don't have permission to send/edit message.";
    assert_eq!(json(response).await, json!({"errors": [words]}));
}

#[tokio::test]
async fn a_room_takes_so_many_posts_in_its_time_and_other_rooms_go_on() {
    let scene = Scene::with(Settings {
        room_limit: (2, Duration::from_secs(3600)),
        ..demo()
    })
    .await;
    for _ in 0..2 {
        assert_eq!(scene.post(GROUP, "Hi").await.status(), 200);
    }
    let response = scene.post(GROUP, "Hi").await;
    assert_eq!(response.status(), 429);
    assert_eq!(response.headers()["x-ratelimit-remaining"], "297");
    let words = "Rate limit for message posting per room exceeded.";
    assert_eq!(json(response).await, json!({"errors": [words]}));
    assert_eq!(scene.post(DIRECT, "Hi").await.status(), 200);
}

#[tokio::test]
async fn an_account_has_so_many_calls_and_every_answer_tells_how_many_are_left() {
    let scene = Scene::with(Settings {
        account_limit: (2, Duration::from_secs(3600)),
        ..demo()
    })
    .await;
    let first = scene.get("/me").await;
    assert_eq!(first.headers()["x-ratelimit-limit"], "2");
    assert_eq!(first.headers()["x-ratelimit-remaining"], "1");
    assert!(first.headers().contains_key("date"));
    assert_eq!(
        scene.get("/nowhere").await.headers()["x-ratelimit-remaining"],
        "0"
    );
    let refused = scene.get("/me").await;
    assert_eq!(refused.status(), 429);
    assert_eq!(refused.headers()["x-ratelimit-remaining"], "0");
    let reset = refused.headers()["x-ratelimit-reset"]
        .to_str()
        .expect("text");
    let reset: i64 = reset.parse().expect("a number");
    let later = reset - jiff::Timestamp::now().as_second();
    assert!((3_500..=3_601).contains(&later), "{later}");
}

#[tokio::test]
async fn the_window_opens_again() {
    let scene = Scene::with(Settings {
        account_limit: (1, Duration::from_millis(50)),
        ..demo()
    })
    .await;
    assert_eq!(scene.get("/me").await.status(), 200);
    let open = async { while scene.get("/me").await.status() != 200 {} };
    tokio::time::timeout(crate::SOON, open)
        .await
        .expect("in time");
}
