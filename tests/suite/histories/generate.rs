//! Random histories. Ids, times and names come from small pools, so that rules meet.

use fastrand::Rng;
use seabed::Json;
use serde_json::{Map, Value, json};

use super::{Agent, History};

const INVOCATIONS: [&str; 6] = ["a", "b", "c", "d", "missing", ""];
const AUTHORS: [&str; 3] = ["user", "root", "helper"];
const CALLS: [&str; 4] = ["call-1", "call-2", "call-3", ""];
const FUNCTIONS: [&str; 9] =
    ["f", "f", "f", "f", "f", "g", "adk_framework", "adk_request_credential", "adk_request_confirmation"];
const BRANCHES: [&str; 12] = [
    "",
    "root",
    "root",
    "root.helper",
    "root.helper.deep",
    "rooted",
    "other",
    "f@call-1",
    "root.f@call-1",
    "root.helper@call-2",
    "root.helper.f@call-1.node@2",
    "root@call-3",
];
const PATHS: [&str; 6] = ["", "flow@1", "flow@1/a@1", "flow@1/a@12", "flow@1/b@1", "flow@1/a@1/x@1"];

/// The history of a seed.
pub(super) fn history(seed: u64) -> History {
    let mut rng = Rng::with_seed(seed);
    // What hides events from an agent leaves too little for compactions, so half of the histories are without.
    let is_plain = rng.bool();
    let mut generator = Generator { clock: 0, invocation: 0, is_plain, rng: &mut rng };
    let count = generator.rng.usize(..=if is_plain { 20 } else { 14 });
    let mut events: Vec<Value> = (0..count).map(|number| generator.event(number)).collect();
    let deltas = events.iter().filter_map(|event| event["actions"]["state_delta"].as_object());
    let stored = deltas.flatten().filter(|(key, _)| !key.starts_with("temp:"));
    // Later values replace earlier ones.
    let state = stored.map(|(key, value)| (key.clone(), value.clone().into())).collect();
    if rng.u8(..10) == 0 {
        events.iter_mut().for_each(rename);
    }
    History {
        events: events.into_iter().map(Json::from).collect(),
        agent: if is_plain { Agent::default() } else { agent(&mut rng) },
        state,
        before: pick(&mut rng, &INVOCATIONS).to_owned(),
    }
}

fn agent(rng: &mut Rng) -> Agent {
    let mut maybe = |percent, pool: &[&str]| is(rng, percent).then(|| pick(rng, pool).to_owned());
    Agent {
        branch: maybe(40, &BRANCHES),
        isolation_scope: maybe(10, &CALLS),
        node_path: maybe(40, &PATHS),
        name: maybe(80, &AUTHORS[1..]).unwrap_or_default(),
        is_single_turn: is(rng, 15),
        thoughts: is(rng, 30),
    }
}

fn is(rng: &mut Rng, percent: u8) -> bool {
    rng.u8(..100) < percent
}

fn pick<'a>(rng: &mut Rng, pool: &[&'a str]) -> &'a str {
    rng.choice(pool).copied().unwrap_or_default()
}

struct Generator<'a> {
    rng: &'a mut Rng,
    /// In half seconds; it stands still at times, and some events are off it.
    clock: u32,
    invocation: usize,
    is_plain: bool,
}

