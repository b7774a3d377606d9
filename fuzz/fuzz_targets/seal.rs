//! See `seal` of the library.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| doorward_fuzz::seal::check(data));
