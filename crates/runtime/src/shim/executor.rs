//! The last step of a container's first process: find the program and become it.
//!
//! Stands in for libcontainer's default so that the errors read as runc's do, which people and tests know:
//! `exec: "nosuch": executable file not found in $PATH`. libcontainer passes an error on as text inside
//! other text; [`marked`] finds it again.

use std::ffi::{CString, OsStr};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use oci_spec::runtime::Spec;

/// The exit code of a program that was found but that the kernel would not run, as runc gives it.
const NOT_RUNNABLE: i32 = 255;

/// Runs the process of the spec.
#[derive(Debug, Clone)]
pub(crate) struct Command {
    /// Ask the kernel for a SIGKILL when the shim dies, for want of a PID namespace that does it.
    pub(crate) dies_with_parent: bool,
}

impl Executor for Command {
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let program = arguments(spec).first().map_or("", String::as_str);
        match find(program, path_of(spec)) {
            Ok(_) => Ok(()),
            Err(reason) => Err(ExecutorValidationError::ArgValidationError(mark(
                program, &reason,
            ))),
        }
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let arguments = arguments(spec);
        let program = arguments.first().map_or("", String::as_str);
        let path =
            find(program, path_of(spec)).map_err(|reason| ExecutorError::Other(mark(program, &reason)))?;
        if self.dies_with_parent {
            die_with_parent()?;
        }
        let error = execv(&path, arguments)
            .err()
            .unwrap_or_else(|| io::ErrorKind::Other.into());
        // Nobody listens to this process any more but the reader of the container's log.
        let _ = writeln!(io::stderr(), "exec {}: {}", path.display(), lower(&error));
        std::process::exit(NOT_RUNNABLE)
    }
}

fn arguments(spec: &Spec) -> &[String] {
    spec.process()
        .as_ref()
        .and_then(|process| process.args().as_deref())
        .unwrap_or_default()
}

/// The last of several settings counts, as for a program that reads its environment into a map.
fn path_of(spec: &Spec) -> &str {
    let env = spec
        .process()
        .as_ref()
        .and_then(|process| process.env().as_deref())
        .unwrap_or_default();
    env.iter()
        .rev()
        .find_map(|entry| entry.strip_prefix("PATH="))
        .unwrap_or_default()
}

/// Looks `program` up as `execvp` would. The error is what runc says after the program's name.
fn find(program: &str, path: &str) -> Result<PathBuf, String> {
    if program.contains('/') {
        return runnable(Path::new(program)).map(|()| PathBuf::from(program));
    }
    let directories = path.split(':').filter(|directory| directory.starts_with('/'));
    let mut candidates = directories.map(|directory| Path::new(directory).join(program));
    candidates
        .find(|candidate| !program.is_empty() && runnable(candidate).is_ok())
        .ok_or_else(|| "executable file not found in $PATH".to_owned())
}

fn runnable(path: &Path) -> Result<(), String> {
    let metadata = path
        .metadata()
        .map_err(|error| format!("stat {}: {}", path.display(), lower(&error)))?;
    if metadata.is_dir() {
        return Err("is a directory".to_owned());
    }
    match metadata.permissions().mode() & 0o111 {
        0 => Err("permission denied".to_owned()),
        _ => Ok(()),
    }
}

fn execv(path: &Path, arguments: &[String]) -> io::Result<()> {
    let path = c_string(path.as_os_str())?;
    let arguments = arguments
        .iter()
        .map(|a| c_string(OsStr::new(a)))
        .collect::<io::Result<Vec<_>>>()?;
    nix::unistd::execv(&path, &arguments)?;
    Ok(())
}

fn c_string(text: &OsStr) -> io::Result<CString> {
    Ok(CString::new(text.as_bytes())?)
}

fn die_with_parent() -> Result<(), ExecutorError> {
    let kill = Some(rustix::process::Signal::KILL);
    let set = rustix::process::set_parent_process_death_signal(kill);
    set.map_err(|error| ExecutorError::Other(format!("ask for a parent-death signal: {error}")))?;
    // The shim may have died just before; then its child has a new parent, in the host's PID namespace 1
    // or a subreaper, and no signal will come. The server kills what is left in the cgroup.
    Ok(())
}

/// An error as the C library and Go word it: lower case, and without Rust's `(os error 2)`.
fn lower(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut characters = text.chars();
    let first = characters.next().map(|c| c.to_ascii_lowercase());
    first.into_iter().chain(characters).collect()
}

const MARK: &str = "exec: \"";

fn mark(program: &str, reason: &str) -> String {
    format!("{MARK}{program}\": {reason}")
}

/// The part of libcontainer's error text that came from here.
pub(crate) fn marked(text: &str) -> Option<&str> {
    text.find(MARK).map(|at| &text[at..])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_program_is_found_as_a_shell_would_and_missed_as_runc_would() {
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        let write = |name: &str, mode| {
            std::fs::write(bin.join(name), "").unwrap();
            std::fs::set_permissions(bin.join(name), PermissionsExt::from_mode(mode)).unwrap();
        };
        write("run", 0o755);
        write("data", 0o644);
        let path = format!("relative:/nosuch:{}", bin.display());
        let full = |name: &str| bin.join(name).display().to_string();
        let check = |program: &str, expected: Result<String, String>| {
            let found = find(program, &path).map(|path| path.display().to_string());
            assert_eq!(found, expected, "{program}");
        };
        let not_found = Err("executable file not found in $PATH".to_owned());
        check("run", Ok(full("run")));
        check(&full("run"), Ok(full("run")));
        check("data", not_found.clone());
        check("", not_found.clone());
        check("nosuch", not_found);
        check("/nosuch", Err("stat /nosuch: no such file or directory".into()));
        check(&full("data"), Err("permission denied".into()));
        check(&bin.display().to_string(), Err("is a directory".into()));
    }

    #[test]
    fn the_reason_is_found_inside_libcontainers_words() {
        let text = format!("failed to create container: {}", mark("x", "permission denied"));
        assert_eq!(marked(&text), Some("exec: \"x\": permission denied"));
        assert_eq!(marked("failed to mount"), None);
    }
}
