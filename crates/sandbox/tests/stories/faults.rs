//! Misbehaviour on command.

use std::time::{Duration, Instant};

use chickwork_sandbox::DEMO_API_KEY;
use chickwork_sandbox::fault::{Call, Fault, Service, When};
use chickwork_sandbox::town::{DIRECT, GROUP};
use serde_json::json;

use crate::{SOON, Scene, answered, json};

#[tokio::test]
async fn a_status_happens_so_often_and_without_effect() {
    let scene = Scene::new().await;
    let fault = json!({"service": "chatwork", "call": "post", "status": 500, "next": 2});
    assert_eq!(scene.break_down(fault).await.status(), 204);
    assert_eq!(scene.get("/me").await.status(), 200);
    for _ in 0..2 {
        let response = scene.post(GROUP, "Hi").await;
        assert_eq!(response.status(), 500);
        assert_eq!(response.headers()["x-ratelimit-remaining"], "299");
        assert_eq!(
            json(response).await,
            json!({"errors": ["Internal Server Error"]})
        );
    }
    assert_eq!(scene.sandbox.ledger().totals.posted, 0);
    assert_eq!(scene.post(GROUP, "Hi").await.status(), 200);
    let statuses: Vec<_> = scene
        .sandbox
        .ledger()
        .calls
        .iter()
        .map(|c| c.status)
        .collect();
    assert_eq!(statuses, [Some(200), Some(500), Some(500), Some(200)]);
}

#[tokio::test]
async fn body_and_headers_are_as_ordered_and_only_in_the_room() {
    let scene = Scene::new().await;
    scene.sandbox.break_down(
        Fault::status(Service::Chatwork, 429)
            .in_room(GROUP)
            .with_body("<html>")
            .with_header("x-ratelimit-remaining", 7),
    );
    assert_eq!(scene.post(DIRECT, "Hi").await.status(), 200);
    let response = scene.post(GROUP, "Hi").await;
    assert_eq!(response.status(), 429);
    assert_eq!(response.headers()["x-ratelimit-remaining"], "7");
    assert_eq!(response.text().await.expect("text"), "<html>");
}

#[tokio::test]
async fn a_bare_429_of_chatwork_is_about_the_account() {
    let scene = Scene::new().await;
    scene
        .sandbox
        .break_down(Fault::status(Service::Chatwork, 429));
    let response = scene.post(GROUP, "Hi").await;
    assert_eq!(response.headers()["x-ratelimit-remaining"], "0");
}

#[tokio::test]
async fn a_gateway_before_simsimi_has_no_status_in_its_body() {
    let scene = Scene::new().await;
    scene
        .sandbox
        .break_down(Fault::status(Service::Simsimi, 403));
    let url = format!("{}/talk", scene.sandbox.simsimi_url());
    let ask = || {
        let request = scene
            .client
            .post(url.clone())
            .header("x-api-key", DEMO_API_KEY);
        answered(request.json(&json!({"utext": "echo Hi", "lang": "vn"})))
    };
    let response = ask().await;
    assert_eq!(response.status(), 403);
    assert_eq!(json(response).await, json!({"message": "Forbidden"}));
    assert_eq!(json(ask().await).await["atext"], "Hi");
}

#[tokio::test]
async fn a_cut_connection_is_lost_for_the_client_with_or_without_effect() {
    let scene = Scene::new().await;
    for (when, effects) in [(When::Before, 0), (When::After, 1)] {
        let fault = Fault::drop(Service::Chatwork, when).on(Call::Post);
        scene.sandbox.break_down(fault);
        let error = scene
            .posting(GROUP, "Hi")
            .send()
            .await
            .expect_err("no answer");
        assert!(
            error.is_request() && !error.is_connect() && !error.is_timeout(),
            "{error:?}"
        );
        let noted = scene
            .sandbox
            .until(SOON, |ledger| {
                ledger.calls.iter().any(|call| call.status.is_none())
            })
            .await;
        assert!(noted);
        assert_eq!(scene.sandbox.ledger().totals.posted, effects);
        scene.sandbox.clear_ledger();
    }
    assert_eq!(scene.post(GROUP, "Hi").await.status(), 200);
}

#[tokio::test]
async fn a_delay_takes_effect_first_unless_told_otherwise() {
    let scene = Scene::new().await;
    let delay = Duration::from_secs(2);
    let patience = Duration::from_millis(500);
    for before in [false, true] {
        scene.sandbox.break_down(Fault {
            before,
            ..Fault::delay(Service::Chatwork, delay)
        });
        let posting = scene.posting(GROUP, "Hi").timeout(patience);
        let error = posting.send().await.expect_err("no answer in time");
        assert!(error.is_timeout(), "{error:?}");
        let effect = if before { 0 } else { 1 };
        let as_expected = scene
            .sandbox
            .until(SOON, |ledger| ledger.totals.posted == effect)
            .await;
        assert!(as_expected);
        scene.sandbox.clear_ledger();
    }

    scene
        .sandbox
        .break_down(Fault::delay(Service::Chatwork, patience));
    let started = Instant::now();
    assert_eq!(scene.get("/me").await.status(), 200);
    assert!(started.elapsed() >= patience);
}

#[tokio::test]
async fn healing_forgets_what_was_still_to_go_wrong() {
    let scene = Scene::new().await;
    let fault = json!({"service": "chatwork", "status": 500, "next": 100});
    scene.break_down(fault).await;
    let faults = json(answered(scene.client.get(scene.url("/faults"))).await).await;
    assert_eq!(faults[0]["next"], 100);
    answered(scene.client.delete(scene.url("/faults"))).await;
    assert_eq!(scene.get("/me").await.status(), 200);

    let wrong = scene
        .break_down(json!({"service": "chatwork", "status": 99}))
        .await;
    assert_eq!(wrong.status(), 400);
    assert_eq!(json(wrong).await["error"], "`status` is from 200 to 999");
}

#[tokio::test]
async fn after_stopping_nobody_answers() {
    let scene = Scene::new().await;
    let url = scene.url("/v2/me");
    let client = scene.client.clone();
    scene.sandbox.stop().await;
    let error = client.get(url).send().await.expect_err("nobody there");
    assert!(error.is_connect(), "{error:?}");
}
