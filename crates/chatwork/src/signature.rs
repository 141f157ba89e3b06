//! The proof that a webhook comes from Chatwork: Base64 of HMAC-SHA256 over the raw body, keyed with
//! the Base64-decoded token of the webhook setting.
//!
//! The only way to a [`Verified`] body is [`Tokens::verify`]. Source: Chatwork API Documentation,
//! "Webhook", "Verifying the signature".

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use subtle::{Choice, ConstantTimeEq as _};

/// The token of one webhook setting, as its edit screen shows it: a key in standard Base64.
#[derive(Clone)]
pub struct Token(Hmac<Sha256>);

/// The text is not a webhook token. Says nothing of what was given, because that is a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAToken {
    /// Nothing there, or nothing between two commas.
    #[error("a webhook token is empty")]
    Empty,
    /// Copied in part, or something else, for instance an API token.
    #[error("a webhook token is not standard Base64; copy it whole from the webhook's edit screen")]
    NotBase64,
}

impl Token {
    /// How many characters Chatwork's own tokens have: Base64 of 32 bytes. Others are tokens as well.
    pub const USUAL_LENGTH: usize = 44;

    /// Decodes a token: strict standard Base64 with padding, at least one byte.
    pub fn parse(text: &str) -> Result<Self, NotAToken> {
        let key = BASE64_STANDARD
            .decode(text)
            .map_err(|_| NotAToken::NotBase64)?;
        if key.is_empty() {
            return Err(NotAToken::Empty);
        }
        let keyed = Hmac::new_from_slice(&key).expect("HMAC takes keys of any length");
        Ok(Self(keyed))
    }

    /// The signature that Chatwork would send with this body: 44 characters of Base64.
    pub fn sign(&self, body: &[u8]) -> String {
        let digest = self.0.clone().chain_update(body).finalize().into_bytes();
        BASE64_STANDARD.encode(digest)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(secret)")
    }
}

/// The tokens that are believed, at least one: every webhook setting has its own, and while one is
/// being rotated the old and the new are both good.
#[derive(Debug, Clone)]
pub struct Tokens(Vec<Token>);

/// No token explains the signature: the event does not come from Chatwork, or the token is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not match the body under any webhook token")]
pub struct Refused;

