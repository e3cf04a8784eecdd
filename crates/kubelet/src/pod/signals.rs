//! Signals by name, as images and pods write them. Pure.

use rustix::process::Signal;

/// The first real-time signal, as C libraries leave it to programs.
const RT_MIN: i32 = 34;
const RT_MAX: i32 = 64;

/// The signals with names, by number from 1.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// Asks a process to end.
pub(crate) fn term() -> i32 {
    Signal::TERM.as_raw()
}

/// Ends a process.
pub(crate) fn kill() -> i32 {
    Signal::KILL.as_raw()
}

/// A signal by its name or number: `SIGQUIT`, `quit`, `3`, `SIGRTMIN+3`.
pub(crate) fn parse(text: &str) -> Option<i32> {
    let text = text.trim().to_uppercase();
    if let Ok(number) = text.parse::<i32>() {
        return (1..=RT_MAX).contains(&number).then_some(number);
    }
    let name = text.strip_prefix("SIG").unwrap_or(&text);
    let real_time = |from: i32, rest: &str| {
        let offset = if rest.is_empty() {
            Some(0)
        } else {
            rest.parse::<i32>().ok()
        };
        offset
            .map(|offset| from + offset)
            .filter(|number| (RT_MIN..=RT_MAX).contains(number))
    };
    match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(rest), _) => real_time(RT_MIN, rest),
        (_, Some(rest)) => real_time(RT_MAX, rest),
        _ => {
            let index = NAMES.iter().position(|known| *known == name)?;
            i32::try_from(index).ok().map(|index| index + 1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, expected) in [
            ("SIGTERM", Some(15)),
            ("quit", Some(3)),
            ("9", Some(9)),
            ("SIGSYS", Some(31)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX-1", Some(63)),
            ("SIGRTMIN+99", None),
            ("0", None),
            ("SIGNAL", None),
            ("", None),
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
        assert_eq!((term(), kill()), (15, 9));
    }
}
