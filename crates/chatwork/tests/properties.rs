//! What holds for every input, not only for the ones we thought of.

use bytes::Bytes;
use chickwork_chatwork::id::{AccountId, MessageId, RoomId};
use chickwork_chatwork::notation::{
    Address, MAX_MESSAGE_BYTES, Notation, cut, neutralise, replies_to, reply, what_was_said,
};
use chickwork_chatwork::signature::{Token, Tokens};
use chickwork_chatwork::webhook::Webhook;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// The bot's names in these tests, and what its messages are made of.
const NAMES: [&str; 3] = ["Chick", "ひよこ", "Gà Con"];

/// What notation, emoticons and names are made of, whole and in pieces.
const PIECES: &[&str] = &[
    "[",
    "]",
    "/",
    ":",
    " ",
    "\u{3000}",
    "\n",
    "\r\n",
    "\t",
    "\0",
    "=",
    "-",
    "[To:",
    "[To:1]",
    "[to:2]",
    "[To:x]",
    "[rp ",
    "[rp aid=1 to=2-3]",
    "[返信 aid=7 to=2-3]",
    "aid=1",
    "to=2-3",
    "rp",
    "[toall]",
    "[qt]",
    "[/qt]",
    "[qtmeta aid=7 time=1]",
    "[引用 aid=1 time=2]",
    "[/引用]",
    "[info]",
    "[/info]",
    "[title]",
    "[/title]",
    "[hr]",
    "[picon:1]",
    "[pname:1]",
    "[code]",
    "[/code]",
    "[url]",
    "[/url]",
    "[task aid=1 st=open lt=0]",
    "[task ",
    "[/task]",
    "[dtext:a]",
    "[preview id=1 ht=1]",
    "[preview ",
    "[download:1]",
    "[/download]",
    "[deleted]",
    ":)",
    ":D",
    ":o",
    ")",
    "(",
    "8-)",
    "8-|",
    "8",
    "-)",
    "(h)",
    "(y)",
    "(^",
    "^;)",
    "]:)",
    "|-)",
    ";",
    "Chick",
    "ひよこ",
    "Gà Con",
    "Ga\u{300} Con",
    "さん",
    "様",
    "san",
    "-",
    "田中",
    "は",
    "？",
    "a",
    "1",
    "e",
    "\u{301}",
    "\u{200d}",
    "\u{202e}",
    "👨",
    "😀",
];

fn soup() -> impl Strategy<Value = String> {
    let piece = prop_oneof![20 => select(PIECES).prop_map(str::to_owned), 1 => ".{0,3}"];
    vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![3 => soup(), 1 => any::<String>()]
}

