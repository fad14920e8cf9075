//! Redacting an event: its content goes, and what the history depends on stays.

use std::collections::BTreeMap;

use serde_json::json;

use super::view::{Function, Part, View};
use crate::event::adk_check::{AdkCheck, camel_case};
use crate::key::check_id;
use crate::validate::NewEvent;
use crate::{AppendEvent, Clock, Error, Event, ExpectedRevision, Json, NulPolicy, Result, Revision, SessionKey};

/// The keys of an event without a field of their own that say where it belongs, and not what was said.
const KEPT: [&str; 6] =
    ["node_info", "isolation_scope", "live_session_id", "model_version", "finish_reason", "usage_metadata"];
/// The same for its actions.
const KEPT_ACTIONS: [&str; 2] = ["rewind_before_invocation_id", "end_of_agent"];
/// The key under which a redacted event, and the event that reports it, have their marks.
const METADATA: &str = "custom_metadata";
/// The mark of a redacted event.
const REDACTED: &str = "seabed_redacted";
/// The mark of the event that reports a redaction: the id of the redacted event.
pub(crate) const REDACTED_EVENT_ID: &str = "seabed_redacted_event_id";

/// The summary of a compaction that was redacted without a replacement.
const NO_SUMMARY: &str = "(redacted)";

/// A request to [`redact_event`](crate::HistoryService::redact_event).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RedactEvent {
    pub(crate) key: SessionKey,
    pub(crate) event_id: String,
    pub(crate) replacement: Option<String>,
    notice: Event,
}

impl RedactEvent {
    /// Requests to remove the content of an event.
    pub fn new(key: SessionKey, event_id: impl Into<String>) -> Self {
        let event_id = event_id.into();
        let mut notice = Event::new("user");
        notice.invocation_id = format!("p-{}", notice.id);
        let mark = json!({ (REDACTED_EVENT_ID): &event_id });
        notice.extra.insert(METADATA.to_owned(), mark.into());
        Self { key, event_id, replacement: None, notice }
    }

    /// Sets a text to stand in place of the content. This is then another redaction, with a report of its own.
    pub fn with_replacement(self, text: impl Into<String>) -> Self {
        Self { replacement: Some(text.into()), ..Self::new(self.key, self.event_id) }
    }

    /// Returns the session of the event.
    pub fn key(&self) -> &SessionKey {
        &self.key
    }

    /// Returns the event to redact.
    pub fn event_id(&self) -> &str {
        &self.event_id
    }

    /// Returns the text that replaces the content.
    pub fn replacement(&self) -> Option<&str> {
        self.replacement.as_deref()
    }
}

/// The outcome of a [`RedactEvent`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Redacted {
    /// The event as it is stored now.
    pub event: Event,
    /// The revision of the session. It is a new one, unless the event was redacted in the same way before.
    pub revision: Revision,
}

impl Redacted {
    /// Creates the outcome, for a service of your own.
    pub fn new(event: Event, revision: Revision) -> Self {
        Self { event, revision }
    }
}

/// A redaction about to be made.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct NewRedaction {
    /// The session.
    pub key: SessionKey,
    /// The event to redact.
    pub event_id: String,
    /// The event that reports it, to be appended at any revision.
    pub notice: NewEvent,
    replacement: Option<String>,
}

impl NewRedaction {
    /// Validates `request`.
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) for an id that no event can have, and for a text that not every backend can store.
    pub fn try_prepare(request: RedactEvent, clock: &dyn Clock, adk_check: AdkCheck) -> Result<Self> {
        let RedactEvent { key, event_id, replacement, notice } = request;
        check_id("event_id", &event_id)?;
        if let Some(text) = &replacement {
            // Models reject empty texts.
            if text.is_empty() {
                return Err(Error::invalid("replacement", "is empty"));
            }
            let portable = Json::from(text.as_str()).check_portable();
            portable.map_err(|error| Error::invalid("replacement", error.to_string()))?;
        }
        let expected = ExpectedRevision::Any;
        let append = AppendEvent { key: key.clone(), event: notice, expected, nul_policy: NulPolicy::Refuse };
        let notice = NewEvent::try_prepare(append, clock, adk_check)?
            .ok_or_else(|| Error::invalid("event", "the event that reports a redaction is partial"))?;
        Ok(Self { key, event_id, notice, replacement })
    }

    /// Returns what to store in place of `stored`; `None` if it is that already.
    pub fn apply_to(&self, stored: &Event) -> Option<Event> {
        let redacted = redacted(stored, self.replacement.as_deref());
        (redacted != *stored).then_some(redacted)
    }

    /// The error for a session without the event.
    pub(crate) fn no_such_event() -> Error {
        Error::invalid("event_id", "no event of the session has it")
    }
}

/// The event without what was said. Function calls and their responses stay, emptied: each needs the other.
fn redacted(event: &Event, replacement: Option<&str>) -> Event {
    let mut redacted = event.clone();
    redacted.content = content(event, replacement);
    redacted.error_message = None;
    redacted.extra.retain(|key, _| is_one_of(&KEPT, key));
    redacted.extra.insert(METADATA.to_owned(), json!({ (REDACTED): true }).into());
    let compactions = event.actions.extra.iter().filter(|(key, _)| *key == "compaction");
    let compactions: Vec<_> =
        compactions.filter_map(|(key, value)| Some((key.clone(), without_summary(value, replacement)?))).collect();
    redacted.actions.extra.retain(|key, _| is_one_of(&KEPT_ACTIONS, key));
    redacted.actions.extra.extend(compactions);
    redacted
}