impl Tokens {
    /// One token or several with commas between; spaces around a token are dropped.
    pub fn parse(text: &str) -> Result<Self, NotAToken> {
        text.split(',')
            .map(|token| Token::parse(token.trim()))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Takes the body for Chatwork's if one of the tokens gives this signature, which comes as in
    /// the header `x-chatworkwebhooksignature` (the query parameter has to be decoded before).
    ///
    /// Takes the same time whichever token fits and however much of the signature is right.
    pub fn verify(&self, body: Bytes, signature: &str) -> Result<Verified, Refused> {
        // The encoded forms are compared, so that exactly one spelling of a signature is good.
        let matches = |token: &Token| token.sign(&body).as_bytes().ct_eq(signature.as_bytes());
        let any = self
            .0
            .iter()
            .map(matches)
            .fold(Choice::from(0), |any, one| any | one);
        if any.into() {
            Ok(Verified(body))
        } else {
            Err(Refused)
        }
    }
}

/// The body of a webhook that Chatwork signed, byte for byte as it came. Made by
/// [`Tokens::verify`] alone.
#[derive(Clone, PartialEq, Eq)]
pub struct Verified(Bytes);

impl Verified {
    /// The bytes that were signed.
    pub fn body(&self) -> &Bytes {
        &self.0
    }
}

impl fmt::Debug for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The body holds what people wrote; its length is enough to debug with.
        write!(f, "Verified({} bytes)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A real webhook of January 2018, published in the tests of the gem `chatwork_webhook_verify`.
    const PUBLISHED: Example = Example {
        token: "iY/hmitgwCBlc5DnjAZ8pyRG1HF0zFflfmKmtCDg1wk=",
        body: r#"{"webhook_setting_id":"581","webhook_event_type":"mention_to_me","webhook_event_time":1516629767,"webhook_event":{"from_account_id":2861671,"to_account_id":2739132,"room_id":93207172,"message_id":"1007287971738591232","body":"[rp aid=2739132 to=93207172-1007287785163345920] sue445\ntest","send_time":1516629766,"update_time":0}}"#,
        signature: "NTIUzbXiwLvM7C/MT3Kd75Lw1w2N5tyWtcEieKiqhY0=",
    };

    /// Made up; an accent, an emoji, and `+` and `/` in the signature.
    const MADE_UP: Example = Example {
        token: "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
        body: r#"{"webhook_setting_id":"1","webhook_event_type":"message_created","webhook_event_time":1700000003,"webhook_event":{"message_id":"1800000000000000001","room_id":123456789,"account_id":1234567,"body":"[To:7654321]Bot さん\nxin chào 😀","send_time":1700000000,"update_time":0}}"#,
        signature: "Je4sTVuKXkX3+a0JcqLAVxmiTiAN8/UqPs+AxJ/cJuw=",
    };

    struct Example {
        token: &'static str,
        body: &'static str,
        signature: &'static str,
    }

    fn tokens(text: &str) -> Tokens {
        Tokens::parse(text).expect("a good token")
    }

    fn verify(tokens: &Tokens, body: &'static str, signature: &str) -> Result<Verified, Refused> {
        tokens.verify(Bytes::from_static(body.as_bytes()), signature)
    }

    #[test]
    fn a_signature_by_chatwork_is_believed_and_the_body_stays_as_it_is() {
        for example in [PUBLISHED, MADE_UP] {
            let token = Token::parse(example.token).expect("a good token");
            assert_eq!(token.sign(example.body.as_bytes()), example.signature);
            let verified = verify(&tokens(example.token), example.body, example.signature);
            assert_eq!(verified.expect("authentic").body(), example.body);
        }
    }

    #[test]
    fn the_examples_are_the_documented_ones_byte_for_byte() {
        assert_eq!(PUBLISHED.body.len(), 329);
        assert_eq!(MADE_UP.body.len(), 278);
    }

    #[test]
    fn other_signatures_of_the_published_body_are_refused() {
        let tokens = tokens(PUBLISHED.token);
        for (wrong, signature) in [
            ("the gem's own example", "AAAAAAAAA"),
            (
                "token not decoded",
                "lUU9XJPoNaDUJr1erAQ86S3N16WU3p7EAXtMlO6bwt8=",
            ),
            (
                "real line feed",
                "qRq18JhXAg282TINGAOd1iMIblB23ogGjJqNNPTn6Vc=",
            ),
            (
                "extra line feed",
                "Q1EiaPLt6kePokhgytcxHRbhYtFvUtgjdcPk2AmLaxY=",
            ),
            (
                "serialised again",
                "AriEuEQcGgctYHnSOYOrun7wW91P+2yLQz1k3Q7cFYE=",
            ),
            ("empty body", "u5TLnfHjPO0nh4ehSUzxXT01ZMRkclc0GllSB7CPhuI="),
            (
                "hex",
                "353214cdb5e2c0bbccec2fcc4f729def92f0d70d8de6dc96b5c12278a8aa858d",
            ),
            ("nothing", ""),
            (
                "padding lost",
                "NTIUzbXiwLvM7C/MT3Kd75Lw1w2N5tyWtcEieKiqhY0",
            ),
            (
                "other bits after the end",
                "NTIUzbXiwLvM7C/MT3Kd75Lw1w2N5tyWtcEieKiqhY1=",
            ),
            (
                "URL alphabet",
                "NTIUzbXiwLvM7C_MT3Kd75Lw1w2N5tyWtcEieKiqhY0=",
            ),
            (
                "space around",
                " NTIUzbXiwLvM7C/MT3Kd75Lw1w2N5tyWtcEieKiqhY0=",
            ),
            (
                "still percent-encoded",
                "NTIUzbXiwLvM7C%2FMT3Kd75Lw1w2N5tyWtcEieKiqhY0%3D",
            ),
            ("other body's", MADE_UP.signature),
        ] {
            assert_eq!(
                verify(&tokens, PUBLISHED.body, signature),
                Err(Refused),
                "{wrong}"
            );
        }
    }

    /// The wrong signatures above are wrong for the reason they name.
    #[test]
    fn each_usual_mistake_gives_the_signature_known_for_it() {
        let sign = |body: &str| {
            let token = Token::parse(PUBLISHED.token).expect("a good token");
            token.sign(body.as_bytes())
        };
        let undecoded = Hmac::new_from_slice(PUBLISHED.token.as_bytes()).map(Token);
        assert_eq!(
            undecoded.expect("any key").sign(PUBLISHED.body.as_bytes()),
            "lUU9XJPoNaDUJr1erAQ86S3N16WU3p7EAXtMlO6bwt8="
        );
        assert_eq!(
            sign(&PUBLISHED.body.replace(r"\n", "\n")),
            "qRq18JhXAg282TINGAOd1iMIblB23ogGjJqNNPTn6Vc="
        );
        assert_eq!(
            sign(&format!("{}\n", PUBLISHED.body)),
            "Q1EiaPLt6kePokhgytcxHRbhYtFvUtgjdcPk2AmLaxY="
        );
        assert_eq!(
            sign(&PUBLISHED.body.replace("\":", "\": ").replace(",\"", ", \"")),
            "AriEuEQcGgctYHnSOYOrun7wW91P+2yLQz1k3Q7cFYE="
        );
        assert_eq!(sign(""), "u5TLnfHjPO0nh4ehSUzxXT01ZMRkclc0GllSB7CPhuI=");
    }

    #[test]
    fn each_of_several_tokens_is_good() {
        let both = tokens(&format!("{}, {}", PUBLISHED.token, MADE_UP.token));
        for example in [PUBLISHED, MADE_UP] {
            assert!(verify(&both, example.body, example.signature).is_ok());
        }
        assert!(verify(&both, PUBLISHED.body, MADE_UP.signature).is_err());
    }

    #[test]
    fn what_is_not_standard_base64_is_not_a_token() {
        for (text, expected) in [
            ("", NotAToken::Empty),
            (" ", NotAToken::Empty),
            ("AAEC,", NotAToken::Empty),
            (",", NotAToken::Empty),
            ("AAE", NotAToken::NotBase64),
            ("AA_-", NotAToken::NotBase64),
            ("AB==", NotAToken::NotBase64),
            ("AAEC AAEC", NotAToken::NotBase64),
            ("AAEC,secret!", NotAToken::NotBase64),
        ] {
            assert_eq!(Tokens::parse(text).err(), Some(expected), "{text:?}");
        }
    }

    #[test]
    fn nothing_secret_is_printed() {
        let printed = format!("{:?}", tokens(PUBLISHED.token));
        assert_eq!(printed, "Tokens([Token(secret)])");
        let verified = verify(
            &tokens(PUBLISHED.token),
            PUBLISHED.body,
            PUBLISHED.signature,
        );
        assert_eq!(format!("{verified:?}"), "Ok(Verified(329 bytes))");
    }
}
