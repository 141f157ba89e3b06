//! Webhooks as Chatwork sends them: the three bodies, the signature in header and query, one
//! delivery. Source: Chatwork API Documentation, "Webhook", and requests seen in public.

use std::time::{Duration, Instant};

use chickwork_chatwork::id::{AccountId, MessageId, RoomId};
use chickwork_chatwork::signature::Token;
use serde::{Deserialize, Serialize};

/// How long Chatwork waits for an answer.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How Chatwork calls itself.
const USER_AGENT: &str = "ChatWork-Webhook/1.0.0";

/// The header with the signature.
const SIGNATURE: &str = "x-chatworkwebhooksignature";

/// The query parameter with the signature, for those who cannot read headers.
const SIGNATURE_PARAMETER: &str = "chatwork_webhook_signature";

/// The type of a webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Somebody addressed the bot.
    MentionToMe,
    /// Somebody wrote.
    MessageCreated,
    /// Somebody edited.
    MessageUpdated,
}

impl Kind {
    /// What Chatwork makes of a new message: a mention if a To or reply tag is for the bot.
    pub fn of(body: &str, bot: AccountId) -> Self {
        let tags = [
            format!("[To:{bot}]"),
            format!("[rp aid={bot} "),
            format!("[返信 aid={bot} "),
        ];
        if tags.iter().any(|tag| body.contains(tag)) {
            Self::MentionToMe
        } else {
            Self::MessageCreated
        }
    }

    /// Its name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::MentionToMe => "mention_to_me",
            Self::MessageCreated => "message_created",
            Self::MessageUpdated => "message_updated",
        }
    }

    /// Mentions and messages come from two webhook settings: one of the account, one of the room.
    pub(crate) fn setting_id(self) -> &'static str {
        match self {
            Self::MentionToMe => "1",
            Self::MessageCreated | Self::MessageUpdated => "2",
        }
    }
}

/// What a webhook tells.
#[derive(Debug, Clone)]
pub struct Hook {
    /// Its type.
    pub kind: Kind,
    /// Which webhook setting fired.
    pub setting_id: String,
    /// When Chatwork recorded it, Unix seconds.
    pub event_time: i64,
    /// The room.
    pub room_id: RoomId,
    /// The message.
    pub message_id: MessageId,
    /// Who wrote it.
    pub author: AccountId,
    /// Who was addressed; only told in mentions.
    pub addressee: AccountId,
    /// The raw text.
    pub body: String,
    /// When it was sent, Unix seconds.
    pub send_time: i64,
    /// When it was edited, Unix seconds; 0 if never.
    pub update_time: i64,
}

/// The common part; the members in Chatwork's order.
#[derive(Serialize)]
struct Outer<'a> {
    webhook_setting_id: &'a str,
    webhook_event_type: &'static str,
    webhook_event_time: i64,
    webhook_event: Inner<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Inner<'a> {
    Mention {
        from_account_id: AccountId,
        to_account_id: AccountId,
        room_id: RoomId,
        message_id: &'a MessageId,
        body: &'a str,
        send_time: i64,
        update_time: i64,
    },
    Message {
        message_id: &'a MessageId,
        room_id: RoomId,
        account_id: AccountId,
        body: &'a str,
        send_time: i64,
        update_time: i64,
    },
}

impl Hook {
    /// The body of the webhook, byte for byte as Chatwork writes it.
    pub fn json(&self) -> Vec<u8> {
        let webhook_event = match self.kind {
            Kind::MentionToMe => Inner::Mention {
                from_account_id: self.author,
                to_account_id: self.addressee,
                room_id: self.room_id,
                message_id: &self.message_id,
                body: &self.body,
                send_time: self.send_time,
                update_time: self.update_time,
            },
            Kind::MessageCreated | Kind::MessageUpdated => Inner::Message {
                message_id: &self.message_id,
                room_id: self.room_id,
                account_id: self.author,
                body: &self.body,
                send_time: self.send_time,
                update_time: self.update_time,
            },
        };
        serde_json::to_vec(&Outer {
            webhook_setting_id: &self.setting_id,
            webhook_event_type: self.kind.name(),
            webhook_event_time: self.event_time,
            webhook_event,
        })
        .expect("numbers and texts are always JSON")
    }
}

/// What became of a webhook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sent {
    /// The status of the answer, if there was one.
    pub status: Option<u16>,
    /// How long it took, in milliseconds.
    pub millis: u64,
    /// Why there was no answer.
    pub error: Option<String>,
}

