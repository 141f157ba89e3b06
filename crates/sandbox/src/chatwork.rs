//! Chatwork's API v2 under `/v2`: what a bot needs of it, with its errors and both of its limits.
//!
//! Every call goes one way: which call is it, is there a fault for it, serve it, note it.

use std::collections::HashMap;

use actix_web::http::{Method, StatusCode, header};
use actix_web::{HttpRequest, HttpResponse, web};
use chickwork_chatwork::id::{MessageId, RoomId};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::fault::happen::{self, Ended};
use crate::fault::{Call, Service};
use crate::ledger::{self, Called, Posted};
use crate::state::{State, pass};
use crate::town::Role;

/// The longest message, in characters (API description: `maxLength: 65535`).
const LONGEST_MESSAGE: usize = 65_535;

/// Where this API lives.
const SCOPE: &str = "/v2";

pub(crate) fn routes(config: &mut web::ServiceConfig) {
    config.service(web::scope(SCOPE).default_service(web::to(call)));
}

/// What is called.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Endpoint {
    Me,
    Contacts,
    Requests,
    Rooms,
    Room(RoomId),
    Members(RoomId),
    Messages(RoomId),
    Message(RoomId, MessageId),
    Post(RoomId),
}

impl Endpoint {
    /// The endpoint at a path below the scope, if there is one.
    fn at(method: &Method, path: &str) -> Option<Self> {
        let room = |id: &str| id.parse().ok().map(RoomId);
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        Some(match (method.as_str(), parts.as_slice()) {
            ("GET", ["me"]) => Self::Me,
            ("GET", ["contacts"]) => Self::Contacts,
            ("GET", ["incoming_requests"]) => Self::Requests,
            ("GET", ["rooms"]) => Self::Rooms,
            ("GET", ["rooms", id]) => Self::Room(room(id)?),
            ("GET", ["rooms", id, "members"]) => Self::Members(room(id)?),
            ("GET", ["rooms", id, "messages"]) => Self::Messages(room(id)?),
            ("GET", ["rooms", id, "messages", message]) => {
                Self::Message(room(id)?, MessageId::new(*message).ok()?)
            }
            ("POST", ["rooms", id, "messages"]) => Self::Post(room(id)?),
            _ => return None,
        })
    }

    fn call(&self) -> Call {
        match self {
            Self::Me => Call::Me,
            Self::Contacts => Call::Contacts,
            Self::Requests => Call::Requests,
            Self::Rooms => Call::Rooms,
            Self::Room(_) => Call::Room,
            Self::Members(_) => Call::Members,
            Self::Messages(_) => Call::Messages,
            Self::Message(..) => Call::Message,
            Self::Post(_) => Call::Post,
        }
    }

    fn room(&self) -> Option<RoomId> {
        match self {
            Self::Me | Self::Contacts | Self::Requests | Self::Rooms => None,
            Self::Room(room)
            | Self::Members(room)
            | Self::Messages(room)
            | Self::Message(room, _)
            | Self::Post(room) => Some(*room),
        }
    }
}

/// One call of Chatwork, from the request to the note in the ledger.
async fn call(request: HttpRequest, body: web::Bytes, state: web::Data<State>) -> HttpResponse {
    let time = Timestamp::now();
    let path = request.path().strip_prefix(SCOPE).unwrap_or_default();
    let endpoint = Endpoint::at(request.method(), path);
    let kind = endpoint.as_ref().map(Endpoint::call);
    let room_id = endpoint.as_ref().and_then(Endpoint::room);

    pass(state.settings.chatwork_takes).await;
    let fault = state.faults().take(Service::Chatwork, kind, room_id);
    let serve = || serve(&request, endpoint.as_ref(), &body, &state);
    let ended = happen::under(fault, serve).await;

    let answer = match ended {
        Ended::Served(response) => Ok(response),
        Ended::Broken(response) => Ok(with_limits(response, &state)),
        Ended::Lost(loss) => Err(loss),
    };
    let status = answer.as_ref().ok().map(|response| response.status());
    state.note(|ledger| {
        ledger.called(Called {
            n: 0,
            time,
            method: request.method().to_string(),
            path: request.path().to_owned(),
            call: kind,
            room_id,
            status: status.map(|status| status.as_u16()),
        });
    });
    match answer {
        Ok(response) => response,
        Err(loss) => loss.befall(&request).await,
    }
}

/// The answer of a Chatwork that is well.
fn serve(
    request: &HttpRequest,
    endpoint: Option<&Endpoint>,
    body: &[u8],
    state: &State,
) -> HttpResponse {
    let token = request.headers().get("x-chatworktoken");
    if token.is_none_or(|token| token.as_bytes() != state.settings.api_token.as_bytes()) {
        return error(StatusCode::UNAUTHORIZED, "Invalid API token");
    }
    let now = Timestamp::now();
    let response = if state.limits().account.take(now) {
        effect(request, endpoint, body, state, now)
    } else {
        error(StatusCode::TOO_MANY_REQUESTS, "Rate limit exceeded.")
    };
    with_limits(response, state)
}

