//! Text that is looked for in messages. Whoever has read one on a screen has seen it without tags and on
//! one line, and types it with a keyboard that may compose accents in another way: none of that matters.

use chickwork_chatwork::notation::what_was_said;
use unicode_normalization::UnicodeNormalization as _;

/// A text that is looked for, in whatever case, spacing and composition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sought(String);

impl Sought {
    /// This text.
    pub fn new(text: &str) -> Self {
        Self(folded(text))
    }

    /// Whether nothing is left to look for.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it is in a message, as that was written or as people are shown it.
    pub(crate) fn is_in_message(&self, body: &str) -> bool {
        self.is_in(body) || self.is_in(&what_was_said(body, &[]))
    }

    /// Whether it is in whatever text.
    pub(crate) fn is_in(&self, text: &str) -> bool {
        folded(text).contains(&self.0)
    }
}

/// What counts of a text.
fn folded(text: &str) -> String {
    let is_space = |c: char| c.is_whitespace() || c.is_control();
    let words: Vec<&str> = text
        .split(is_space)
        .filter(|word| !word.is_empty())
        .collect();
    let composed: String = words.join(" ").nfc().collect();
    // A letter may have none but a decomposed lower case.
    composed.to_lowercase().nfc().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_see_of_a_message_is_found_in_it() {
        let body = "[To:7]Chickwork\nHôm nay  ăn gì? [code]a\r\nb[/code] tho\u{302}i";
        for (sought, is_there) in [
            ("hôm nay ăn gì", true),
            ("HÔM NAY ĂN", true),
            ("chickwork hôm", true),
            ("[to:7]chickwork hôm", true),
            // Decomposed, where the message is composed, and the other way round.
            ("ho\u{302}m", true),
            ("thôi", true),
            ("gì? a b thôi", true),
            ("a\nb", true),
            (" ăn\tgì ", true),
            ("hom nay", false),
            ("ăngì", false),
            ("[to:8]", false),
        ] {
            let found = Sought::new(sought).is_in_message(body);
            assert_eq!(found, is_there, "{sought:?}");
        }
        assert!(Sought::new("i\u{307}stanbul").is_in("İSTANBUL"));
    }
}
