//! Gives each target of `stead_fuzz` what is kept in `corpus`, then changes of that and of its seeds, for a while.
//!
//! `STEAD_FUZZ_SECONDS` says for how long each target runs (default 1.5), `STEAD_FUZZ_SEED` where the changes begin
//! (default 0). An input that panics, or takes very long, is told with the seed and as base64, and is left in a file
//! that can be moved into `corpus`.

mod changes;
mod kept;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use libtest_mimic::{Arguments, Failed, Trial};
use stead_fuzz::{TARGETS, Target};

use changes::Changes;
use kept::Kept;

/// A request has no more, where the server runs it.
const STACK_BYTES: usize = 2 << 20;
/// Nothing takes that long, however busy the machine is.
const FAR_TOO_LONG: Duration = Duration::from_secs(20);
/// More of an input is not printed.
const SHOWN: usize = 4096;

fn main() -> ExitCode {
    stead_runtime::become_helper();
    let arguments = Arguments::from_args();
    let number = |name: &str, default: f64| match std::env::var(name) {
        Ok(text) => text.parse().map_err(|_| format!("{name} is no number: {text:?}")),
        Err(_) => Ok(default),
    };
    let (seconds, seed) = match (number("STEAD_FUZZ_SECONDS", 1.5), number("STEAD_FUZZ_SEED", 0.0)) {
        (Ok(seconds), Ok(seed)) => (Duration::from_secs_f64(seconds), seed as u64),
        (Err(error), _) | (_, Err(error)) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let trials = TARGETS.iter().map(|target| {
        Trial::test(target.name, move || {
            let run = thread::Builder::new()
                .name(target.name.to_owned())
                .stack_size(STACK_BYTES)
                .spawn(move || run(target, seconds, seed))?;
            run.join().map_err(|panic| Failed::from(words(&*panic)))?
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

fn run(target: &'static Target, time: Duration, seed: u64) -> Result<(), Failed> {
    let kept = Kept::of(target.name)?;
    let corpus = kept.corpus()?;
    for (path, input) in &corpus {
        check(target, &kept, input).map_err(|found| format!("{}: {found}", path.display()))?;
    }
    let mut seeds = (target.seeds)();
    seeds.extend(corpus.into_iter().map(|(_, input)| input));
    for input in &seeds {
        check(target, &kept, input).map_err(|found| format!("a seed: {found}"))?;
    }
    let mut changes = Changes::new(target, seeds, seed);
    let begin = Instant::now();
    let mut count = 0_u64;
    while begin.elapsed() < time {
        let input = changes.next_input();
        check(target, &kept, &input).map_err(|found| format!("seed {seed}, input {count}: {found}"))?;
        count += 1;
    }
    if time > Duration::from_secs(5) {
        eprintln!("{}: {count} inputs", target.name);
    }
    Ok(())
}

/// Gives a target one input.
fn check(target: &Target, kept: &Kept, input: &[u8]) -> Result<(), String> {
    // A process that is aborted tells nothing, but leaves this.
    kept.note(input)
        .map_err(|error| format!("note an input: {error}"))?;
    let begin = Instant::now();
    let outcome = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    let why = match outcome {
        Err(panic) => words(&*panic),
        Ok(()) if begin.elapsed() > FAR_TOO_LONG => format!("it took {:?}", begin.elapsed()),
        Ok(()) => return Ok(()),
    };
    let left = match kept.leave(input) {
        Ok(path) => path.display().to_string(),
        Err(error) => format!("no file: {error}"),
    };
    let shown = &input[..input.len().min(SHOWN)];
    Err(format!(
        "{why}\nleft in {left}\n{}\n{}",
        String::from_utf8_lossy(shown),
        BASE64_STANDARD.encode(shown)
    ))
}

/// What a panic says.
fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic".to_owned())
}
