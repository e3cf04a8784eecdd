//! How a container ended, as the status shows it.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Container;
use stead_runtime::ExitRecord;

use super::observed::Exit;
use crate::config::PodDirs;

/// As much as is read of a container's last words.
const MAX_MESSAGE: u64 = 4096;
/// As much as is taken of its log instead, where it says so.
const MAX_LOG: u64 = 2048;
const MAX_LOG_LINES: usize = 80;

/// An end that the runtime tells of.
pub(super) fn exit(id: &str, record: &ExitRecord, message: Option<String>) -> Exit {
    let reason = match record.exit_code {
        _ if record.oom_killed => "OOMKilled",
        0 => "Completed",
        _ => "Error",
    };
    // On the monotonic clock; an end in the future, by a clock that was set back, is now.
    let ago = Duration::try_from(Timestamp::now().duration_since(record.finished_at)).unwrap_or_default();
    Exit {
        id: id.to_owned(),
        code: record.exit_code,
        reason: reason.to_owned(),
        message,
        started_at: Some(record.started_at),
        finished_at: Some(record.finished_at),
        at: Instant::now().checked_sub(ago).unwrap_or_else(Instant::now),
        doomed: false,
    }
}

/// What a container left as its termination message, by its policy ("Determine the Reason for Pod
/// Failure").
pub(super) fn last_words(spec: &Container, dirs: &PodDirs, attempt: u32, code: i32) -> Option<String> {
    let text = read_start(&dirs.termination_log(&spec.name, attempt), MAX_MESSAGE);
    let text = text.filter(|text| !text.is_empty());
    let from_log = spec.termination_message_policy.as_deref() == Some("FallbackToLogsOnError") && code != 0;
    text.or_else(|| {
        from_log
            .then(|| log_end(&dirs.log(&spec.name, attempt)))
            .flatten()
    })
}

fn read_start(path: &Path, limit: u64) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(limit).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The last lines of a log, without the runtime's own fields.
fn log_end(path: &Path) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    // Each line has some forty bytes before its text.
    let from = length.saturating_sub(MAX_LOG + MAX_LOG_LINES as u64 * 64);
    file.seek(SeekFrom::Start(from)).ok()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let mut lines: Vec<&str> = text.lines().collect();
    if from > 0 && !lines.is_empty() {
        // Cut in the middle.
        lines.remove(0);
    }
    let start = lines.len().saturating_sub(MAX_LOG_LINES);
    let mut end: String = lines[start..]
        .iter()
        .filter_map(|line| line.splitn(4, ' ').nth(3))
        .flat_map(|line| [line, "\n"])
        .collect();
    while end.len() as u64 > MAX_LOG {
        let cut = end.find('\n').map_or(end.len(), |at| at + 1);
        end.drain(..cut);
    }
    (!end.is_empty()).then_some(end)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::Config;

    #[test]
    fn last_words_come_from_the_file_or_the_log() {
        let dir = tempfile::tempdir().expect("a directory");
        let config = Config {
            data_dir: dir.path().to_owned(),
            ..Config::for_tests()
        };
        let dirs = config.pod_dirs("u", "n", "p");
        let spec = |policy: &str| -> Container {
            let spec = json!({"name": "c", "terminationMessagePolicy": policy});
            serde_json::from_value(spec).expect("a container")
        };
        let words = |policy: &str, code| last_words(&spec(policy), &dirs, 0, code);
        assert_eq!(words("File", 1), None);
        for path in [dirs.log("c", 0), dirs.termination_log("c", 0)] {
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        }
        std::fs::write(
            dirs.log("c", 0),
            "2026-01-01T00:00:00Z stdout F one\n2026-01-01T00:00:01Z stderr F two\n",
        )
        .expect("a log");
        assert_eq!(words("File", 1), None);
        assert_eq!(words("FallbackToLogsOnError", 1).as_deref(), Some("one\ntwo\n"));
        assert_eq!(words("FallbackToLogsOnError", 0), None);
        std::fs::write(dirs.termination_log("c", 0), "goodbye").expect("a file");
        assert_eq!(words("File", 1).as_deref(), Some("goodbye"));
    }

    #[test]
    fn reasons_follow_from_the_end() {
        let record = |exit_code, oom_killed| ExitRecord {
            exit_code,
            signal: None,
            oom_killed,
            started_at: Timestamp::UNIX_EPOCH,
            finished_at: Timestamp::UNIX_EPOCH,
        };
        let reason = |record| exit("id", &record, None).reason;
        assert_eq!(reason(record(0, false)), "Completed");
        assert_eq!(reason(record(3, false)), "Error");
        assert_eq!(reason(record(137, true)), "OOMKilled");
    }
}
