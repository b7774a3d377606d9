//! The log as its users rely on it: what is acknowledged is there, what is refused is not, and every intent has one end.

mod checkpoints;
mod crashes;
mod faults;
mod fuzz;
mod retention;
mod rotation;
mod support;
mod tamper;
mod writer;
