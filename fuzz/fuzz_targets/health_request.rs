#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| pyvorin_edge::fuzzing::run("health_request", input));