/// Whether a key has one of these names, as they are or in camelCase.
fn is_one_of(names: &[&str], key: &str) -> bool {
    names.iter().any(|name| key == *name || camel_case(name).eq(key.chars()))
}

fn content(event: &Event, replacement: Option<&str>) -> Option<Json> {
    let text = replacement.map(|text| json!({ "text": text }));
    let parts: Vec<_> = text.into_iter().chain(View::of(event).parts.iter().filter_map(emptied)).collect();
    let fields = event.content.as_ref().and_then(|content| content.decode::<BTreeMap<String, Json>>().ok());
    let role = fields.and_then(|fields| fields.get("role")?.decode::<String>().ok());
    let role = role.unwrap_or_else(|| if event.author == "user" { "user" } else { "model" }.to_owned());
    (!parts.is_empty()).then(|| json!({ "parts": parts, "role": role }).into())
}

/// A function call without its arguments, or a response without its result; `None` for any other part.
fn emptied(part: &Part) -> Option<serde_json::Value> {
    let (name, of, filling) = match part {
        Part { call: Some(call), .. } => ("function_call", call, "args"),
        Part { response: Some(response), .. } => ("function_response", response, "response"),
        _ => return None,
    };
    let Function { id, name: function } = of;
    let mut emptied = json!({ "name": function, (filling): {} });
    if !id.is_empty() {
        emptied["id"] = id.as_str().into();
    }
    Some(json!({ (name): emptied }))
}

/// A compaction with the replacement as its summary. The range that it hides stays hidden, and google-adk sends a
/// summary to the model even if it says nothing, which models reject.
fn without_summary(compaction: &Json, replacement: Option<&str>) -> Option<Json> {
    let mut fields: BTreeMap<String, Json> = compaction.decode().ok()?;
    for (_, summary) in fields.iter_mut().filter(|(key, _)| is_one_of(&["compacted_content"], key)) {
        let text = replacement.unwrap_or(NO_SUMMARY);
        *summary = json!({ "parts": [{ "text": text }], "role": "model" }).into();
    }
    Json::from_serialize(&fields).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(text: &str) -> Event {
        Json::parse(text).unwrap().decode().unwrap()
    }

    #[test]
    fn nothing_that_was_said_stays() {
        let secret = event(
            r#"{"id": "e", "invocation_id": "i", "author": "agent", "timestamp": 1.25, "branch": "b",
            "content": {"role": "model", "parts": [{"text": "SECRET"}, {"thought": true, "text": "SECRET"},
            {"function_call": {"id": "c", "name": "f", "args": {"k": "SECRET"}}, "thought_signature": "SECRET"},
            {"function_response": {"id": "r", "name": "g", "response": {"k": "SECRET"}}},
            {"inline_data": {"data": "SECRET"}}]}, "error_code": "STOP", "error_message": "SECRET",
            "custom_metadata": {"k": "SECRET"}, "grounding_metadata": {"k": "SECRET"}, "unknown": "SECRET",
            "inputTranscription": {"text": "SECRET"}, "nodeInfo": {"path": "p"}, "usage_metadata": {"n": 1},
            "actions": {"state_delta": {"k": 1}, "artifact_delta": {"f": 2}, "agent_state": {"k": "SECRET"},
            "rewindBeforeInvocationId": "i0", "compaction": {"start_timestamp": 1.5, "end_timestamp": 2.5,
            "compactedContent": {"role": "model", "parts": [{"text": "SECRET"}]}}}}"#,
        );
        for replacement in [None, Some("removed")] {
            let redacted = redacted(&secret, replacement);
            let text = Json::from_serialize(&redacted).unwrap();
            assert!(!text.as_str().contains("SECRET"), "{text:?}");
            let mut parts = vec![
                json!({"function_call": {"id": "c", "name": "f", "args": {}}}),
                json!({"function_response": {"id": "r", "name": "g", "response": {}}}),
            ];
            parts.splice(0..0, replacement.map(|text| json!({ "text": text })));
            assert_eq!(redacted.content, Some(json!({"role": "model", "parts": parts}).into()));
            assert_eq!(redacted.actions.state_delta, secret.actions.state_delta);
            assert_eq!(redacted.actions.artifact_delta, secret.actions.artifact_delta);
            let kept = ["nodeInfo", "usage_metadata"].map(|key| (key, secret.extra.get(key)));
            assert!(kept.iter().all(|(key, value)| redacted.extra.get(*key) == *value), "{redacted:?}");
            assert!(redacted.actions.extra.contains_key("rewindBeforeInvocationId"));
            let compaction = View::of(&redacted).compaction.unwrap();
            assert!(compaction.start == Some(1.5) && compaction.end == Some(2.5) && compaction.content.is_some());
            assert!(text.as_str().contains(replacement.unwrap_or(NO_SUMMARY)), "{text:?}");
            assert_eq!((redacted.id, redacted.timestamp, redacted.branch), ("e".into(), 1.25, Some("b".into())));
        }
    }

    #[test]
    fn a_redacted_event_is_not_redacted_again() {
        let secret = event(r#"{"id": "e", "author": "user", "timestamp": 1, "content": {"parts": [{"text": "x"}]}}"#);
        for replacement in [None, Some("removed")] {
            let once = redacted(&secret, replacement);
            assert_eq!(redacted(&once, replacement), once);
            assert_ne!(once, redacted(&once, Some("other")));
            assert!(!secret.is_replay_of(&once) && once.is_replay_of(&once));
        }
        assert_eq!(redacted(&secret, None).content, None);
        let role = json!({"role": "user", "parts": [{"text": "removed"}]});
        assert_eq!(redacted(&secret, Some("removed")).content, Some(role.into()));
    }
}
