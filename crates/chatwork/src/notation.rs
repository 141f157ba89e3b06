//! Message notation: the tags in a message's text, read and written.
//!
//! - `parse`: text into [`Notation`], a list of nodes.
//! - `address`: whom it addresses ([`Notation::address_of`]), whether a person wrote it.
//! - `said`: what is left for a reply engine ([`what_was_said`], [`cut`]).
//! - `reply`: text from elsewhere made harmless ([`neutralise`]) and sent back ([`reply()`]).
//!
//! Source: Chatwork API Documentation, "Message notation"; for the tags that are not in it, what
//! Chatwork's client writes.

mod address;
mod parse;
mod reply;
mod said;

pub use address::{Address, replies_to};
pub use parse::{Block, Kind, Node, Notation, Tag};
pub use reply::{MAX_MESSAGE_BYTES, neutralise, reply};
pub use said::{cut, what_was_said};
