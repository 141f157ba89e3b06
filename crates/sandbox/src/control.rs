//! The controls over HTTP, for people with curl and for scripts: write in a room, read the ledger,
//! order and heal faults.

use std::collections::HashMap;
use std::fmt::Display;

use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::json;

use crate::fault::Fault;
use crate::sandbox::Say;
use crate::state::State;

/// What somebody sees who opens the sandbox in a browser.
const WELCOME: &str = "\
Chickwork's sandbox: stand-ins for Chatwork and SimSimi.

/v2/…                 Chatwork's API
/190410/talk          SimSimi's API
POST   /say           {\"room_id\":200000002,\"account_id\":1000002,\"body\":\"[To:1000001] xin chào\"}
GET    /ledger        what happened; ?since=N for what is newer than entry N
DELETE /ledger        forget it
POST   /faults        {\"service\":\"chatwork\",\"call\":\"post\",\"status\":500,\"next\":2}
GET    /faults        what is still to go wrong
DELETE /faults        heal
";

pub(crate) fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/", web::get().to(async || WELCOME))
        .route("/healthz", web::get().to(async || "ok"))
        .route("/say", web::post().to(say))
        .service(
            web::resource("/ledger")
                .route(web::get().to(ledger))
                .route(web::delete().to(clear_ledger)),
        )
        .service(
            web::resource("/faults")
                .route(web::get().to(faults))
                .route(web::post().to(break_down))
                .route(web::delete().to(heal)),
        );
}

fn wrong(error: impl Display) -> HttpResponse {
    HttpResponse::BadRequest().json(json!({ "error": error.to_string() }))
}

// The bodies are taken for JSON whatever their content type says, so that `curl -d` will do.

async fn say(body: web::Bytes, state: web::Data<State>) -> HttpResponse {
    match serde_json::from_slice::<Say>(&body) {
        Ok(say) => HttpResponse::Ok().json(state.say(say).await),
        Err(error) => wrong(error),
    }
}

async fn ledger(request: HttpRequest, state: web::Data<State>) -> HttpResponse {
    let query = web::Query::<HashMap<String, String>>::from_query(request.query_string());
    let since = match query.as_ref().map(|query| query.get("since")) {
        Ok(Some(since)) => since.parse::<u64>().ok(),
        _ => Some(0),
    };
    match since {
        Some(since) => {
            let ledger = state.ledger().since(since);
            HttpResponse::Ok().json(ledger)
        }
        None => wrong("`since` is the number of an entry"),
    }
}

async fn clear_ledger(state: web::Data<State>) -> HttpResponse {
    state.note(|ledger| ledger.clear());
    HttpResponse::NoContent().finish()
}

async fn faults(state: web::Data<State>) -> HttpResponse {
    let faults = state.faults().clone();
    HttpResponse::Ok().json(faults)
}

async fn break_down(body: web::Bytes, state: web::Data<State>) -> HttpResponse {
    let fault = match serde_json::from_slice::<Fault>(&body) {
        Ok(fault) => fault,
        Err(error) => return wrong(error),
    };
    match state.faults().accept(fault) {
        Ok(()) => HttpResponse::NoContent().finish(),
        Err(error) => wrong(error),
    }
}

async fn heal(state: web::Data<State>) -> HttpResponse {
    state.faults().clear();
    HttpResponse::NoContent().finish()
}
