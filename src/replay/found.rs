//! What a repeat finds, and what is said of a call's end: words between the store and the path.

use crate::limit::slots::Full;
use crate::mcp::respond::CallResult;

/// What is known of the call that a repeat is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// Its invocation.
    pub call: Box<str>,
    /// When it was about to leave, in seconds since 1970; `None` where it has not come so far.
    pub began: Option<i64>,
    /// When it ended, in seconds since 1970, where that is known.
    pub ended: Option<i64>,
    /// The code that it ended with, or why its result is not kept.
    pub code: Option<Box<str>>,
}

/// A stored result.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The call that had it.
    pub evidence: Evidence,
    /// The result, as it was relayed.
    pub result: CallResult,
}

/// What a repeat finds.
#[derive(Clone, Debug)]
pub enum Found {
    /// Nothing: it is none, and may be made.
    Free(Free),
    /// The result.
    Done(Box<Stored>),
    /// The call has ended, and its result is not kept.
    Unkept(Evidence),
    /// The call has ended, and its result was let out under other rows than those that redact it now.
    Redacted(Evidence),
    /// The call runs in another process.
    Runs(Evidence),
    /// The call waits for its agent's answers.
    Asks(Evidence),
    /// Nobody knows how the call has ended.
    Unknown(Evidence),
    /// The key stands for another call.
    Other(Evidence),
}

/// How a call may be made that is no repeat.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Free {
    /// Whether it goes on with answers.
    pub(super) continues: bool,
    /// The invocation whose row it may take the place of.
    pub(super) over: Option<Box<str>>,
}

/// What came of a call that wants to leave.
#[derive(Clone, Debug)]
pub enum Left {
    /// It may.
    Gone,
    /// Another process was faster.
    Meanwhile(Found),
    /// As many calls are known as may be, of this agent or in all.
    Full(Full),
}

/// How a call has ended.
#[derive(Clone, Debug)]
pub enum Ended {
    /// Nothing was done.
    Nothing,
    /// It waits for its agent's answers; whether they come with a state that names it.
    Asks {
        /// Else they come with a call that looks like another one.
        with_state: bool,
    },
    /// Nobody knows; with the code, and whether its agent was told.
    Unknown(&'static str, bool),
    /// With a result.
    Result(CallResult),
    /// It was done, and its result could not be given: with the code.
    Failed(&'static str),
}

/// Why a repeat will not get the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unkept {
    /// It is larger than what is kept.
    TooLarge,
    /// There is no room.
    NoRoom,
}

impl Unkept {
    /// The word for agents and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::NoRoom => "no_room",
        }
    }
}
