//! SimSimi's SmallTalk API under `/190410/talk`, with small talk of its own.
//!
//! What it says depends on the text alone, so that a test can foresee it: [`small_talk`] tells, and
//! `echo WORDS` is answered with `WORDS`.

use actix_web::{HttpRequest, HttpResponse, web};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::fault::happen::{self, Ended};
use crate::fault::{Call, Service};
use crate::ledger::Asked;
use crate::state::{State, pass};

pub(crate) fn routes(config: &mut web::ServiceConfig) {
    // Some of the official samples have the slash at the end.
    for path in ["/190410/talk", "/190410/talk/"] {
        config.route(path, web::post().to(talk));
    }
}

/// One call of SimSimi, from the request to the note in the ledger.
async fn talk(request: HttpRequest, body: web::Bytes, state: web::Data<State>) -> HttpResponse {
    let time = Timestamp::now();
    let asked: Value = serde_json::from_slice(&body).unwrap_or_default();
    let argument = |name: &str| asked.get(name)?.as_str().map(str::to_owned);
    let utext = argument("utext");
    let lang = argument("lang");
    let key = request.headers().get("x-api-key");
    let key_fits = key.is_some_and(|key| key.as_bytes() == state.settings.api_key.as_bytes());
    let spoken = if key_fits {
        answer(utext.as_deref(), lang.as_deref())
    } else {
        Spoken::error(403, "Unauthorized")
    };

    pass(state.settings.simsimi_takes).await;
    let fault = state
        .faults()
        .take(Service::Simsimi, Some(Call::Talk), None);
    let ended = happen::under(fault, || spoken.response(&asked)).await;

    let (status, atext, answer) = match ended {
        Ended::Served(response) => (Some(spoken.status), spoken.atext, Ok(response)),
        Ended::Broken(response) => (Some(response.status().as_u16()), None, Ok(response)),
        Ended::Lost(loss) => (None, None, Err(loss)),
    };
    let length = utext.as_deref().map_or(0, |text| text.chars().count());
    state.note(|ledger| {
        ledger.asked(Asked {
            n: 0,
            time,
            utext,
            length,
            lang,
            status,
            atext,
        });
    });
    match answer {
        Ok(response) => response,
        Err(loss) => loss.befall(&request).await,
    }
}

/// What SimSimi says. Its own status is in the body; that of HTTP is always 200.
struct Spoken {
    status: u16,
    words: &'static str,
    atext: Option<String>,
}

impl Spoken {
    fn error(status: u16, words: &'static str) -> Self {
        Self {
            status,
            words,
            atext: None,
        }
    }

    fn response(&self, request: &Value) -> HttpResponse {
        let mut body = json!({
            "status": self.status,
            "statusMessage": self.words,
            "request": request,
        });
        if let Some(atext) = &self.atext {
            body["atext"] = json!(atext);
            body["lang"] = request["lang"].clone();
        }
        HttpResponse::Ok().json(body)
    }
}

fn answer(utext: Option<&str>, lang: Option<&str>) -> Spoken {
    let (Some(utext), Some(lang)) = (utext, lang) else {
        return Spoken::error(227, "Parameter Required");
    };
    if utext.trim().is_empty() || lang.is_empty() {
        return Spoken::error(227, "Parameter Required");
    }
    match small_talk(utext, lang) {
        Some(words) => Spoken {
            status: 200,
            words: "Ok",
            atext: Some(words),
        },
        None => Spoken::error(228, "Do Not Understand"),
    }
}

/// What this SimSimi answers to a text: the rest after `echo `, nothing (228) to a text without a
/// letter or digit, else one of its sentences in Vietnamese (`vn`), Japanese (`ja`) or English.
pub fn small_talk(utext: &str, lang: &str) -> Option<String> {
    if let Some(rest) = utext.strip_prefix("echo ") {
        return Some(rest.to_owned());
    }
    if !utext.chars().any(char::is_alphanumeric) {
        return None;
    }
    let sentences = match lang {
        "vn" => VIETNAMESE,
        "ja" => JAPANESE,
        _ => ENGLISH,
    };
    let place = hash(utext) % sentences.len() as u64;
    usize::try_from(place)
        .ok()
        .and_then(|place| sentences.get(place))
        .map(|sentence| (*sentence).to_owned())
}

