//! `doorward policy keygen` and `sign`: a key that vouches for policies, and its word for the one in the folder.
//!
//! INVARIANT: only what loads is signed, and no file is replaced by a private key.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde_json::json;
use zeroize::Zeroizing;

use super::loaded;
use crate::audit::note::Signer;
use crate::cli::{Context, Failure};
use crate::config::{check_name, read_text};
use crate::gateway::Loaded;
use crate::gateway::signed::{SIGNATURES, sign};

/// Arguments of `doorward policy keygen`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  doorward policy keygen alice --out alice-policy.key")]
pub struct KeygenArgs {
    /// Whose key it is; stands in its signatures.
    #[arg(value_parser = name)]
    name: String,
    /// Where the private key goes, readable by its owner alone; must not be there yet.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

fn name(text: &str) -> Result<String, String> {
    check_name(text).map(|()| text.to_owned())
}

/// Arguments of `doorward policy sign`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  doorward policy sign --key alice-policy.key\n\nLook first: `doorward policy diff`, `doorward policy test`. What is signed are rows, conditions and limits."
)]
pub struct SignArgs {
    /// The private key, as `doorward policy keygen` wrote it.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The folder to sign, where it is not the configured one.
    #[arg(long, value_name = "DIR")]
    policy: Option<PathBuf>,
}

/// Makes a key.
pub fn keygen(context: &Context, args: &KeygenArgs) -> Result<u8, Failure> {
    let signer = Signer::generate(&args.name).map_err(Failure::other)?;
    let text = signer.to_private_text().map_err(Failure::other)?;
    let unwritten = |error: std::io::Error| Failure::Other(format!("{}: {error}", args.out.display()));
    let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&args.out).map_err(unwritten)?;
    out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.sync_all()).map_err(unwritten)?;
    let key = signer.key().to_string();
    if context.json {
        println!("{}", json!({ "key": key, "name": args.name, "file": args.out }));
    } else {
        println!("{key}\n");
        println!("This is the public key: one of `policy: {{ signed_by: [KEY, …] }}` in doorward.yaml.");
        println!("The private key is in {}: keep it off the gateway's machine.", args.out.display());
    }
    Ok(0)
}

/// Signs what is in the folder.
pub fn run(context: &Context, args: &SignArgs) -> Result<u8, Failure> {
    let config = context.config()?;
    let folder: &Path = args.policy.as_deref().unwrap_or(config.policies.as_ref());
    let unread = |error: std::io::Error| Failure::Other(format!("{}: {error}", args.key.display()));
    let text = Zeroizing::new(read_text(&args.key).map_err(unread)?);
    let wrong = |_| Failure::Other(format!("{}: it is no private key that `doorward policy keygen` made", args.key.display()));
    let signer = Signer::from_private_text(&text).map_err(wrong)?;
    let Loaded { policy, limits, .. } = loaded(&config, folder)?;
    let written = policy.written(limits.text());
    let file = folder.join(SIGNATURES);
    let note = sign(&signer, &written, read_text(&file).ok().as_deref()).map_err(Failure::other)?;
    let partial = file.with_added_extension("partial");
    let stored = std::fs::write(&partial, &note).and_then(|()| std::fs::rename(&partial, &file));
    stored.map_err(|error| Failure::Other(format!("{}: {error}", file.display())))?;
    let name = signer.key().name();
    match context.json {
        true => println!("{}", json!({ "signed": written, "by": signer.key().to_string(), "file": file })),
        false => println!("{name} has signed {written} in {}", file.display()),
    }
    Ok(0)
}
