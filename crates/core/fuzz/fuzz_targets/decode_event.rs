//! Text that anybody may have written into `events.event_data`: neither decoding it nor the check for google-adk
//! panics, and what was decoded is written so that it decodes to the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use seabed_core::{Event, Json, State};

fuzz_target!(|text: &str| {
    if let Ok(event) = serde_json::from_str::<Event>(text) {
        let written = serde_json::to_string(&event).expect("an event that was read can be written");
        let again: Event = serde_json::from_str(&written).expect("an event that was written can be read");
        assert_eq!(event, again, "{written}");
        let _ = event.check_for_adk();
    }
    if let Ok(state) = serde_json::from_str::<State>(text) {
        let written = serde_json::to_string(&state).expect("a state that was read can be written");
        assert_eq!(state, serde_json::from_str::<State>(&written).expect("and read again"), "{written}");
    }
    if let Ok(json) = Json::parse(text) {
        assert_eq!(json, Json::parse(json.as_str()).expect("JSON is JSON"));
    }
});
