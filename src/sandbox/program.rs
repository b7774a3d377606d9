//! Which program a command means, what it is run by, and where the files are that it is made of.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Interpreters of interpreters that are followed.
const MAX_INTERPRETERS: usize = 4;
/// Longest first line of a script (Linux, `BINPRM_BUF_SIZE`), in bytes.
const MAX_FIRST_LINE: u64 = 256;
/// How far above a file the folder of its package is looked for.
const MAX_ABOVE: usize = 6;
/// Files that stand at the top of a package.
const TOP_OF_PACKAGE: [&str; 3] = ["package.json", "pyproject.toml", "pyvenv.cfg"];

/// The file that `name` means: a path from `base`, or a name that is looked up in `path`, as `execvp` does.
pub fn resolved(name: &str, base: &Path, path: Option<&OsStr>) -> Option<PathBuf> {
    if name.contains('/') {
        return Some(base.join(name)).filter(|file| is_executable(file));
    }
    let folders = std::env::split_paths(path.unwrap_or(OsStr::new("/usr/local/bin:/usr/bin:/bin")));
    folders.map(|folder| base.join(folder).join(name)).find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    std::fs::metadata(file).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// The program, and behind it whatever runs it where it is a script.
pub(super) fn chain(program: &Path, base: &Path, path: Option<&OsStr>) -> Vec<PathBuf> {
    let mut chain = vec![program.to_owned()];
    while let Some(line) = chain.last().filter(|_| chain.len() <= MAX_INTERPRETERS).and_then(|file| first_line(file)) {
        let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).map(|word| Path::new(OsStr::from_bytes(word)));
        let Some(interpreter) = words.next() else { break };
        chain.push(interpreter.to_owned());
        if interpreter.file_name() != Some(OsStr::new("env")) {
            continue;
        }
        // `env` takes options and variables before the name that it looks up.
        let name = words.find(|word| !word.as_os_str().as_bytes().starts_with(b"-") && !word.as_os_str().as_bytes().contains(&b'='));
        match name.and_then(Path::to_str).and_then(|name| resolved(name, base, path)) {
            Some(file) => chain.push(file),
            None => break,
        }
    }
    chain
}

/// What stands behind `#!`.
fn first_line(file: &Path) -> Option<Vec<u8>> {
    let mut start = Vec::new();
    std::fs::File::open(file).ok()?.take(MAX_FIRST_LINE).read_to_end(&mut start).ok()?;
    let line = start.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    Some(line.to_vec())
}

/// The folders that a program's own files are in: its installation, its package, or what is beside it. A folder that holds the files of a
/// person or of everybody is none of these: the file alone is.
pub(super) fn surroundings(file: &Path, home: Option<&Path>) -> Vec<PathBuf> {
    let too_broad = |folder: &Path| is_broad(folder, home);
    let mut parts = file.components();
    // Packages of Node find each other through the outermost folder of this name.
    if parts.any(|part| part.as_os_str() == "node_modules") {
        let below = parts.as_path().components().count();
        if let Some(modules) = file.ancestors().nth(below) {
            return vec![modules.to_owned()];
        }
    }
    let Some(parent) = file.parent() else { return Vec::new() };
    if parent.file_name().is_some_and(|name| name == "bin" || name == "sbin") {
        return match parent.parent() {
            Some(prefix) if !too_broad(prefix) => vec![prefix.to_owned()],
            Some(prefix) => vec![parent.to_owned(), prefix.join("lib")],
            None => vec![parent.to_owned()],
        };
    }
    let is_top = |folder: &&Path| !too_broad(folder) && TOP_OF_PACKAGE.iter().any(|name| folder.join(name).is_file());
    if let Some(top) = file.ancestors().skip(1).take(MAX_ABOVE).find(is_top) {
        return vec![top.to_owned()];
    }
    vec![if too_broad(parent) { file.to_owned() } else { parent.to_owned() }]
}

/// Whether more is in a folder than one program's files.
fn is_broad(folder: &Path, home: Option<&Path>) -> bool {
    let of_home = home.is_some_and(|home| home.starts_with(folder) || folder == home.join(".local") || folder == home.join(".config"));
    let of_all = folder.components().count() <= 2 || folder == std::env::temp_dir() || folder == Path::new("/var/tmp");
    of_home || of_all
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn script(file: &Path, text: &str) {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
        fs::set_permissions(file, fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn a_script_is_followed_to_what_runs_it() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        script(&at("bin/runner"), "\x7fELF");
        script(&at("bin/tool"), "#!/usr/bin/env -S A=b runner --fast\nrest");
        script(&at("direct"), &format!("#! {}\n", at("bin/runner").display()));
        let path = Some(at("bin").into_os_string());
        let tool = resolved("tool", Path::new("/"), path.as_deref()).unwrap();
        assert_eq!(chain(&tool, Path::new("/"), path.as_deref()), [at("bin/tool"), "/usr/bin/env".into(), at("bin/runner")]);
        assert_eq!(chain(&at("direct"), Path::new("/"), None), [at("direct"), at("bin/runner")]);
        assert_eq!(resolved("nothing", Path::new("/"), path.as_deref()), None);
        assert_eq!(resolved("./direct", home.path(), None), Some(home.path().join("./direct")));
    }

    #[test]
    fn surroundings_are_the_package_and_never_a_home_folder() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        for file in ["app/package.json", "app/dist/index.js", "loose.py", "tools/a.py"] {
            script(&at(file), "x");
        }
        let of = |file: &str| surroundings(&at(file), Some(home.path()));
        assert_eq!(of("app/dist/index.js"), [at("app")]);
        assert_eq!(of("x/node_modules/@a/b/node_modules/c/i.js"), [at("x/node_modules")]);
        assert_eq!(of(".nvm/v22/bin/node"), [at(".nvm/v22")]);
        assert_eq!(of(".local/bin/tool"), [at(".local/bin"), at(".local/lib")]);
        assert_eq!(of("loose.py"), [at("loose.py")]);
        assert_eq!(of("tools/a.py"), [at("tools")]);
    }
}
