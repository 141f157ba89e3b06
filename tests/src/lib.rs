//! The harness of the conformance suite and of the end-to-end stories: RabbitMQ nodes, processes
//! of the real binary, the sandbox, and ways to wait for what a person would see.

pub mod balancer;
pub mod bot;
pub mod disk;
pub mod door;
pub mod gate;
pub mod process;
pub mod rabbitmq;
pub mod said;
pub mod stack;
pub mod stage;
pub mod storm;
pub mod story;
