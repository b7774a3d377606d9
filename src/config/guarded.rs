//! What no tool server may reach, whatever its manifest grants.

use std::path::{Path, PathBuf};

use super::{Anchor, Config, Secret};

/// A file or folder that no tool server may reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guarded {
    /// What it is, for people.
    pub what: &'static str,
    /// Where it is, as the configuration names it.
    pub path: PathBuf,
}

impl Guarded {
    /// A folder of state, for who has no configuration.
    pub fn state(path: &Path) -> Self {
        Self { what: "the state folder", path: path.to_owned() }
    }
}

impl Config {
    /// Everything on disk by which a tool server could permit itself something, or change what is told of it: the files that people write,
    /// the state folder with the admin socket and the keys, the log, its anchors, and the listener's key.
    pub fn guarded(&self) -> Vec<Guarded> {
        let guarded = |what, path: &Path| Guarded { what, path: path.to_owned() };
        let mut all = vec![
            guarded("the state folder", self.state.as_ref()),
            guarded("the audit log", self.audit.dir.as_ref()),
            guarded("the policy", self.policies.as_ref()),
            guarded("the manifests", self.manifests.as_ref()),
        ];
        all.extend(self.file.as_deref().map(|file| guarded("the configuration", file)));
        let tls =
            self.listen.tls.iter().flat_map(|tls| [("the listener's key", &tls.key), ("the listener's certificate", &tls.certificate)]);
        all.extend(tls.map(|(what, path)| guarded(what, path)));
        let keys = self.identity.jwt.iter().filter_map(|jwt| jwt.jwks.file.as_deref());
        all.extend(keys.map(|path| guarded("keys of an authorization server", path)));
        if let Some(Secret::File(path)) = self.approvals.webhook.as_ref().map(|to| &to.secret) {
            all.push(guarded("the secret of the webhook", path));
        }
        all.extend(self.audit.anchors.iter().filter_map(|anchor| match anchor {
            Anchor::File(anchor) => Some(guarded("an anchor of the audit log", &anchor.path)),
            Anchor::Git(anchor) => Some(guarded("an anchor of the audit log", &anchor.dir)),
            Anchor::Syslog(_) | Anchor::Stdout(_) | Anchor::Put(_) => None,
        }));
        all
    }
}
