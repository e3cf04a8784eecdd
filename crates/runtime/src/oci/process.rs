//! Program, arguments and environment.

use super::{Input, SpecError};

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Kubernetes' `command` and `args` over the image's `ENTRYPOINT` and `CMD`: a command replaces both, args
/// alone replace `CMD` only
/// (<https://kubernetes.io/docs/tasks/inject-data-application/define-command-argument-container/>).
pub(super) fn arguments(
    command: &[String],
    args: &[String],
    entrypoint: &[String],
    cmd: &[String],
) -> Result<Vec<String>, SpecError> {
    let (program, rest) = match (command.is_empty(), args.is_empty()) {
        (false, _) => (command, args),
        (true, false) => (entrypoint, args),
        (true, true) => (entrypoint, cmd),
    };
    let all: Vec<_> = program.iter().chain(rest).cloned().collect();
    if all.is_empty() {
        Err(SpecError::NoCommand)
    } else {
        Ok(all)
    }
}

/// The environment: defaults, then the image's, then the container's. `HOME` is always there, because
/// libcontainer would otherwise look it up with the C library, inside the container.
pub(super) fn environment(input: &Input<'_>) -> Vec<String> {
    let mut env = Vec::new();
    set_variable(&mut env, "PATH", DEFAULT_PATH);
    if !input.pod.hostname.is_empty() {
        set_variable(&mut env, "HOSTNAME", &input.pod.hostname);
    }
    if input.container.tty {
        set_variable(&mut env, "TERM", "xterm");
    }
    for entry in &input.image.run.env {
        let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
        set_variable(&mut env, name, value);
    }
    for (name, value) in &input.container.env {
        set_variable(&mut env, name, value);
    }
    if !env
        .iter()
        .any(|entry| entry.strip_prefix("HOME=").is_some_and(|home| !home.is_empty()))
    {
        set_variable(&mut env, "HOME", &input.identity.home);
    }
    env
}

/// Sets a variable, in the place of an earlier setting if there is one.
pub(super) fn set_variable(env: &mut Vec<String>, name: &str, value: &str) {
    let entry = format!("{name}={value}");
    let same_name = |entry: &&mut String| entry.strip_prefix(name).is_some_and(|rest| rest.starts_with('='));
    match env.iter_mut().find(same_name) {
        Some(earlier) => *earlier = entry,
        None => env.push(entry),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn command_and_args_replace_entrypoint_and_cmd_as_kubernetes_documents() {
        // The table of the page named above.
        let cases = [
            ("/ep-1", "foo bar", "", "", "/ep-1 foo bar"),
            ("/ep-1", "foo bar", "/ep-2", "", "/ep-2"),
            ("/ep-1", "foo bar", "", "zoo boo", "/ep-1 zoo boo"),
            ("/ep-1", "foo bar", "/ep-2", "zoo boo", "/ep-2 zoo boo"),
            ("", "sh", "", "", "sh"),
            ("", "sh", "", "-c x", "-c x"),
        ];
        for (entrypoint, cmd, command, args, expected) in cases {
            let result = arguments(&words(command), &words(args), &words(entrypoint), &words(cmd));
            assert_eq!(
                result,
                Ok(words(expected)),
                "{entrypoint:?} {cmd:?} {command:?} {args:?}"
            );
        }
        assert_eq!(arguments(&[], &[], &[], &[]), Err(SpecError::NoCommand));
    }

    #[test]
    fn a_later_setting_of_a_variable_takes_the_place_of_the_earlier() {
        let mut env = vec!["A=1".to_owned(), "AB=2".to_owned()];
        set_variable(&mut env, "AB", "3");
        set_variable(&mut env, "B", "=4");
        assert_eq!(env, ["A=1", "AB=3", "B==4"]);
    }
}