/// There is no HTTP client to be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up HTTP: {0}")]
pub struct NoCourier(#[from] reqwest::Error);

/// Who carries webhooks.
#[derive(Debug, Clone)]
pub struct Courier {
    /// For plain HTTP, which stays on this machine or in its network: no proxy and no certificates,
    /// which a small container may not have.
    near: reqwest::Client,
}

impl Courier {
    /// A courier who waits as long as Chatwork does.
    pub fn new() -> Result<Self, NoCourier> {
        let near = like_chatwork().no_proxy().tls_certs_only([]).build()?;
        Ok(Self { near })
    }

    /// Sends a webhook: signed, once, and never again.
    pub async fn deliver(&self, url: &str, token: &Token, body: Vec<u8>) -> Sent {
        let started = Instant::now();
        let answer = self.post(url, token, body).await;
        let millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        match answer {
            Ok(status) => Sent {
                status: Some(status),
                millis,
                error: None,
            },
            Err(error) => Sent {
                status: None,
                millis,
                error: Some(error),
            },
        }
    }

    async fn post(&self, url: &str, token: &Token, body: Vec<u8>) -> Result<u16, String> {
        if url.is_empty() {
            return Err("there is no address for webhooks".to_owned());
        }
        let signature = token.sign(&body);
        let mut url = reqwest::Url::parse(url).map_err(|error| error.to_string())?;
        let parameter = format!("{SIGNATURE_PARAMETER}={}", percent_encoded(&signature));
        let query = match url.query() {
            Some(query) if !query.is_empty() => format!("{query}&{parameter}"),
            _ => parameter,
        };
        url.set_query(Some(&query));
        let client = match url.scheme() {
            "https" => like_chatwork().build().map_err(told)?,
            _ => self.near.clone(),
        };
        client
            .post(url)
            .header("content-type", "application/json")
            .header(SIGNATURE, signature)
            .body(body)
            .send()
            .await
            .map(|answer| answer.status().as_u16())
            .map_err(told)
    }
}

fn like_chatwork() -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .user_agent(USER_AGENT)
        .timeout(PATIENCE)
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
}

/// Sends one webhook; whoever sends many keeps a [`Courier`].
pub async fn send(url: &str, token: &Token, body: Vec<u8>) -> Result<Sent, NoCourier> {
    Ok(Courier::new()?.deliver(url, token, body).await)
}

/// The signature in a query, with the lower-case hex digits that Chatwork writes.
fn percent_encoded(signature: &str) -> String {
    signature
        .replace('+', "%2b")
        .replace('/', "%2f")
        .replace('=', "%3d")
}

/// A failure with its causes, without the address, which has the signature in it.
fn told(error: reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("no answer within {} s", PATIENCE.as_secs());
    }
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use chickwork_chatwork::webhook::Webhook;

    use super::*;

    fn message_id(text: &str) -> MessageId {
        MessageId::new(text).expect("a message id")
    }

    /// A real webhook of January 2018, published with its token and signature by the gem
    /// chatwork_webhook_verify.
    #[test]
    fn a_mention_is_byte_for_byte_like_a_real_one() {
        let hook = Hook {
            kind: Kind::MentionToMe,
            setting_id: "581".to_owned(),
            event_time: 1_516_629_767,
            room_id: RoomId(93_207_172),
            message_id: message_id("1007287971738591232"),
            author: AccountId(2_861_671),
            addressee: AccountId(2_739_132),
            body: "[rp aid=2739132 to=93207172-1007287785163345920] sue445\ntest".to_owned(),
            send_time: 1_516_629_766,
            update_time: 0,
        };
        let token = Token::parse("iY/hmitgwCBlc5DnjAZ8pyRG1HF0zFflfmKmtCDg1wk=").expect("a token");
        let signature = token.sign(&hook.json());
        assert_eq!(signature, "NTIUzbXiwLvM7C/MT3Kd75Lw1w2N5tyWtcEieKiqhY0=");
        assert_eq!(
            percent_encoded(&signature),
            "NTIUzbXiwLvM7C%2fMT3Kd75Lw1w2N5tyWtcEieKiqhY0%3d"
        );
        // So is one that is made of a message that was found in its room.
        let webhook = Webhook::parse(&hook.json()).expect("a webhook");
        let message = webhook.happening.message().expect("a message");
        let made = message.as_mention_of(hook.addressee, &hook.setting_id, hook.event_time);
        assert_eq!(String::from_utf8(made), String::from_utf8(hook.json()));
    }

    #[test]
    fn a_message_has_its_author_under_another_name() {
        let hook = Hook {
            kind: Kind::MessageCreated,
            setting_id: "1".to_owned(),
            event_time: 1_700_000_003,
            room_id: RoomId(123_456_789),
            message_id: message_id("1800000000000000001"),
            author: AccountId(1_234_567),
            addressee: AccountId(7_654_321),
            body: "[To:7654321]Bot さん\nxin chào 😀".to_owned(),
            send_time: 1_700_000_000,
            update_time: 0,
        };
        assert_eq!(
            String::from_utf8(hook.json()).expect("text"),
            r#"{"webhook_setting_id":"1","webhook_event_type":"message_created","webhook_event_time":1700000003,"webhook_event":{"message_id":"1800000000000000001","room_id":123456789,"account_id":1234567,"body":"[To:7654321]Bot さん\nxin chào 😀","send_time":1700000000,"update_time":0}}"#
        );
    }

    #[test]
    fn a_tag_for_the_bot_makes_a_mention() {
        let bot = AccountId(7);
        for body in ["[To:7] Hi", "a\n[rp aid=7 to=1-2]", "[返信 aid=7 to=1-2]"] {
            assert_eq!(Kind::of(body, bot), Kind::MentionToMe, "{body}");
        }
        for body in ["Hi", "[To:77] Hi", "[rp aid=8 to=7-7]", "[toall] Hi"] {
            assert_eq!(Kind::of(body, bot), Kind::MessageCreated, "{body}");
        }
    }
}
