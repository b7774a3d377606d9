//! Whether a call is a repeat of one that was made already. Gives the proof that a call is none: [`Fresh`].
//!
//! Owns: what makes two calls the same (`named`), what is kept of a call so that its repeat does not act again, and what a repeat of it finds
//! (`store`). Leaves to others: the rows in the database (`state`), the wait and the words for the agent (`gateway`).
//!
//! A call has a name where its manifest says which calls are the same, or its caller gives it a key. A named call is in one of these states; all
//! but the first two outlive the process:
//!
//! ```text
//! free -> claimed -> leaves -> ends: result or error stored | key free, since nothing was done | unknown
//!                       ^  |
//!                       +--+ asks the agent
//! ```
//!
//! INVARIANT: of the calls of one name, one at most is between its claim and its end, and its row is in the database before its intent.
//! INVARIANT: a call that may have acted and whose end nobody knows never runs again while it is known, unless its repeat is declared harmless
//! and somebody was told; a person, or the end of its time, forgets it.
//! INVARIANT: a result is stored sealed, for this name and contents only, and expires.
//! INVARIANT: a call that has no name takes no lock and asks no database.

mod found;
mod named;
mod packed;
mod store;

pub use self::found::{Ended, Evidence, Found, Free, Left, Stored, Unkept};
pub use self::named::{By, Named, is_named};
pub use self::store::{Claim, Claimed, Held, Replays};
use crate::error::{Code, Error};
use crate::limit::Admission;

/// A call that limits admit and that is no repeat. Only [`fresh`] makes one:
///
/// ```compile_fail,E0423
/// fn forged(admission: doorward::limit::Admission<'_>) -> doorward::replay::Fresh<'_> {
///     doorward::replay::Fresh(admission)
/// }
/// ```
#[derive(Debug)]
pub struct Fresh<'d>(Admission<'d>);

impl<'d> Fresh<'d> {
    /// The call that is admitted.
    pub fn admission(&self) -> &Admission<'d> {
        &self.0
    }
}

/// Lets a call on that has no name, or whose name it holds.
///
/// # Errors
/// `internal` where it has one and does not hold it.
pub fn fresh<'d>(admission: Admission<'d>, held: Option<&Held>) -> Result<Fresh<'d>, Error> {
    let invocation = admission.invocation();
    let may_go = held.map_or(!is_named(invocation), |held| held.is_for(invocation));
    if may_go { Ok(Fresh(admission)) } else { Err(Error::new(Code::Internal, "nobody has looked whether the call is a repeat")) }
}
