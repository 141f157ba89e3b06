//! Misbehaviour on command: a fault waits for the next calls that it fits and happens to them.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::TryIntoHeaderPair as _;
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder};
use chickwork_chatwork::id::RoomId;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::connection;

/// Faults that wait at a time; more are not taken.
const WAITING: usize = 10_000;

/// The longest delay that a fault may ask for, in milliseconds.
const LONGEST_DELAY: u64 = 10 * 60 * 1000;

/// Which service misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Service {
    /// SimSimi.
    Simsimi,
    /// Chatwork.
    Chatwork,
}

/// Which call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Call {
    /// SimSimi's only one.
    Talk,
    /// `GET /me`.
    Me,
    /// `GET /contacts`.
    Contacts,
    /// `GET /incoming_requests`.
    Requests,
    /// `GET /rooms`.
    Rooms,
    /// `GET /rooms/{room}`.
    Room,
    /// `GET /rooms/{room}/members`.
    Members,
    /// `GET /rooms/{room}/messages`.
    Messages,
    /// `GET /rooms/{room}/messages/{message}`.
    Message,
    /// `POST /rooms/{room}/messages`.
    Post,
}

/// On which side of the call's effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum When {
    /// As if the call was never made.
    Before,
    /// The call took effect, the caller does not learn of it.
    After,
}

/// A fault. With nothing but a service it changes nothing for one call.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Which service.
    pub service: Service,
    /// Only this call; absent: any.
    #[serde(default)]
    pub call: Option<Call>,
    /// Only in this room; absent: anywhere.
    #[serde(default)]
    pub room_id: Option<RoomId>,
    /// Answer with this HTTP status; the call takes no effect.
    #[serde(default)]
    pub status: Option<u16>,
    /// With this body: text as it is, anything else as JSON. Absent: the service's usual form of an
    /// error. Without a status: with 200, and the call takes no effect.
    #[serde(default)]
    pub body: Option<Value>,
    /// And with these headers.
    #[serde(default)]
    pub headers: BTreeMap<String, Value>,
    /// Let the caller wait so many milliseconds: after the effect, or before it if `before`.
    #[serde(default)]
    pub delay_ms: Option<u64>,
    /// The delay comes first, then the effect.
    #[serde(default)]
    pub before: bool,
    /// Close the connection without an answer, before or after the call took effect. After the
    /// delay, if there is one as well.
    #[serde(default)]
    pub drop: Option<When>,
    /// How many calls it happens to.
    #[serde(default = "once")]
    pub next: u32,
}

fn once() -> u32 {
    1
}

/// The fault asks for something that cannot be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAFault {
    /// Not a status of a final answer.
    #[error("`status` is from 200 to 999")]
    Status,
    /// Longer than anybody waits.
    #[error("`delay_ms` is at most {LONGEST_DELAY}")]
    Delay,
    /// Not a header.
    #[error("`headers` are names with texts or numbers")]
    Header,
    /// There are too many already.
    #[error("{WAITING} faults are waiting already")]
    TooMany,
}

impl Fault {
    /// A fault of a service that answers with `status`, once.
    pub fn status(service: Service, status: u16) -> Self {
        Self {
            status: Some(status),
            ..Self::nothing(service)
        }
    }

    /// A fault of a service that closes the connection, once.
    pub fn drop(service: Service, when: When) -> Self {
        Self {
            drop: Some(when),
            ..Self::nothing(service)
        }
    }

    /// A fault of a service that answers late, once.
    pub fn delay(service: Service, delay: Duration) -> Self {
        Self {
            delay_ms: Some(u64::try_from(delay.as_millis()).unwrap_or(LONGEST_DELAY)),
            ..Self::nothing(service)
        }
    }

    /// A fault that changes nothing yet, to be filled in.
    pub fn nothing(service: Service) -> Self {
        Self {
            service,
            call: None,
            room_id: None,
            status: None,
            body: None,
            headers: BTreeMap::new(),
            delay_ms: None,
            before: false,
            drop: None,
            next: once(),
        }
    }

    /// Only to this call.
    pub fn on(self, call: Call) -> Self {
        Self {
            call: Some(call),
            ..self
        }
    }

    /// Only in this room.
    pub fn in_room(self, room: RoomId) -> Self {
        Self {
            room_id: Some(room),
            ..self
        }
    }

    /// To so many calls.
    pub fn times(self, next: u32) -> Self {
        Self { next, ..self }
    }

    /// With this body.
    pub fn with_body(self, body: impl Into<Value>) -> Self {
        Self {
            body: Some(body.into()),
            ..self
        }
    }

    /// With this header.
    pub fn with_header(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.headers.insert(name.to_owned(), value.into());
        self
    }

    /// Whether it can be done as it says.
    pub(crate) fn check(&self) -> Result<(), NotAFault> {
        if self
            .status
            .is_some_and(|status| !(200..=999).contains(&status))
        {
            return Err(NotAFault::Status);
        }
        if self.delay_ms.is_some_and(|delay| delay > LONGEST_DELAY) {
            return Err(NotAFault::Delay);
        }
        for (name, value) in &self.headers {
            let pair = (name.as_str(), text(value));
            if actix_web::http::header::TryIntoHeaderPair::try_into_pair((pair.0, pair.1.as_str()))
                .is_err()
                || !(value.is_string() || value.is_number())
            {
                return Err(NotAFault::Header);
            }
        }
        Ok(())
    }

    fn fits(&self, service: Service, call: Option<Call>, room: Option<RoomId>) -> bool {
        self.service == service
            && (self.call.is_none() || self.call == call)
            && (self.room_id.is_none() || self.room_id == room)
    }