/// FNV-1a: the same for ever, unlike the standard library's.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

const VIETNAMESE: &[&str] = &[
    "Chíp chíp! Hôm nay bạn ăn cơm chưa?",
    "Mình là gà con, mình chỉ biết kêu chíp chíp thôi.",
    "Deadline hả? Mình tưởng là món ăn mới.",
    "Trời ơi, hỏi khó vậy ai mà trả lời được!",
    "Đi uống trà sữa không? Bạn trả tiền nha.",
    "Mình nghĩ là có, nhưng mẹ gà bảo không.",
    "Họp nữa hả? Thôi mình đi ngủ đây.",
    "Bạn nói đúng! Mà bạn vừa nói gì vậy?",
    "Hahaha, câu này mình cười rụng cả lông.",
    "Bug đó không phải của mình, mình chưa nở lúc đó mà.",
    "Cho mình một hạt thóc rồi mình nói cho.",
    "Mai tính, mai tính. Hôm nay nắng đẹp quá.",
    "Mình thích bạn, nhưng mình thích thóc hơn.",
    "Chạy trên máy mình thì vẫn bình thường mà!",
];

const JAPANESE: &[&str] = &[
    "ピヨピヨ!今日はもうご飯食べた?",
    "ぼくはひよこだから、難しいことはわからないよ。",
    "締め切り?それっておいしいの?",
    "その質問はニワトリになってから答えるね。",
    "会議が多すぎて羽が抜けそう。",
    "うんうん、わかる。で、なんの話だっけ?",
    "ぼくのパソコンでは動いたよ!",
    "そのバグはぼくが卵のころからあるよ。",
    "お米をくれたら教えてあげる。",
    "明日から本気出すピヨ。",
    "今日は天気がいいから散歩しよう。",
    "笑いすぎて殻に戻りそう。",
    "とりあえずお茶にしよう。",
    "なるほど、つまり焼き鳥は禁止だね。",
];

const ENGLISH: &[&str] = &[
    "Cheep cheep! Had lunch yet?",
    "I am a chick. My advice is corn.",
    "A deadline? Sounds delicious.",
    "Ask me again when I am a hen.",
    "Another meeting? I am going back into my egg.",
    "You are right! What did you say?",
    "It works on my farm.",
    "That bug is older than me, and I am three days old.",
    "One grain of rice and I will tell you.",
    "Let us decide tomorrow. The sun is out.",
    "I like you, but I like corn more.",
    "I laughed so hard I lost a feather.",
    "Have you tried turning the coop off and on again?",
    "My mother told me not to talk to production.",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_text_has_the_same_answer_and_other_texts_have_others() {
        assert_eq!(small_talk("hello", "en"), small_talk("hello", "en"));
        for lang in ["vn", "ja", "en", "fr"] {
            let answers: std::collections::HashSet<_> = (0..100)
                .filter_map(|n| small_talk(&format!("text {n}"), lang))
                .collect();
            assert!(answers.len() > 10, "{lang}");
        }
        assert_ne!(small_talk("xin chào", "vn"), small_talk("xin chào", "ja"));
    }

    #[test]
    fn some_texts_are_foreseen() {
        assert_eq!(
            small_talk("echo [To:1] hi", "vn").as_deref(),
            Some("[To:1] hi")
        );
        for nothing in ["???", "…", "😀", "  !"] {
            assert_eq!(small_talk(nothing, "en"), None, "{nothing}");
        }
    }

    #[test]
    fn both_parameters_are_required() {
        for (utext, lang) in [
            (None, Some("vn")),
            (Some("a"), None),
            (Some(" "), Some("vn")),
        ] {
            assert_eq!(answer(utext, lang).status, 227);
        }
        assert_eq!(answer(Some("???"), Some("vn")).status, 228);
        assert_eq!(answer(Some("a"), Some("vn")).status, 200);
    }
}
