//! What is shown while something takes its time: a line that changes on a terminal, plain lines
//! elsewhere.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// A step that takes its time. Where it is dropped before [`Step::done`], it has failed.
pub(crate) struct Step {
    bar: ProgressBar,
    text: String,
    began: Instant,
}

impl Step {
    /// Begins.
    pub(crate) fn begin(text: impl Into<String>) -> Step {
        let text = text.into();
        let bar = if std::io::stderr().is_terminal() {
            let bar = ProgressBar::new_spinner().with_message(text.clone());
            bar.enable_steady_tick(Duration::from_millis(80));
            bar
        } else {
            ProgressBar::hidden()
        };
        Step {
            bar,
            text,
            began: Instant::now(),
        }
    }

    /// Says what is being done just now.
    pub(crate) fn now(&self, what: &str) {
        self.bar.set_message(format!("{}: {what}", self.text));
    }

    /// It is done.
    pub(crate) fn done(self) {
        let took = self.began.elapsed().as_secs_f64();
        self.bar.finish_and_clear();
        say(&format!("{} ... done in {took:.2} s", self.text));
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// How many bytes have come, of how many.
pub(crate) struct Bytes {
    bar: ProgressBar,
}

impl Bytes {
    /// Begins. The total may not be known, as yet.
    pub(crate) fn begin(text: impl Into<String>, total: Option<u64>) -> Bytes {
        let bar = if std::io::stderr().is_terminal() {
            ProgressBar::new_spinner()
        } else {
            ProgressBar::hidden()
        };
        let bytes = Bytes {
            bar: bar.with_message(text.into()),
        };
        bytes.at(0, total);
        bytes
    }

    /// This many so far.
    pub(crate) fn at(&self, bytes: u64, total: Option<u64>) {
        if let Some(total) = total.filter(|total| self.bar.length() != Some(*total)) {
            self.bar.set_length(total);
            let style =
                ProgressStyle::with_template("{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}");
            // The template is a constant that indicatif's tests of this version accept.
            if let Ok(style) = style {
                self.bar.set_style(style.progress_chars("=> "));
            }
        }
        self.bar.set_position(bytes);
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Tells the user something.
pub(crate) fn say(line: &str) {
    // Where nobody listens, nothing is lost.
    let _ = writeln!(std::io::stderr(), "{line}");
}
