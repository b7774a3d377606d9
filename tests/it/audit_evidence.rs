//! What vouches for a log: whatever is changed in it is found and named, what cannot be seen is told, and one record is proved by itself.

pub mod fuzz;
mod maker;
mod proofs;
mod sound;
mod tamper;
mod vectors;
