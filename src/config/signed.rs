//! `policy` of `doorward.yaml`: whose signatures the policy needs before it counts.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::payloads::Wrong;
use super::{Bound, Config, KeyText};

/// Whose signatures the files of `policies` need before they are loaded. Without keys they need none.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Signed {
    /// The public keys that sign policies, as `doorward policy keygen` prints them. Default none: any edit is loaded.
    pub signed_by: Vec<KeyText>,
    /// How many of these keys must have signed: 1 or 2, default 1. With 2 nobody changes the policy alone; manifests are not signed.
    pub signatures: Bound<1, 1, 2>,
}

impl Config {
    pub(super) fn check_signed(&self) -> Result<(), Wrong> {
        let Signed { signed_by, signatures } = &self.policy;
        let wrong = |path: &[&str], message: String, help| {
            let path = ["policy"].iter().chain(path).map(|part| (*part).to_owned()).collect();
            Err(Wrong { path, message, help })
        };
        // A key by another name is the same key: behind the second `+` stands what it is.
        let key = |at: usize| signed_by[at].as_str().splitn(3, '+').nth(2);
        if let Some(at) = (1..signed_by.len()).find(|at| (0..*at).any(|other| key(other) == key(*at))) {
            let help = "two signatures are those of two keys: name each once";
            return wrong(&["signed_by", &at.to_string()], format!("`{}` stands twice", signed_by[at].as_str()), help);
        }
        let needed = signatures.size();
        if needed > 1 && needed > signed_by.len() {
            let message = format!("`signatures: {needed}`, and `signed_by` names {} keys", signed_by.len());
            return wrong(&["signatures"], message, "name as many keys in `signed_by`: `doorward policy keygen NAME --out FILE` makes one");
        }
        Ok(())
    }
}