impl Generator<'_> {
    fn is(&mut self, percent: u8) -> bool {
        is(self.rng, percent)
    }

    fn pick<'p>(&mut self, pool: &[&'p str]) -> &'p str {
        pick(self.rng, pool)
    }

    fn event(&mut self, number: usize) -> Value {
        self.clock += self.rng.u32(..3);
        if self.is(40) {
            self.invocation = (self.invocation + 1) % 4;
        }
        let time = if self.is(10) { self.rng.u32(..20) } else { self.clock };
        let invocation = if self.is(10) { self.pick(&INVOCATIONS) } else { INVOCATIONS[self.invocation] };
        let mut event = json!({
            "id": format!("e{number}"),
            "invocation_id": invocation,
            "author": self.pick(&AUTHORS),
            "timestamp": seconds(time),
            "actions": self.actions(),
        });
        if self.is(5) {
            // A fragment is never stored, so it changes no state.
            event["partial"] = true.into();
            event["actions"] = json!({});
        }
        let is_plain = self.is_plain;
        let some = |percent| if is_plain { 0 } else { percent };
        for (percent, name, value) in [
            (90, "content", self.content()),
            (some(30), "branch", self.pick(&BRANCHES).into()),
            (some(8), "isolation_scope", self.pick(&CALLS).into()),
            (some(20), "node_info", json!({"path": self.pick(&PATHS)})),
            (some(5), "live_session_id", self.pick(&["live", ""]).into()),
            (4, "input_transcription", json!({"text": "said"})),
            (4, "output_transcription", json!({})),
        ] {
            if self.is(percent) {
                event[name] = value;
            }
        }
        event
    }

    fn actions(&mut self) -> Value {
        let mut actions = json!({});
        if self.is(12) {
            actions["rewind_before_invocation_id"] = self.pick(&INVOCATIONS).into();
        }
        if self.is(18) {
            actions["compaction"] = self.compaction();
        }
        if self.is(40) {
            let mut delta = Map::new();
            for key in ["k", "l", "m", "app:k", "user:k", "temp:k"] {
                if self.is(40) {
                    let values = [json!(null), json!(2), json!("text"), json!({"a": [null]})];
                    delta.insert(key.to_owned(), self.rng.choice(values).unwrap_or_default());
                }
            }
            actions["state_delta"] = delta.into();
        }
        actions
    }

    fn compaction(&mut self) -> Value {
        let (start, end) = (self.rng.u32(..=self.clock), self.clock.saturating_sub(self.rng.u32(..6)));
        let start = if self.is(50) { start } else { start / 2 };
        let text = json!({"text": format!("summary {start} {end}")});
        let parts = if self.is(15) { json!([text, self.part()]) } else { json!([text]) };
        let bound = |time, is_text: bool| if is_text { json!(seconds(time).to_string()) } else { json!(seconds(time)) };
        json!({
            "start_timestamp": bound(start, self.is(5)),
            "end_timestamp": bound(end, self.is(5)),
            "compacted_content": {"role": "model", "parts": parts},
        })
    }

    fn content(&mut self) -> Value {
        let mut content = json!({"role": self.pick(&["user", "model", "model", "model", "model", ""])});
        if self.is(5) {
            content = json!({});
        }
        if self.is(95) {
            let count = [0, 1, 1, 1, 2, 3][self.rng.usize(..6)];
            content["parts"] = (0..count).map(|_| self.part()).collect();
        }
        content
    }

    fn part(&mut self) -> Value {
        let mut function = json!({"name": self.pick(&FUNCTIONS)});
        if self.is(90) {
            function["id"] = self.pick(&CALLS).into();
        }
        let is_function = self.is_plain && self.is(60);
        let mut part = match if is_function { self.rng.u8(5..17) } else { self.rng.u8(..24) } {
            0..=4 => json!({"text": self.pick(&["hi", "hi", "ho", ""])}),
            5..=10 => json!({"function_call": function}),
            11..=16 => json!({"function_response": function}),
            17 => json!({"inline_data": {"mime_type": "image/png", "data": "YQ=="}}),
            18 => json!({"file_data": {"file_uri": "file"}}),
            19 => json!({"executable_code": {"code": "1", "language": "PYTHON"}}),
            20 => json!({"code_execution_result": {"outcome": "OUTCOME_OK"}}),
            21 => json!({"tool_call": {"id": "t"}}),
            22 => json!({"tool_response": {"id": "t"}}),
            _ => json!({"video_metadata": {"fps": 1.0}}),
        };
        if self.is(20) {
            part["thought"] = self.rng.choice([json!(true), json!(true), json!("yes"), json!("off"), json!(1)]).into();
        }
        if self.is(5) {
            part["thought_signature"] = self.pick(&["YQ==", ""]).into();
        }
        part
    }
}

fn seconds(half: u32) -> f64 {
    1_700_000_000.0 + f64::from(half) / 2.0
}

/// Names the keys of an event as google-adk's aliases do. Keys of states have no underscore.
fn rename(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            let renamed = std::mem::take(fields).into_iter().map(|(key, mut value)| {
                rename(&mut value);
                (camel_case(&key), value)
            });
            *fields = renamed.collect();
        }
        Value::Array(items) => items.iter_mut().for_each(rename),
        _ => {}
    }
}

fn camel_case(name: &str) -> String {
    let mut words = name.split('_');
    let mut renamed = words.next().unwrap_or_default().to_owned();
    for word in words {
        let (first, rest) = word.split_at(1);
        renamed.push_str(&(first.to_ascii_uppercase() + rest));
    }
    renamed
}
