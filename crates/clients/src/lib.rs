//! The two outside services, Chatwork and SimSimi, over HTTP.
//!
//! A call answers with facts: what the service said, or how the call failed. What to do about it
//! (retry, pause, give up) is the worker's policy and deliberately not here; no call is ever
//! repeated by this crate. Every call is bounded in time ([`Patience`]) and in bytes.
//!
//! A TLS provider must be installed in the process before a client is made.

pub mod chatwork;
mod http;
mod proxy;
pub mod simsimi;

pub use http::{BadClient, Patience};
pub use proxy::proxy;
