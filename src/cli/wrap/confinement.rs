//! How `wrap` confines a command that nobody has reviewed: it keeps the network and the folders that such commands work in, and is kept from
//! the rest of the home folder.

use std::path::{Path, PathBuf};

use crate::catalog::sandbox::{Grants, Network, Sandbox};
use crate::catalog::transport::Transport;
use crate::sandbox::Ground;

/// Of the home folder: what package runners write when they install what they are to run.
const RUNNERS_WRITE: [&str; 7] = [".npm", ".cache", ".local/share/uv", ".local/share/pnpm", ".bun", ".deno", ".yarn"];

/// The flags.
#[derive(Debug, clap::Args)]
pub(super) struct Flags {
    /// `default` keeps the command to this folder, what its arguments name, the caches of package runners, and the network; `none` lets it
    /// do all that you may.
    #[arg(long, value_parser = ["default", "none"], default_value = "default")]
    sandbox: String,
    /// A file or folder that the command may read beside that; may be repeated.
    #[arg(long, value_name = "PATH")]
    read: Vec<PathBuf>,
    /// A file or folder that the command may change beside that; may be repeated.
    #[arg(long, value_name = "PATH")]
    write: Vec<PathBuf>,
    /// `none` takes the network away, which a package runner needs for what it has not installed yet.
    #[arg(long, value_parser = ["any", "none"], default_value = "any")]
    network: String,
}

impl Flags {
    /// The sandbox that they come to, in this folder.
    ///
    /// # Errors
    /// A path that is not there, or reaches what no server may; the text is for the user.
    pub(super) fn sandbox(&self, ground: &Ground) -> Result<Sandbox, String> {
        if self.sandbox == "none" {
            return Ok(Sandbox::None);
        }
        let named = |flag: &str, path: &PathBuf| {
            let path = ground.base.join(path);
            match ground.reaches(&path) {
                Some(guarded) => Err(format!("--{flag} {}: it reaches {}, which no tool server may", path.display(), guarded.what)),
                None if !path.exists() => Err(format!("--{flag} {}: there is no such file or folder", path.display())),
                None => Ok(path),
            }
        };
        let read = self.read.iter().map(|path| named("read", path)).collect::<Result<_, _>>()?;
        let mut write: Vec<PathBuf> = self.write.iter().map(|path| named("write", path)).collect::<Result<_, _>>()?;
        write.extend(usual(ground));
        let network = if self.network == "none" { Network::None } else { Network::Any };
        Ok(Sandbox::Confined(Box::new(Grants { read, write, network, ..Grants::default() })))
    }
}

/// What the user is told of it; nothing for a server on HTTP.
pub(super) fn told(transport: &Transport) -> String {
    let Transport::Stdio(command) = transport else { return String::new() };
    match command.sandbox.grants() {
        None => "sandbox: none, the command can do all that you may\n".to_owned(),
        Some(grants) => {
            let writes: Vec<String> = grants.write.iter().map(|path| path.display().to_string()).collect();
            let (network, writes) = (&grants.network, writes.join(" "));
            format!(
                "sandbox: network {network}; writes what its arguments name, {writes}; --read and --write grant more, --sandbox none all\n"
            )
        }
    }
}

/// The folder that the command runs in, and where package runners write. Not where that would reach our own files: a home folder is no
/// folder to work in.
fn usual(ground: &Ground) -> Vec<PathBuf> {
    let home = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
    let caches = home.iter().flat_map(|home| RUNNERS_WRITE.map(|name| home.join(name)));
    let here = Some(ground.base.clone())
        .filter(|here| here.components().count() > 2 && home.as_deref().is_none_or(|home| !home.starts_with(here)));
    here.into_iter().chain(caches).filter(|path| path.is_dir() && ground.reaches(path).is_none()).collect()
}

/// Makes the folders of package runners that the command is about to need: what is not there cannot be granted.
pub(super) fn make_room(command: &str) {
    let Some(home) = std::env::var_os("HOME").map(PathBuf::from) else { return };
    let needed = match Path::new(command).file_name().and_then(|name| name.to_str()) {
        Some("npx" | "npm") => ".npm",
        Some("uvx" | "uv") => ".cache",
        Some("bunx" | "bun") => ".bun",
        Some("deno") => ".cache",
        Some("pnpm" | "pnpx") => ".local/share/pnpm",
        _ => return,
    };
    // Where it cannot be made, the runner says what it misses.
    let _made_or_told = std::fs::create_dir_all(home.join(needed));
}
