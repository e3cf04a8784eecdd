//! Memory that a server which has nothing to do does not need.
//!
//! Starting runs much of the program once: certificates, formats, the command line. Those pages stay mapped,
//! and what the heap gave back to the allocator stays with it. Now and then both are let go; what is needed
//! again comes back from the page cache, a millisecond's work in all.
#![expect(unsafe_code, reason = "madvise(2) and malloc_trim(3) have no safe wrapper")]

use std::ffi::c_void;
use std::ops::Range;
use std::time::Duration;

use rustix::mm::{Advice, madvise};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// When the start is over, and how often after it.
const FIRST: Duration = Duration::from_secs(2);
const EVERY: Duration = Duration::from_secs(60);

/// Lets go of memory soon after the start, and then in long intervals, until it is cancelled.
pub(super) async fn let_go(cancelled: CancellationToken) {
    let mut wait = FIRST;
    while cancelled.run_until_cancelled(sleep(wait)).await.is_some() {
        // Reading one's mappings and freeing them is over before a task would be missed.
        trim();
        wait = EVERY;
    }
}

fn trim() {
    // SAFETY: it may be called at any time; it takes the allocator's own locks.
    unsafe { libc::malloc_trim(0) };
    let (Ok(maps), Ok(program)) = (
        std::fs::read_to_string("/proc/self/maps"),
        std::fs::read_link("/proc/self/exe"),
    ) else {
        return;
    };
    for range in unchanged(&maps, &program.to_string_lossy()) {
        // SAFETY: the pages are private, were never written, and are read from the file again when they are
        // next touched; the file cannot be written while it runs (ETXTBSY).
        let done = unsafe {
            madvise(
                std::ptr::without_provenance_mut::<c_void>(range.start),
                range.len(),
                Advice::LinuxDontNeed,
            )
        };
        if let Err(error) = done {
            tracing::debug!(%error, "pages of the program were not let go");
        }
    }
}

/// The mappings of a program that are as in its file: its code, and the constants that begin the file. (What
/// else is read-only was written once, when the program was loaded.)
fn unchanged(maps: &str, program: &str) -> Vec<Range<usize>> {
    let parse = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (range, mode, offset) = (fields.next()?, fields.next()?, fields.next()?);
        let path = fields.nth(2)?;
        let is_unchanged = mode == "r-xp" || (mode == "r--p" && offset.bytes().all(|digit| digit == b'0'));
        if path != program || !is_unchanged {
            return None;
        }
        let (start, end) = range.split_once('-')?;
        let address = |text| usize::from_str_radix(text, 16).ok();
        Some(address(start)?..address(end)?)
    };
    maps.lines().filter_map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
00200000-00c34000 r--p 00000000 00:29 3                                  /usr/bin/stead
00c34000-02ce6000 r-xp 00a33000 00:29 3                                  /usr/bin/stead
02ce6000-02cee000 r--p 02ae5000 00:29 3                                  /usr/bin/stead
02cee000-02cf0000 rw-p 02aed000 00:29 3                                  /usr/bin/stead
0331a000-0348a000 rw-p 00000000 00:00 0                                  [heap]
7f0000000000-7f0000021000 r-xp 00000000 00:00 0
7f52c0000000-7f52c0021000 r--p 00000000 08:01 7                          /usr/bin/other
";

    #[test]
    fn only_what_is_as_in_the_file_is_let_go() {
        assert_eq!(
            unchanged(MAPS, "/usr/bin/stead"),
            [0x0020_0000..0x00c3_4000, 0x00c3_4000..0x02ce_6000]
        );
    }

    #[test]
    fn a_process_that_trims_itself_goes_on() {
        let before: Vec<String> = (0..100).map(|number| number.to_string()).collect();
        trim();
        assert_eq!(before.concat().len(), 190);
        assert!("1.5".parse::<f64>().is_ok_and(|number| number > 1.0));
    }
}
