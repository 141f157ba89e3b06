//! Stand-ins for Chatwork and SimSimi, for tests, demos and development: they behave as the two
//! services are documented, obey the real limits, remember everything, and misbehave on command.
//!
//! One address serves it all: Chatwork under `/v2`, SimSimi under `/190410`, and the controls
//! `POST /say`, `GET /ledger`, `POST /faults`. In a program, [`Sandbox`] offers the same directly.
//! Nothing here is shared with the code that it stands against, except ids and the signature.
//!
//! A TLS provider must be installed in the process before a sandbox is started.

mod chatwork;
mod connection;
mod control;
pub mod fault;
pub mod ledger;
mod sandbox;
mod simsimi;
mod state;
pub mod town;
pub mod webhook;
mod window;

pub use sandbox::{
    DEMO_API_KEY, DEMO_API_TOKEN, DEMO_WEBHOOK_TOKEN, Sandbox, Say, Settings, StartError,
};
pub use simsimi::small_talk;