fn effect(
    request: &HttpRequest,
    endpoint: Option<&Endpoint>,
    body: &[u8],
    state: &State,
    now: Timestamp,
) -> HttpResponse {
    let Some(endpoint) = endpoint else {
        return error(StatusCode::NOT_FOUND, "Invalid Endpoint or HTTP method");
    };
    let mut town = state.town();
    let found = match endpoint {
        Endpoint::Me => Some(town.me()),
        Endpoint::Contacts => Some(town.contacts()),
        Endpoint::Requests => match town.requests() {
            requests if requests.is_empty() => return HttpResponse::NoContent().finish(),
            requests => Some(Value::Array(requests)),
        },
        Endpoint::Rooms => Some(town.rooms()),
        Endpoint::Room(room) => town.room(*room),
        Endpoint::Members(room) => town.members(*room),
        Endpoint::Message(room, message) => town.message(*room, message),
        Endpoint::Messages(room) => {
            let messages = if parameter(request.query_string(), "force").as_deref() == Some("1") {
                town.newest(*room)
            } else {
                town.unread(*room)
            };
            match messages {
                Some(messages) if messages.is_empty() => {
                    return HttpResponse::NoContent().finish();
                }
                messages => messages.map(Value::Array),
            }
        }
        Endpoint::Post(room) => {
            drop(town);
            return post(request, *room, body, state, now);
        }
    };
    match found {
        Some(found) => HttpResponse::Ok().json(found),
        None => error(StatusCode::NOT_FOUND, "Not found"),
    }
}

/// `POST /rooms/{room}/messages`: arguments count in a form body only, since July 2025.
fn post(
    request: &HttpRequest,
    room: RoomId,
    form: &[u8],
    state: &State,
    now: Timestamp,
) -> HttpResponse {
    match state.town().role(room) {
        None => return error(StatusCode::NOT_FOUND, "Not found"),
        Some(Role::Readonly) => {
            let words = "You don't have permission to send/edit message.";
            return error(StatusCode::FORBIDDEN, words);
        }
        Some(Role::Member | Role::Admin) => {}
    }
    let Some(text) = form_body(request, form).filter(|text| !text.is_empty()) else {
        return error(StatusCode::BAD_REQUEST, "Parameter 'body' is required");
    };
    if text.chars().count() > LONGEST_MESSAGE {
        return error(StatusCode::BAD_REQUEST, "Parameter 'body' is too long");
    }
    if !state.limits().room(room).take(now) {
        let words = "Rate limit for message posting per room exceeded.";
        return error(StatusCode::TOO_MANY_REQUESTS, words);
    }
    let Some(message) = state.town().post(room, &text, now) else {
        return error(StatusCode::NOT_FOUND, "Not found");
    };
    let posted = state.note(|ledger| {
        ledger.posted(Posted {
            n: 0,
            time: now,
            room_id: room,
            account_id: message.account_id,
            message_id: message.message_id.clone(),
            answers: ledger::answered_by(&message.body),
            body: message.body,
        })
    });
    state.announce(posted);
    HttpResponse::Ok().json(json!({ "message_id": message.message_id }))
}

/// The argument `body` of a form.
fn form_body(request: &HttpRequest, form: &[u8]) -> Option<String> {
    let content_type = request.headers().get(header::CONTENT_TYPE)?.to_str().ok()?;
    if !content_type.starts_with("application/x-www-form-urlencoded") {
        return None;
    }
    parameter(std::str::from_utf8(form).ok()?, "body")
}

/// An argument of a query or a form, which are written alike.
fn parameter(encoded: &str, name: &str) -> Option<String> {
    web::Query::<HashMap<String, String>>::from_query(encoded)
        .ok()?
        .into_inner()
        .remove(name)
}

fn error(status: StatusCode, words: &str) -> HttpResponse {
    HttpResponse::build(status).json(json!({ "errors": [words] }))
}

/// The account's limit, on every reply.
fn with_limits(mut response: HttpResponse, state: &State) -> HttpResponse {
    let now = Timestamp::now();
    let account = &mut state.limits().account;
    let numbers = [
        ("x-ratelimit-limit", i64::from(account.limit())),
        ("x-ratelimit-remaining", i64::from(account.left(now))),
        ("x-ratelimit-reset", account.reset(now)),
    ];
    for (name, number) in numbers {
        let name = header::HeaderName::from_static(name);
        if !response.headers().contains_key(&name) {
            response.headers_mut().insert(name, number.into());
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_endpoints() {
        let get = |path| Endpoint::at(&Method::GET, path);
        let room = RoomId(5);
        assert_eq!(get("/me"), Some(Endpoint::Me));
        assert_eq!(get("/rooms/5/messages"), Some(Endpoint::Messages(room)));
        assert_eq!(
            Endpoint::at(&Method::POST, "/rooms/5/messages"),
            Some(Endpoint::Post(room))
        );
        for nowhere in [
            "",
            "/",
            "/you",
            "/rooms/x",
            "/rooms//messages",
            "/rooms/5/files",
        ] {
            assert_eq!(get(nowhere), None, "{nowhere}");
        }
    }
}
