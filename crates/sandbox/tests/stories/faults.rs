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
    let ordered = json(scene.break_down(fault).await).await;
    assert_eq!(ordered["id"], 1);
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
async fn what_is_answered_with_an_error_may_have_taken_effect() {
    let scene = Scene::new().await;
    let fault = json!({"service": "chatwork", "call": "post", "status": 500, "effect": true});
    scene.break_down(fault).await;
    assert_eq!(scene.post(GROUP, "Hi").await.status(), 500);
    assert_eq!(scene.sandbox.ledger().totals.posted, 1);
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
    let delay = SOON;
    let patience = Duration::from_millis(500);
    for before in [false, true] {
        scene.sandbox.break_down(Fault {
            before,
            ..Fault::delay(Service::Chatwork, delay)
        });
        let posting = tokio::spawn(scene.posting(GROUP, "Hi").send());
        // Not a wait for something: for so long nothing comes.
        let answer = tokio::time::timeout(patience, posting).await;
        assert!(answer.is_err(), "no answer in time: {answer:?}");
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
async fn a_share_of_the_calls_fails_and_the_same_ones_in_the_next_run() {
    let run = async || {
        let scene = Scene::new().await;
        let fault =
            json!({"service": "chatwork", "call": "me", "status": 503, "percent": 40, "seed": 9});
        assert_eq!(scene.break_down(fault).await.status(), 200);
        let mut failed = Vec::new();
        for call in 0..40 {
            if scene.get("/me").await.status() == 503 {
                failed.push(call);
            }
        }
        let waiting = &scene.sandbox.faults()[0];
        assert_eq!(waiting.happened, failed.len() as u64);
        failed
    };
    let failed = run().await;
    assert!((8..25).contains(&failed.len()), "{failed:?}");
    assert_eq!(failed, run().await);
}

#[tokio::test]
async fn what_is_held_open_is_never_answered_and_does_not_hold_up_the_end() {
    let scene = Scene::new().await;
    for (when, effects) in [("before", 0), ("after", 1)] {
        let fault = json!({"service": "chatwork", "call": "post", "hold": when});
        assert_eq!(scene.break_down(fault).await.status(), 200);
        let posting = tokio::spawn(scene.posting(GROUP, "Hi").send());
        let noted = scene
            .sandbox
            .until(SOON, |ledger| !ledger.calls.is_empty())
            .await;
        assert!(noted);
        // Not a wait for something: for so long nothing comes.
        let answer = tokio::time::timeout(Duration::from_millis(500), posting).await;
        assert!(answer.is_err(), "no answer: {answer:?}");
        let ledger = scene.sandbox.ledger();
        assert_eq!(ledger.calls[0].status, None);
        assert_eq!(ledger.totals.posted, effects);
        scene.sandbox.clear_ledger();
    }
    tokio::time::timeout(SOON, scene.sandbox.stop())
        .await
        .expect("stopped in time");
}

#[tokio::test]
async fn an_answer_can_have_megabytes_or_no_end() {
    let scene = Scene::new().await;
    let fault = json!({"service": "chatwork", "body": "0123456789abcdef", "repeat": 655_360});
    scene.break_down(fault).await;
    let body = scene.get("/me").await.bytes().await.expect("a body");
    assert_eq!(body.len(), 10 * 1024 * 1024);
    assert!(body.starts_with(b"0123456789abcdef0") && body.ends_with(b"def"));

    let fault = json!({"service": "chatwork", "status": 500, "body": "x", "repeat": "always"});
    scene.break_down(fault).await;
    let mut response = scene.get("/me").await;
    assert_eq!(response.status(), 500);
    assert_eq!(response.content_length(), None);
    let mut read = 0;
    while read < 20 * 1024 * 1024 {
        let chunk = response.chunk().await.expect("more");
        read += chunk.expect("no end").len();
    }
    drop(response);
    assert_eq!(scene.get("/me").await.status(), 200);
}

#[tokio::test]
async fn absurd_limits_are_told_with_an_answer_that_took_effect() {
    let scene = Scene::new().await;
    let headers = json!({"x-ratelimit-reset": "99999999999999999999", "x-ratelimit-remaining": -1});
    scene
        .break_down(json!({"service": "chatwork", "call": "post", "headers": headers}))
        .await;
    let response = scene.post(GROUP, "Hi").await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["x-ratelimit-remaining"], "-1");
    assert_eq!(scene.sandbox.ledger().totals.posted, 1);
}

#[tokio::test]
async fn what_goes_wrong_until_it_is_healed_is_listed_with_how_often_it_did() {
    let scene = Scene::new().await;
    for fault in [
        json!({"service": "chatwork", "call": "me", "status": 500, "next": "always"}),
        json!({"service": "simsimi", "drop": "before"}),
    ] {
        scene.break_down(fault).await;
    }
    for _ in 0..3 {
        assert_eq!(scene.get("/me").await.status(), 500);
    }
    let list = async || json(answered(scene.client.get(scene.url("/faults"))).await).await;
    let always = json!({"id": 1, "service": "chatwork", "call": "me", "status": 500, "next": "always", "happened": 3});
    let once = json!({"id": 2, "service": "simsimi", "drop": "before", "next": 1, "happened": 0});
    assert_eq!(list().await, json!([always, once]));

    let heal = |id: &str| answered(scene.client.delete(scene.url(&format!("/faults/{id}"))));
    assert_eq!(heal("1").await.status(), 204);
    for id in ["1", "x"] {
        let missing = heal(id).await;
        assert_eq!(missing.status(), 404);
        let words = "no fault of this id is waiting";
        assert_eq!(json(missing).await, json!({ "error": words }));
    }
    assert_eq!(scene.get("/me").await.status(), 200);
    assert_eq!(list().await, json!([once]));
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

    for (wrong, sentence) in [
        (
            json!({"service": "chatwork", "status": 99}),
            "`status` is from 200 to 999",
        ),
        (
            json!({"service": "chatwork", "call": "talk", "status": 500}),
            "this `call` is one of the other service",
        ),
        (
            json!({"service": "simsimi", "status": 500, "percent": 0}),
            "`percent` is from 1 to 100",
        ),
    ] {
        let wrong = scene.break_down(wrong).await;
        assert_eq!(wrong.status(), 400);
        assert_eq!(json(wrong).await, json!({ "error": sentence }));
    }
    assert!(scene.sandbox.faults().is_empty());
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
