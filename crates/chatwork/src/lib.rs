//! Chatwork's formats: identifiers, webhook events, their signature, message notation.
//!
//! Pure: no I/O, no async, no clock, and nothing here panics on what the outside sends. The way of
//! an event through this crate, which is also the order in which to read it:
//!
//! 1. [`id`]: accounts, rooms and messages as types of their own.
//! 2. [`signature`]: bytes become [`Verified`](signature::Verified) when they were signed with one
//!    of our tokens; nothing else makes one.
//! 3. [`webhook`]: the bytes as an event of one of the documented types.
//! 4. [`notation`]: the text of a message. Whom does it address, what was said, and how is a reply
//!    written that is a reply and nothing else.

pub mod id;
pub mod notation;
pub mod signature;
pub mod webhook;
