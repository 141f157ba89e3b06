//! The bytes of a reply in the queue: versioned JSON, `{"v":1,…}`.
//!
//! Owner of the format: this file; frozen examples: `tests/data/reply.v1.json`, and with what was added
//! since then `reply.v1.again.json` of a later round and `reply.v1.written_at.json`.

use serde::{Deserialize, Serialize};

use crate::job::Reply;

/// Why stored bytes are not a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NotAReply {
    /// Written by a newer release.
    Newer(u32),
    /// Not a reply of any release.
    Malformed(String),
}

#[derive(Serialize)]
struct Written<'a> {
    v: u32,
    #[serde(flatten)]
    reply: &'a Reply,
}

#[derive(Deserialize)]
struct Version {
    v: u32,
}

/// Writes a reply in today's version.
pub(crate) fn encode(reply: &Reply) -> Vec<u8> {
    let written = Written {
        v: Reply::VERSION,
        reply,
    };
    serde_json::to_vec(&written).expect("a reply has no map with keys that are not strings")
}

/// Reads a reply of any version up to today's.
pub(crate) fn decode(bytes: &[u8]) -> Result<Reply, NotAReply> {
    let malformed = |error: serde_json::Error| NotAReply::Malformed(error.to_string());
    let version = serde_json::from_slice::<Version>(bytes).map_err(malformed)?;
    if version.v > Reply::VERSION {
        return Err(NotAReply::Newer(version.v));
    }
    serde_json::from_slice(bytes).map_err(malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FROZEN: &str = include_str!("../tests/data/reply.v1.json");
    const FROZEN_OF_A_ROUND: &str = include_str!("../tests/data/reply.v1.again.json");
    const FROZEN_WITH_AGE: &str = include_str!("../tests/data/reply.v1.written_at.json");

    #[test]
    fn the_frozen_replies_of_version_1_are_read_and_written_as_they_are() {
        for (frozen, is_of_a_round, tells_age) in [
            (FROZEN, false, false),
            (FROZEN_OF_A_ROUND, true, false),
            (FROZEN_WITH_AGE, false, true),
        ] {
            let reply = decode(frozen.trim().as_bytes()).expect("the frozen example is a reply");
            assert_eq!(String::from_utf8_lossy(&encode(&reply)), frozen.trim());
            assert_eq!(reply.again.is_some(), is_of_a_round);
            assert_eq!(reply.written_at.is_some(), tells_age);
        }
    }

    #[test]
    fn a_reply_of_a_newer_version_is_told_apart_from_garbage() {
        assert_eq!(decode(br#"{"v":2,"else":true}"#), Err(NotAReply::Newer(2)));
        assert!(matches!(decode(b"{}"), Err(NotAReply::Malformed(_))));
        assert!(matches!(decode(b"\xff"), Err(NotAReply::Malformed(_))));
    }
}
