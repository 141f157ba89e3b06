//! The controls over HTTP, for people with curl and for scripts: write in a room, read the ledger,
//! order and heal faults, change what the bot may do.

use std::collections::HashMap;
use std::fmt::Display;

use actix_web::{HttpRequest, HttpResponse, web};
use chickwork_chatwork::id::{AccountId, RoomId};
use serde::Deserialize;
use serde_json::json;

use crate::fault::{Fault, FaultId};
use crate::sandbox::Say;
use crate::state::State;
use crate::town::Role;

/// What somebody sees who opens the sandbox in a browser.
const WELCOME: &str = "\
Chickwork's sandbox: stand-ins for Chatwork and SimSimi.

/v2/…                 Chatwork's API
/190410/talk          SimSimi's API
POST   /say           {\"room_id\":200000002,\"account_id\":1000002,\"body\":\"[To:1000001] xin chào\"}
GET    /ledger        what happened; ?since=N for what is newer than entry N
DELETE /ledger        forget it
POST   /rooms         {\"room_id\":200000002,\"role\":\"readonly\"}: what the bot may do there
POST   /contact-requests  {\"account_id\":1000003}: no direct chat with them until
DELETE /contact-requests  the bot's owner accepts them all
POST   /faults        {\"service\":\"chatwork\",\"call\":\"post\",\"status\":500,\"next\":2}
GET    /faults        what is still to go wrong, and how often it did
DELETE /faults        heal all; /faults/ID heals one
GET    /readyz        ready: `chickwork healthcheck --admin-listen HOST:PORT` asks for it

A fault fits calls by `service` (simsimi, chatwork) and, where given, `call` (talk; me, contacts,
requests, rooms, room, members, messages, message, post) and `room_id`. What it does:
  status, body, headers   answer like this, without effect; `headers` alone: with effect
  effect                  with `true` a call that is answered like this takes effect all the same
  repeat                  the body N times, or \"always\": it never ends
  delay_ms                answer late: after the effect, or with `before`:true before it
  drop                    close the connection \"before\" or \"after\" the effect
  hold                    never answer, \"before\" or \"after\" the effect
  next                    to N calls (1), or \"always\": until healed
  percent, seed           to this share of the calls; the same ones for the same seed
";

pub(crate) fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/", web::get().to(async || WELCOME))
        .route("/healthz", web::get().to(async || "ok"))
        // Where the bot's processes have it on their admin port, so that one health check suits all.
        .route("/readyz", web::get().to(async || "ready"))
        .route("/say", web::post().to(say))
        .route("/rooms", web::post().to(role))
        .service(
            web::resource("/contact-requests")
                .route(web::post().to(request_contact))
                .route(web::delete().to(accept_contacts)),
        )
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
        )
        .route("/faults/{id}", web::delete().to(heal_one));
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

/// What the bot may do in a room from now on.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RoleIn {
    room_id: RoomId,
    role: Role,
}

async fn role(body: web::Bytes, state: web::Data<State>) -> HttpResponse {
    match serde_json::from_slice::<RoleIn>(&body) {
        Ok(RoleIn { room_id, role }) => {
            state.town().set_role(room_id, role);
            HttpResponse::NoContent().finish()
        }
        Err(error) => wrong(error),
    }
}

/// Somebody wants to be the bot's contact.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ContactOf {
    account_id: AccountId,
}

async fn request_contact(body: web::Bytes, state: web::Data<State>) -> HttpResponse {
    match serde_json::from_slice::<ContactOf>(&body) {
        Ok(ContactOf { account_id }) if state.town().is_bot(account_id) => {
            wrong("the bot cannot be its own contact")
        }
        Ok(ContactOf { account_id }) => {
            let request_id = state.town().request_contact(account_id);
            HttpResponse::Ok().json(json!({ "request_id": request_id }))
        }
        Err(error) => wrong(error),
    }
}

async fn accept_contacts(state: web::Data<State>) -> HttpResponse {
    state.town().accept_contacts();
    HttpResponse::NoContent().finish()
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
    let faults = state.faults().list();
    HttpResponse::Ok().json(faults)
}

async fn break_down(body: web::Bytes, state: web::Data<State>) -> HttpResponse {
    let fault = match serde_json::from_slice::<Fault>(&body) {
        Ok(fault) => fault,
        Err(error) => return wrong(error),
    };
    match state.faults().accept(fault) {
        Ok(waiting) => HttpResponse::Ok().json(waiting),
        Err(error) => wrong(error),
    }
}

async fn heal_one(id: web::Path<String>, state: web::Data<State>) -> HttpResponse {
    let healed = match id.parse() {
        Ok(id) => state.faults().remove(FaultId(id)),
        Err(_) => false,
    };
    if healed {
        HttpResponse::NoContent().finish()
    } else {
        HttpResponse::NotFound().json(json!({ "error": "no fault of this id is waiting" }))
    }
}

async fn heal(state: web::Data<State>) -> HttpResponse {
    state.faults().clear();
    HttpResponse::NoContent().finish()
}
