//! `approvals.webhook` of `doorward.yaml`: where it is told that a call waits for people, and what became of it.
//!
//! INVARIANT: a secret stands in the environment or in a file of its own, never in this one.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::payloads::Wrong;
use super::{Bound, Config, read_text};
use crate::fetch;

/// A place that is told of calls that wait for a person: a POST for each that begins to wait, is approved, is denied or comes too late, signed as
/// Standard Webhooks has it. It only tells: nothing that it answers is a yes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// Where the POST goes: https, or http on this machine. Redirects are not followed. Only its host stands in records and logs.
    pub url: String,
    /// What the POST is signed with: `whsec_` and the Base64 of 24 to 64 random bytes. Of several, with white space between them, each signs, so
    /// that one can take the place of another.
    pub secret: Secret,
    /// Whether the arguments that will run go along: `none` or `all`. Default `none`: then whoever decides looks at them with `doorward approvals
    /// show`.
    #[serde(default)]
    pub arguments: Along,
    /// Messages that wait to be taken: 1 to 65536, default 4096. Beyond that the oldest are given up, and that is recorded.
    #[serde(default)]
    pub max_waiting: Bound<4_096, 1, 65_536>,
    /// How long it is tried to tell what became of a call, in seconds: 10 to 86400, default 3600. That a call waits is told for as long as it does.
    #[serde(default)]
    pub give_up_s: Bound<3_600, 10, 86_400>,
}

/// Where a secret stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Secret {
    /// In this variable of Doorward's environment.
    FromEnv(String),
    /// In this file, which is read anew for each message.
    File(PathBuf),
}

/// What of a call's arguments leaves with a message about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Along {
    /// Nothing.
    #[default]
    None,
    /// All of them, as `doorward approvals show --json` has them.
    All,
}

impl Webhook {
    /// The host that is told, as records and logs name it: the rest of the address may be a secret of its own.
    pub fn host(&self) -> String {
        fetch::parse(&self.url).ok().and_then(|url| Some(url.authority()?.to_string())).unwrap_or_default()
    }

    pub(super) fn resolve(&mut self, folder: &Path) {
        if let Secret::File(file) = &mut self.secret {
            *file = folder.join(&*file);
        }
    }
}

impl Secret {
    /// The text that stands there.
    ///
    /// # Errors
    /// Why there is none, in words that do not hold it.
    pub fn read(&self) -> Result<Zeroizing<String>, String> {
        match self {
            Self::FromEnv(name) => {
                std::env::var(name).map(Zeroizing::new).map_err(|_| format!("the environment variable `{name}` is not set"))
            }
            Self::File(file) => read_text(file).map(Zeroizing::new).map_err(|error| format!("{}: {error}", file.display())),
        }
    }
}

impl Config {
    pub(super) fn check_webhook(&self) -> Result<(), Wrong> {
        let Some(Err(message)) = self.approvals.webhook.as_ref().map(|to| fetch::parse(&to.url)) else { return Ok(()) };
        let path = ["approvals", "webhook", "url"].map(str::to_owned).to_vec();
        Err(Wrong { path, message, help: "write `https://HOST/PATH`, or `http://127.0.0.1:PORT/PATH` for what runs on this machine" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse_yaml;

    fn parsed(text: &str) -> Result<Webhook, String> {
        parse_yaml(Path::new("doorward.yaml"), text).map_err(|fault| fault.message)
    }

    #[test]
    fn nothing_of_the_arguments_leaves_where_nobody_says_so() {
        let webhook = parsed("{ url: \"https://hooks.example/T0/s3cret\", secret: { from_env: HOOK } }").unwrap();
        assert_eq!((webhook.arguments, webhook.secret.clone()), (Along::None, Secret::FromEnv("HOOK".to_owned())));
        assert_eq!(webhook.host(), "hooks.example");
        let all = parsed("{ url: \"http://127.0.0.1:9/x\", secret: { file: hook.secret }, arguments: all }").unwrap();
        assert_eq!((all.arguments, all.host().as_str()), (Along::All, "127.0.0.1:9"));
        for wrong in ["{ url: \"https://a.example\" }", "{ url: \"https://a.example\", secret: whsec_AAAA }"] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }
}
