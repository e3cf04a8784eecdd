//! See `stead_fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| stead_fuzz::run("merge_patch", input));
