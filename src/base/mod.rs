//! Ids, limits, errors, time and the other small things that every layer shares.

pub mod config;
pub mod error;
pub mod fatal;
#[cfg(test)]
pub(crate) mod golden;
pub mod hash;
pub mod ids;
pub mod limits;
pub mod logs;
pub mod prng;
pub mod time;