fn message() -> MessageId {
    MessageId::new("3").expect("a digit is a message id")
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn parsing_loses_nothing(text in text()) {
        let notation = Notation::parse(&text);
        let joined: String = notation.nodes().iter().map(|node| node.source).collect();
        prop_assert_eq!(joined, text);
    }

    #[test]
    fn every_question_has_an_answer(text in text()) {
        let notation = Notation::parse(&text);
        let _ = notation.address_of(AccountId(7));
        let _ = notation.is_system_text_only();
        let _ = replies_to(&text, RoomId(2), &message());
    }

    #[test]
    fn what_was_said_is_one_line_without_tags(text in text()) {
        let said = what_was_said(&text, &NAMES);
        prop_assert!(Notation::parse(&said).is_plain());
        prop_assert!(!said.contains(char::is_control));
        prop_assert!(!said.contains("  "));
        prop_assert_eq!(said.trim(), &said);
    }

    #[test]
    fn cleaning_twice_is_cleaning_once(text in text()) {
        let said = what_was_said(&text, &NAMES);
        prop_assert_eq!(what_was_said(&said, &NAMES), said);
    }

    #[test]
    fn a_cut_is_a_beginning_within_the_limit(text in text(), limit in 0_usize..40) {
        let beginning = cut(&text, limit);
        prop_assert!(text.starts_with(beginning));
        prop_assert!(beginning.encode_utf16().count() <= limit);
        prop_assert!(beginning.chars().count() <= limit);
        prop_assert_eq!(cut(beginning, limit), beginning);
    }

    #[test]
    fn neutral_text_has_no_tags_and_stays_as_it_is(text in text()) {
        let neutral = neutralise(&text);
        prop_assert!(Notation::parse(&neutral).is_plain());
        prop_assert!(!neutral.contains('['));
        prop_assert!(!neutral.contains(|c: char| c.is_control() && c != '\n'));
        prop_assert_eq!(neutralise(&neutral), neutral);
    }

    #[test]
    fn a_reply_has_one_tag_which_is_ours(answer in text(), author: u64, room: u64, times in 1_usize..3000) {
        let body = reply(AccountId(author), RoomId(room), &message(), &answer.repeat(times));
        prop_assert!(body.len() <= MAX_MESSAGE_BYTES);
        prop_assert!(replies_to(&body, RoomId(room), &message()));
        let notation = Notation::parse(&body);
        prop_assert_eq!(notation.address_of(AccountId(author)), Address::Direct);
        prop_assert!(notation.nodes().len() <= 2);
    }

    #[test]
    fn any_bytes_are_a_webhook_or_malformed(bytes: Vec<u8>) {
        let _ = Webhook::parse(&bytes);
    }

    #[test]
    fn any_damage_to_a_webhook_is_survived(at in 0_usize..300, with in vec(any::<u8>(), 0..4)) {
        let good = br#"{"webhook_setting_id":"1","webhook_event_type":"message_created","webhook_event_time":1,"webhook_event":{"message_id":"1","room_id":1,"account_id":1,"body":"hi","send_time":1,"update_time":0}}"#;
        let at = at.min(good.len());
        let damaged = [&good[..at], &with, &good[(at + with.len()).min(good.len())..]].concat();
        if let Err(malformed) = Webhook::parse(&damaged) {
            prop_assert!(malformed.to_string().len() < 100);
        }
    }

    #[test]
    fn no_text_is_a_signature_but_the_right_one(
        signature in prop_oneof![any::<String>(), "[A-Za-z0-9+/]{43}=", "[ -~]{0,60}"],
        body in vec(any::<u8>(), 0..50),
    ) {
        let token = Token::parse("AAEC").expect("Base64");
        let tokens = Tokens::parse("AAEC,AwQF").expect("Base64");
        prop_assume!(signature != token.sign(&body));
        prop_assert!(tokens.verify(Bytes::from(body), &signature).is_err());
    }

    #[test]
    fn our_own_signature_is_believed_and_any_other_bit_is_not(
        key in vec(any::<u8>(), 1..80),
        body in vec(any::<u8>(), 1..200),
        at: prop::sample::Index,
        bit in 0_u32..8,
    ) {
        use base64::Engine as _;
        let text = base64::prelude::BASE64_STANDARD.encode(key);
        let token = Token::parse(&text).expect("Base64");
        let tokens = Tokens::parse(&text).expect("Base64");
        let body = Bytes::from(body);
        let signature = token.sign(&body);

        let verified = tokens.verify(body.clone(), &signature).expect("our own");
        prop_assert_eq!(verified.body(), &body);

        let mut changed = body.to_vec();
        changed[at.index(body.len())] ^= 1 << bit;
        prop_assert!(tokens.verify(changed.into(), &signature).is_err());

        // Seven bits, so that the changed signature is still ASCII.
        let mut changed = signature.into_bytes();
        let place = at.index(changed.len());
        changed[place] ^= 1 << (bit % 7);
        let changed = String::from_utf8(changed).expect("ASCII");
        prop_assert!(tokens.verify(body, &changed).is_err());
    }
}

/// Nothing overflows the stack or takes for ever, however often something opens and never closes.
/// The longest message has 65,535 characters.
#[test]
fn as_much_of_one_thing_as_a_message_can_hold_is_survived() {
    for piece in PIECES {
        let text = piece.repeat(65_535 / piece.chars().count());
        let notation = Notation::parse(&text);
        let joined: usize = notation.nodes().iter().map(|node| node.source.len()).sum();
        assert_eq!(joined, text.len(), "{piece:?}");
        let _ = notation.address_of(AccountId(7));
        assert!(cut(&what_was_said(&text, &NAMES), 100).chars().count() <= 100);
        assert!(!neutralise(&text).contains('['));
        assert!(reply(AccountId(1), RoomId(2), &message(), &text).len() <= MAX_MESSAGE_BYTES);
        assert!(!replies_to(&text, RoomId(9), &message()), "{piece:?}");
    }
}
