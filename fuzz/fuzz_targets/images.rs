//! See `stead_fuzz`.
#![no_main]

// Layers are unpacked by the program itself, started anew.
libfuzzer_sys::fuzz_target!(
    init: stead_runtime::become_helper(),
    |input: &[u8]| stead_fuzz::run("images", input)
);
