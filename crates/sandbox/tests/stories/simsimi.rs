//! SimSimi's API: one question, one answer, with the status in the body.

use chickwork_sandbox::{DEMO_API_KEY, small_talk};
use serde_json::{Value, json};

use crate::{Scene, answered, json};

async fn asked(scene: &Scene, key: &str, body: &Value) -> Value {
    let url = format!("{}/talk", scene.sandbox.simsimi_url());
    let request = scene.client.post(url).header("x-api-key", key).json(body);
    let response = answered(request).await;
    assert_eq!(response.status(), 200);
    json(response).await
}

#[tokio::test]
async fn it_answers_as_foreseen_and_remembers_what_was_asked() {
    let scene = Scene::new().await;
    let question = json!({"utext": "xin chào", "lang": "vn"});

    let answer = asked(&scene, DEMO_API_KEY, &question).await;

    assert_eq!(answer["status"], 200);
    assert_eq!(answer["atext"], json!(small_talk("xin chào", "vn")));
    assert_eq!(answer["request"], question);
    let ledger = scene.sandbox.ledger();
    assert_eq!(ledger.asked[0].utext.as_deref(), Some("xin chào"));
    assert_eq!(ledger.asked[0].lang.as_deref(), Some("vn"));
    assert_eq!(ledger.asked[0].status, Some(200));
}

#[tokio::test]
async fn a_text_that_is_too_long_is_answered_but_shows() {
    let scene = Scene::new().await;
    let question = json!({"utext": "あ".repeat(101), "lang": "ja"});
    assert_eq!(asked(&scene, DEMO_API_KEY, &question).await["status"], 200);
    assert_eq!(scene.sandbox.ledger().asked[0].length, 101);
}

#[tokio::test]
async fn every_other_status_is_in_the_body_without_an_answer() {
    let scene = Scene::new().await;
    for (key, question, status) in [
        ("wrong", json!({"utext": "a", "lang": "vn"}), 403),
        (DEMO_API_KEY, json!({"utext": "a"}), 227),
        (DEMO_API_KEY, json!({"lang": "vn"}), 227),
        (DEMO_API_KEY, json!([]), 227),
        (DEMO_API_KEY, json!({"utext": "???", "lang": "vn"}), 228),
    ] {
        let answer = asked(&scene, key, &question).await;
        assert_eq!(answer["status"], status);
        assert_eq!(answer.get("atext"), None);
    }
    assert_eq!(scene.sandbox.ledger().totals.asked, 5);
}