    fn answer(&self) -> Option<HttpResponse> {
        if self.status.is_none() && self.body.is_none() {
            return None;
        }
        let status = StatusCode::from_u16(self.status.unwrap_or(200)).ok()?;
        let mut response = HttpResponseBuilder::new(status);
        for (name, value) in &self.headers {
            response.insert_header((name.as_str(), text(value)));
        }
        if self.plays_account_limit() {
            response.insert_header(("x-ratelimit-remaining", "0"));
        }
        Some(match &self.body {
            Some(Value::String(body)) => response.body(body.clone()),
            Some(body) => response.json(body),
            None => response.json(self.usual_error(status)),
        })
    }

    /// A 429 of Chatwork without words of its own is about the account, which then has nothing left;
    /// the limit of a room says so in words.
    fn plays_account_limit(&self) -> bool {
        self.service == Service::Chatwork
            && self.status == Some(429)
            && self.body.is_none()
            && !self.headers.contains_key("x-ratelimit-remaining")
    }

    /// How an error of the service looks; SimSimi's is that of the gateway in front of it.
    fn usual_error(&self, status: StatusCode) -> Value {
        let words = status.canonical_reason().unwrap_or("Failed");
        match self.service {
            Service::Simsimi => json!({ "message": words }),
            Service::Chatwork => json!({ "errors": [words] }),
        }
    }
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

/// Faults that wait for their calls, in the order in which they happen.
#[derive(Debug, Default, Clone, Serialize)]
#[serde(transparent)]
pub(crate) struct Faults(VecDeque<Fault>);

impl Faults {
    pub(crate) fn push(&mut self, fault: Fault) {
        self.0.push_back(fault);
    }

    /// Takes a fault from outside, or says why not.
    pub(crate) fn accept(&mut self, fault: Fault) -> Result<(), NotAFault> {
        fault.check()?;
        if self.0.len() >= WAITING {
            return Err(NotAFault::TooMany);
        }
        self.push(fault);
        Ok(())
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// The first fault that fits a call; it has one call less to happen to.
    pub(crate) fn take(
        &mut self,
        service: Service,
        call: Option<Call>,
        room: Option<RoomId>,
    ) -> Option<Fault> {
        self.0.retain(|fault| fault.next > 0);
        let place = self
            .0
            .iter()
            .position(|fault| fault.fits(service, call, room))?;
        let waiting = &mut self.0[place];
        waiting.next -= 1;
        let fault = waiting.clone();
        if fault.next == 0 {
            self.0.remove(place);
        }
        Some(fault)
    }
}

/// How a call ended under a fault, if there was one.
pub(crate) enum Ended {
    /// With the service's own answer.
    Served(HttpResponse),
    /// With the answer that the fault asked for.
    Broken(HttpResponse),
    /// Without an answer.
    Cut,
}

/// Lets a call happen as the fault wants it. `serve` is the service's own answer, and its effect.
pub(crate) async fn under(
    fault: Option<Fault>,
    request: &HttpRequest,
    serve: impl FnOnce() -> HttpResponse,
) -> Ended {
    let Some(fault) = fault else {
        return Ended::Served(serve());
    };
    let delay = async || {
        if let Some(delay) = fault.delay_ms {
            tokio::time::sleep(Duration::from_millis(delay)).await;
        }
    };
    if fault.before || fault.drop == Some(When::Before) {
        delay().await;
        if fault.drop == Some(When::Before) {
            connection::cut(request);
            return Ended::Cut;
        }
    }
    let ended = match fault.answer() {
        Some(answer) if fault.drop.is_none() => Ended::Broken(answer),
        _ => Ended::Served(with_headers(serve(), &fault)),
    };
    if !fault.before {
        delay().await;
    }
    if fault.drop == Some(When::After) {
        connection::cut(request);
        return Ended::Cut;
    }
    ended
}

/// Headers alone are added to the service's own answer.
fn with_headers(mut response: HttpResponse, fault: &Fault) -> HttpResponse {
    for (name, value) in &fault.headers {
        if let Ok((name, value)) = (name.as_str(), text(value).as_str()).try_into_pair() {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_waits_for_the_calls_that_it_fits() {
        let mut faults = Faults::default();
        let room = RoomId(7);
        faults.push(
            Fault::status(Service::Chatwork, 500)
                .on(Call::Post)
                .in_room(room)
                .times(2),
        );
        let mut take = |service, call, room| faults.take(service, Some(call), room).is_some();
        assert!(!take(Service::Simsimi, Call::Talk, None));
        assert!(!take(Service::Chatwork, Call::Me, None));
        assert!(!take(Service::Chatwork, Call::Post, Some(RoomId(8))));
        assert!(take(Service::Chatwork, Call::Post, Some(room)));
        assert!(take(Service::Chatwork, Call::Post, Some(room)));
        assert!(!take(Service::Chatwork, Call::Post, Some(room)));
    }

    #[test]
    fn what_cannot_be_done_is_no_fault() {
        let fault = |json| serde_json::from_value::<Fault>(json).map_err(|_| ());
        let checked = |json| fault(json).map(|fault| fault.check());
        assert_eq!(checked(json!({"service": "simsimi"})), Ok(Ok(())));
        assert_eq!(
            checked(json!({"service": "simsimi", "status": 100})),
            Ok(Err(NotAFault::Status))
        );
        assert_eq!(
            checked(json!({"service": "simsimi", "delay_ms": 6_000_000})),
            Ok(Err(NotAFault::Delay))
        );
        assert_eq!(
            checked(json!({"service": "simsimi", "headers": {"a b": "c"}})),
            Ok(Err(NotAFault::Header))
        );
        assert_eq!(
            checked(json!({"service": "simsimi", "stauts": 500})),
            Err(())
        );
    }
}
