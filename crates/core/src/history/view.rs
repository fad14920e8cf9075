//! What google-adk reads in an event to decide whether a model sees it.

use std::borrow::{Borrow, Cow};
use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::event::adk_check::{boolean, camel_case, number, text};
use crate::{Event, Json};

/// An event, and what decides about it.
pub(super) struct View<'a> {
    pub(super) event: &'a Event,
    pub(super) has_role: bool,
    pub(super) parts: Vec<Part>,
    pub(super) has_transcript: bool,
    pub(super) isolation_scope: Option<String>,
    pub(super) node_path: String,
    pub(super) is_live: bool,
    pub(super) compaction: Option<Compaction>,
}

/// A part of an event's content.
pub(super) struct Part {
    pub(super) call: Option<Function>,
    pub(super) response: Option<Function>,
    /// It goes to the model whether or not it is a thought: a function's or a tool's call or response, a signature.
    pub(super) is_essential: bool,
    pub(super) is_thought: bool,
    pub(super) has_content: bool,
}

/// A function call or its response. An absent id and an empty one are the same.
pub(super) struct Function {
    pub(super) id: String,
    pub(super) name: String,
}

/// The parts of a compaction; `None` for what is absent or has the wrong type.
pub(super) struct Compaction {
    pub(super) start: Option<f64>,
    pub(super) end: Option<f64>,
    pub(super) content: Option<Json>,
}

impl<'a> View<'a> {
    pub(super) fn of(event: &'a Event) -> Self {
        let content = event.content.as_ref().map(|content| object(content.as_str())).unwrap_or_default();
        let parts: Option<Vec<&RawValue>> =
            get(&content, "parts").and_then(|parts| serde_json::from_str(parts.get()).ok());
        let extra = |name| get(&event.extra, name).filter(|value| !value.is_null());
        let text_of = |name| extra(name).and_then(|value: &Json| text(value.as_str()));
        let node_info = extra("node_info").map(|info| object(info.as_str())).unwrap_or_default();
        Self {
            event,
            has_role: !string(&content, "role").is_empty(),
            parts: parts.unwrap_or_default().into_iter().map(Part::of).collect(),
            has_transcript: extra("input_transcription").or(extra("output_transcription")).is_some(),
            isolation_scope: text_of("isolation_scope"),
            node_path: string(&node_info, "path"),
            is_live: text_of("live_session_id").is_some_and(|id| !id.is_empty()),
            compaction: Compaction::of(event),
        }
    }

    pub(super) fn calls(&self) -> impl Iterator<Item = &Function> {
        self.parts.iter().filter_map(|part| part.call.as_ref())
    }

    pub(super) fn responses(&self) -> impl Iterator<Item = &Function> {
        self.parts.iter().filter_map(|part| part.response.as_ref())
    }

    /// Whether it calls the function of this name, or responds for it.
    pub(super) fn is_about(&self, name: &str) -> bool {
        self.calls().chain(self.responses()).any(|function| function.name == name)
    }
}

impl Part {
    fn of(part: &RawValue) -> Self {
        let fields = object(part.get());
        let has = |name| get(&fields, name).is_some_and(|value| value.get() != "null");
        let has_text = |name| !string(&fields, name).is_empty();
        let function = |name| has(name).then(|| Function::of(get(&fields, name)));
        let (call, response) = (function("function_call"), function("function_response"));
        let is_essential = call.is_some() || response.is_some() || has_text("thought_signature");
        Self {
            is_essential: is_essential || has("tool_call") || has("tool_response"),
            is_thought: get(&fields, "thought").and_then(|value| boolean(value.get())) == Some(true),
            has_content: has_text("text")
                || ["inline_data", "file_data", "executable_code", "code_execution_result"].into_iter().any(has),
            call,
            response,
        }
    }

    /// Whether there is something in it for a model.
    pub(super) fn is_visible(&self, include_thoughts: bool) -> bool {
        self.is_essential || (self.has_content && (include_thoughts || !self.is_thought))
    }
}

impl Function {
    fn of(function: Option<&&RawValue>) -> Self {
        let fields = function.map(|function| object(function.get())).unwrap_or_default();
        Self { id: string(&fields, "id"), name: string(&fields, "name") }
    }
}

impl Compaction {
    fn of(event: &Event) -> Option<Self> {
        let compaction = get(&event.actions.extra, "compaction").filter(|value| value.as_str().starts_with('{'))?;
        let fields = object(compaction.as_str());
        let time = |name| get(&fields, name).and_then(|time| number(time.get()));
        let content = get(&fields, "compacted_content").filter(|content| content.get().starts_with('{'));
        Some(Self {
            start: time("start_timestamp"),
            end: time("end_timestamp"),
            content: content.and_then(|content| Json::parse(content.get()).ok()),
        })
    }
}

/// The invocation that a rewind takes back, with everything after it; `None` for an event that is no rewind.
pub(super) fn rewind_target(event: &Event) -> Option<String> {
    let target = get(&event.actions.extra, "rewind_before_invocation_id").and_then(|id| text(id.as_str()));
    target.filter(|id| !id.is_empty())
}

type Object<'a> = BTreeMap<Cow<'a, str>, &'a RawValue>;

/// One level of a JSON object; empty for a value of another type. As in Python, the last of two equal keys counts.
fn object(json: &str) -> Object<'_> {
    serde_json::from_str(json).unwrap_or_default()
}

/// The value of a field, under its own name or in camelCase.
fn get<'m, K: Borrow<str> + Ord, V>(fields: &'m BTreeMap<K, V>, name: &str) -> Option<&'m V> {
    let alias = || fields.iter().find(|(key, _)| camel_case(name).eq((*key).borrow().chars()));
    fields.get(name).or_else(|| alias().map(|(_, value)| value))
}

/// The text of a field; empty if it is absent or no string.
fn string(fields: &Object<'_>, name: &str) -> String {
    get(fields, name).and_then(|value| text(value.get())).unwrap_or_default()
}
