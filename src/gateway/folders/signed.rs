//! Who vouches for a policy: a signed note beside its files, `bundle.sig`.
//!
//! ```text
//! doorward policy
//! sha256:HEX                     what the rows, conditions and limits say: `Policy::written`
//!
//! — alice BASE64                 a line for each who has signed, as in C2SP signed-note
//! ```
//! A signature says that this was meant to be in force once. It does not say that it is the newest: whoever can write to the folder can put back
//! what was signed before, as a rollback does.
//!
//! Owns: that file, and how many signatures are enough. Leaves to others: the form of a note (`audit::note`), when a policy is loaded (`folders`).

use std::path::Path;

use crate::audit::note::{Note, NoteError, Signer, VerifyingKey};
use crate::config::{Fault, Signed, read_text};

/// The name of the file with the signatures.
pub const SIGNATURES: &str = "bundle.sig";

/// What is signed of a policy.
fn text(written: &str) -> String {
    format!("doorward policy\n{written}\n")
}

/// Refuses a policy for which too few of those vouch who have to.
///
/// # Errors
/// What is missing.
pub fn vouched(policies: &Path, asked: &Signed, written: &str) -> Result<(), Fault> {
    if asked.signed_by.is_empty() {
        return Ok(());
    }
    let file = policies.join(SIGNATURES);
    let fault = |message: String| Fault::file(&file, message).help(HELP);
    let keys = asked.signed_by.iter().map(|key| key.as_str().parse::<VerifyingKey>());
    let keys = keys.collect::<Result<Vec<_>, _>>().map_err(|_wrong| fault("a key in `policy.signed_by` is none".to_owned()))?;
    let note = read_text(&file).map_err(|error| fault(format!("the policy is not signed: {error}")))?;
    let note = Note::parse(&note).map_err(|error| fault(error.to_string()))?;
    if note.unchecked_text() != text(written) {
        return Err(fault("what was signed is another policy than the one that is here now".to_owned()));
    }
    let signed = keys.iter().filter(|key| note.text(key).is_ok()).count();
    if signed < asked.signatures.size() {
        let names: Vec<_> = keys.iter().map(VerifyingKey::name).collect();
        let of = names.join("`, `");
        return Err(fault(format!("signatures of `policy.signed_by` (`{of}`): {signed}, and {} are needed", asked.signatures.size())));
    }
    Ok(())
}

/// The note with one more signature; those of another policy are left out.
///
/// # Errors
/// The key does not sign.
pub fn sign(signer: &Signer, written: &str, before: Option<&str>) -> Result<String, NoteError> {
    let text = text(written);
    let own = signer.sign(&text)?;
    let others = before.and_then(|before| {
        let note = Note::parse(before).ok().filter(|note| note.unchecked_text() == text)?;
        Some((note.text(signer.key()).is_ok(), before))
    });
    Ok(match others {
        None => own,
        Some((true, before)) => before.to_owned(),
        Some((false, before)) => format!("{before}{}", own.rsplit_once("\n\n").map_or("", |(_, lines)| lines)),
    })
}

const HELP: &str = "`doorward policy sign --key FILE` signs what is in the folder; until it is signed, what was in force stays in force";
