//! Bytes that anybody may have written into `events.actions`: decoding them never panics, and what was decoded is JSON.

#![no_main]

use libfuzzer_sys::fuzz_target;
use serde::de::IgnoredAny;

fuzz_target!(|pickle: &[u8]| {
    if let Ok(json) = seabed_migration::fuzzing::decode_actions(pickle) {
        serde_json::from_str::<IgnoredAny>(&json).expect("what was decoded is JSON");
    }
});
