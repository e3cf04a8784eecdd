//! Replays of recorded cases: what a real Kubernetes answered, against this server.
//!
//! The cases are data, in `tests/golden` at the root of the repository; its `README.md` says how
//! they read. Each file is one test, named by its area and file. Where a newer Kubernetes answers
//! otherwise than the one recorded, `differences.json` says so; what is listed there as not yet
//! right must fail, so that the list stays true.
//!
//! Reading order: `case` (what a file holds), `play` (the one place that calls the server and
//! compares), `controllers` (what a case waits for), `sent`, `scrub`, `place` and `differences` (what it compares by), `fixture` (the server).

mod case;
mod controllers;
mod differences;
mod fixture;
mod hooks;
mod place;
mod play;
mod scrub;
mod sent;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Failed, Trial};

use case::Case;
use differences::Differences;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    // Where tests run: several checkouts may share what is built.
    let root = Path::new("../../tests/golden");
    let differences = match Differences::read(root) {
        Ok(differences) => Arc::new(differences),
        Err(error) => {
            eprintln!("read the differences: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut trials: Vec<Trial> = ["admission", "api", "discovery", "own", "patch", "tables"]
        .into_iter()
        .flat_map(|area| files(&root.join(area)).into_iter().map(move |file| (area, file)))
        .map(|(area, file)| trial(area, file, &differences))
        .collect();
    let names: Vec<String> = trials.iter().map(|trial| trial.name().to_owned()).collect();
    trials.push(Trial::test("differences/name-cases-that-are-there", {
        let differences = differences.clone();
        move || differences.check_names(&names).map_err(Failed::from)
    }));
    trials.push(Trial::test("differences/are-told-in-words", move || {
        differences.check_page(root).map_err(Failed::from)
    }));
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn trial(area: &'static str, file: PathBuf, differences: &Arc<Differences>) -> Trial {
    let stem = file
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let name = format!("{area}/{stem}");
    let differences = differences.clone();
    let not_yet = differences.not_yet(&name).is_some();
    let kind = if not_yet { "not yet" } else { "" };
    let test = {
        let name = name.clone();
        move || {
            let text = std::fs::read_to_string(&file).map_err(|error| format!("read {file:?}: {error}"))?;
            let case = Case::read(area, &text).map_err(|error| format!("understand {file:?}: {error}"))?;
            match (play::check(&name, &case, &differences), not_yet) {
                (Ok(()), false) | (Err(_), true) => Ok(()),
                (Ok(()), true) => Err("it passes now: take it off the list of what is not yet right".into()),
                (Err(error), false) => Err(error.into()),
            }
        }
    };
    Trial::test(name, test).with_kind(kind)
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect();
    files.sort();
    files
}
