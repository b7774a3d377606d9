//! Private keys and secrets in files that others than their owner can read or write: told at a start and by `check`.
//!
//! Leaves to others: making them (each with mode 0600), and who may enter the state folder (0700). What is found here was copied, unpacked or written
//! by hand, and goes the same way into the next copy.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::catalog::Catalog;
use crate::catalog::transport::{Auth, Transport};
use crate::config::{Config, Secret};

/// What the group may not do either with what Doorward makes.
const OURS: u32 = 0o077;
/// The operator's own files may be shared with a group, as those of a web server are.
const THEIRS: u32 = 0o007;

/// What is wrong with each such file, in a sentence for the operator.
pub(super) fn exposed(config: &Config, catalog: &Catalog, base: &Path) -> Vec<String> {
    let state: &Path = config.state.as_ref();
    let ours = [state.join("keys"), config.log_keys()].into_iter().flat_map(|folder| files(&folder)).map(|file| (file, OURS));
    let tls = config.listen.tls.iter().map(|tls| tls.key.clone());
    let secret = config.approvals.webhook.iter().filter_map(|to| match &to.secret {
        Secret::File(file) => Some(file.clone()),
        Secret::FromEnv(_) => None,
    });
    let clients = catalog.sources().iter().filter_map(|source| match &source.manifest.transport {
        Transport::Http(endpoint) => match &endpoint.auth {
            Some(Auth::Oauth(client)) => client.private_key_jwt.as_ref().map(|key| base.join(&key.file)),
            _ => None,
        },
        Transport::Stdio(_) => None,
    });
    let theirs = tls.chain(secret).chain(clients).map(|file| (file, THEIRS));
    ours.chain(theirs).filter_map(|(file, mask)| told(&file, mask)).collect()
}

/// What there is to say about one file; what is not there, or no file, is somebody else's to tell.
pub(super) fn told(file: &Path, mask: u32) -> Option<String> {
    let mode = fs::metadata(file).ok().filter(fs::Metadata::is_file)?.permissions().mode() & 0o777;
    let file = file.display();
    (mode & mask != 0).then(|| {
        format!("{file} is secret, and others may read or change it (mode {mode:04o}): `chmod 600 {file}`, and replace it if they have")
    })
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.sort();
    files
}
