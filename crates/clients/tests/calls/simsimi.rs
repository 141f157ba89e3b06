//! SimSimi over the wire; how its answers are understood is a table beside the code.

use chickwork_clients::Patience;
use chickwork_clients::simsimi::{Answer, AskError, Settings, SimSimi};

use crate::canned::{self, Canned, answer, endless};
use crate::{IMPATIENT, PATIENT, install_tls};

const KEY: &str = "simsimi-key-of-the-test";

fn simsimi(url: &str, patience: Patience) -> SimSimi {
    install_tls();
    let settings = Settings {
        url: url.to_owned(),
        api_key: KEY.to_owned(),
        lang: "vn".to_owned(),
    };
    SimSimi::with_patience(settings, patience).expect("a client")
}

pub(crate) async fn asked(answer: canned::Answer, patience: Patience) -> Result<Answer, AskError> {
    let server = Canned::serve(answer).await;
    simsimi(server.url(), patience).ask("xin chào").await
}

#[tokio::test]
async fn only_the_text_and_the_language_are_sent_with_the_key() {
    let server = Canned::serve(answer(200, &[], r#"{"status":200,"atext":"Chào"}"#)).await;
    let simsimi = simsimi(&format!("{}/190410/", server.url()), PATIENT);

    let said = simsimi.ask("xin \"chào\" 😀\n").await;

    assert_eq!(said, Ok(Answer::Said("Chào".to_owned())));
    let request = server.request();
    assert!(
        request.starts_with("POST /190410/talk HTTP/1.1\r\n"),
        "{request}"
    );
    assert!(request.contains(&format!("x-api-key: {KEY}\r\n")));
    assert!(request.contains("content-type: application/json\r\n"));
    assert!(request.contains("user-agent: chickwork/"));
    let (_, body) = request.split_once("\r\n\r\n").expect("a body");
    assert_eq!(body, r#"{"lang":"vn","utext":"xin \"chào\" 😀\n"}"#);
}

#[tokio::test]
async fn an_error_page_is_a_failure_and_a_gateway_without_a_status_decides_by_http() {
    let html = "<html><body>Internal Server Error</body></html>";
    assert!(matches!(
        asked(answer(500, &["content-type: text/html"], html), PATIENT).await,
        Err(AskError::Failed(_))
    ));
    let forbidden = answer(403, &[], r#"{"message":"Forbidden"}"#);
    assert_eq!(
        asked(forbidden, PATIENT).await,
        Err(AskError::Unauthorized("HTTP 403, Forbidden".to_owned()))
    );
    let used_up = answer(429, &[], r#"{"message":"Limit Exceeded Exception"}"#);
    assert!(matches!(
        asked(used_up, PATIENT).await,
        Err(AskError::QuotaUsedUp(_))
    ));
}

#[tokio::test]
async fn silence_runs_out_of_time_before_and_within_the_answer() {
    for start in [
        "",
        "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"status\"",
    ] {
        let stall = canned::Answer::Stall(start.into());
        assert_eq!(asked(stall, IMPATIENT).await, Err(AskError::TimedOut));
    }
}

#[tokio::test]
async fn a_lost_connection_and_a_refused_one_are_unreachable() {
    for lost in [
        canned::Answer::Drop,
        canned::Answer::Bytes(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{".to_vec()),
    ] {
        let error = asked(lost, PATIENT).await;
        assert!(matches!(error, Err(AskError::Unreachable(_))), "{error:?}");
    }
    let error = simsimi("http://127.0.0.1:1", PATIENT).ask("a").await;
    assert!(matches!(error, Err(AskError::Unreachable(_))), "{error:?}");
}

#[tokio::test]
async fn an_endless_answer_is_given_up() {
    let error = asked(canned::Answer::Endless(endless(200)), PATIENT).await;
    assert_eq!(
        error,
        Err(AskError::Failed("the answer is too large".to_owned()))
    );
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let server = Canned::serve(answer(307, &["location: /elsewhere"], "")).await;
    let error = simsimi(server.url(), PATIENT).ask("a").await;
    assert!(matches!(error, Err(AskError::Failed(_))), "{error:?}");
    server.request();
}

#[tokio::test]
async fn the_key_shows_nowhere() {
    let client = simsimi("http://127.0.0.1:1", PATIENT);
    assert!(!format!("{client:?}").contains(KEY));
    let error = client.ask("a").await.expect_err("nobody listens");
    assert!(!format!("{error:?} {error}").contains(KEY));
    let settings = Settings {
        url: "http://127.0.0.1:1".to_owned(),
        api_key: format!("{KEY}\n"),
        lang: "vn".to_owned(),
    };
    assert!(!format!("{settings:?}").contains(KEY));
    let error = SimSimi::new(settings).expect_err("a key with a newline");
    assert!(!format!("{error:?} {error}").contains(KEY));
}
