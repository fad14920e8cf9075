//! adk-rust's events in google-adk's shape, and back.
//!
//! An event is written in google-adk's shape as well as that shape allows, and read back at once. What did not come
//! back equal is stored beside it, in `custom_metadata.adk_rust`, where google-adk does not look for anything.

mod content;
mod fields;
mod patch;
mod response;

use std::collections::{BTreeMap, HashMap};

use adk_core::{Event, EventActions, EventCompaction, LlmResponse};
use chrono::{DateTime, Utc};
use seabed::{Json, Scope, State};
use serde_json::{Value, json};

use self::fields::{Object, from_seconds, object, time, to_seconds};
use self::patch::Patch;

/// Where an event keeps what google-adk has no place for.
const CUSTOM_METADATA: &str = "custom_metadata";
const ADK_RUST: &str = "adk_rust";
/// The place of the event's time, which has nanoseconds. Of most events, only these do not come back.
const TIMESTAMP: &str = "/timestamp";

/// Copies of the request and of the response that adk-rust's `LlmAgent` puts into each event, besides
/// [`Event::llm_request`].
const COPIES: [&str; 2] = ["gcp.vertex.agent.llm_request", "gcp.vertex.agent.llm_response"];

/// Leaves out what an agent puts into each event for display: the whole request to the model, more than once.
pub(crate) fn leave_out_requests(event: &mut Event) {
    event.llm_request = None;
    event.provider_metadata.retain(|key, _| !COPIES.contains(&key.as_str()));
}

/// Converts an event to what is stored.
///
/// # Errors
/// Those of serde, for an event that adk-rust itself cannot write.
pub(crate) fn encode(mut event: Event) -> serde_json::Result<seabed::Event> {
    // Before the comparison, which stores what cannot be read back.
    event.actions.state_delta.retain(|key, _| Scope::of(key).0 != Scope::Temp);
    let mut stored = write(&event);
    let found = read(&stored);
    let patch = patch::difference(event, found)?;
    if !patch.is_empty() {
        stored.extra.insert(CUSTOM_METADATA.to_owned(), json!({ADK_RUST: patch}).into());
    }
    Ok(stored)
}

/// Converts what is stored to an event of adk-rust's. What cannot be read, because another program wrote it, is left
/// out with a warning.
pub(crate) fn decode(stored: &seabed::Event) -> Event {
    let mut event = read(stored);
    let metadata = extra(stored, &stored.extra, CUSTOM_METADATA);
    let Some(Value::Object(mut patch)) = metadata.and_then(|mut metadata| Some(metadata.get_mut(ADK_RUST)?.take()))
    else {
        return event;
    };
    if let Some(exact) = take_time(&mut patch) {
        event.timestamp = exact;
    }
    if patch.is_empty() {
        return event;
    }
    patch::apply(event.clone(), patch).unwrap_or_else(|| {
        tracing::warn!(target: "seabed", event = stored.id, "custom_metadata.adk_rust does not fit the event");
        event
    })
}

fn take_time(patch: &mut Patch) -> Option<DateTime<Utc>> {
    let exact = patch.get(TIMESTAMP)?.as_str()?.parse().ok()?;
    patch.remove(TIMESTAMP);
    Some(exact)
}

fn write(event: &Event) -> seabed::Event {
    let Event {
        id,
        timestamp,
        invocation_id,
        branch,
        author,
        llm_response,
        actions,
        long_running_tool_ids,
        llm_request: _,
        provider_metadata: _,
    } = event;
    let is_set = |flag: bool| flag.then_some(true);
    let extra = [
        ("usage_metadata", llm_response.usage_metadata.as_ref().map(response::write_usage)),
        ("finish_reason", llm_response.finish_reason.map(|reason| response::write_finish_reason(reason).into())),
        ("citation_metadata", llm_response.citation_metadata.as_ref().map(response::write_citations)),
        ("interaction_id", llm_response.interaction_id.clone().map(Value::from)),
    ];
    seabed::Event {
        id: id.clone(),
        invocation_id: invocation_id.clone(),
        author: author.clone(),
        timestamp: to_seconds(*timestamp),
        branch: (!branch.is_empty()).then(|| branch.clone()),
        content: llm_response.content.as_ref().map(|content| content::write(content).into()),
        partial: is_set(llm_response.partial),
        turn_complete: is_set(llm_response.turn_complete),
        error_code: llm_response.error_code.clone(),
        error_message: llm_response.error_message.clone(),
        interrupted: is_set(llm_response.interrupted),
        long_running_tool_ids: (!long_running_tool_ids.is_empty())
            .then(|| long_running_tool_ids.iter().cloned().collect()),
        actions: write_actions(actions),
        extra: set(extra),
    }
}

fn write_actions(actions: &EventActions) -> seabed::EventActions {
    let EventActions {
        state_delta,
        artifact_delta,
        skip_summarization,
        transfer_to_agent,
        escalate,
        tool_confirmation,
        tool_confirmation_decision: _,
        compaction,
        route,
    } = actions;
    let request = tool_confirmation.as_ref().and_then(|request| {
        let id = request.function_call_id.as_ref()?;
        Some(json!({id: {"hint": "", "confirmed": false, "payload": request.args}}))
    });
    let extra = [
        ("requested_tool_confirmations", request),
        ("compaction", compaction.as_ref().map(write_compaction)),
        ("route", route.clone().map(Value::from)),
    ];
    seabed::EventActions {
        state_delta: state_delta.iter().map(|(key, value)| (key.clone(), value.clone().into())).collect(),
        artifact_delta: artifact_delta.iter().map(|(name, version)| (name.clone(), *version)).collect(),
        transfer_to_agent: transfer_to_agent.clone(),
        escalate: escalate.then_some(true),
        skip_summarization: skip_summarization.then_some(true),
        extra: set(extra),
    }
}

fn write_compaction(compaction: &EventCompaction) -> Value {
    json!({
        "start_timestamp": to_seconds(compaction.start_timestamp),
        "end_timestamp": to_seconds(compaction.end_timestamp),
        "compacted_content": content::write(&compaction.compacted_content),
    })
}

/// The fields that have a value.
fn set<const N: usize>(fields: [(&str, Option<Value>); N]) -> BTreeMap<String, Json> {
    fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.into()))).collect()
}

fn read(stored: &seabed::Event) -> Event {
    let extra = |name| extra(stored, &stored.extra, name);
    let message = stored.content.as_ref().and_then(|content| parse(stored, "content", content));
    Event {
        id: stored.id.clone(),
        timestamp: from_seconds(stored.timestamp).unwrap_or_default(),
        invocation_id: stored.invocation_id.clone(),
        branch: stored.branch.clone().unwrap_or_default(),
        author: stored.author.clone(),
        llm_response: LlmResponse {
            content: message.as_ref().and_then(Value::as_object).map(|json| content::read(json, &stored.author)),
            usage_metadata: extra("usage_metadata").as_ref().and_then(Value::as_object).map(response::read_usage),
            finish_reason: extra("finish_reason").as_ref().map(response::read_finish_reason),
            citation_metadata: extra("citation_metadata")
                .as_ref()
                .and_then(Value::as_object)
                .map(response::read_citations),
            partial: stored.is_partial(),
            turn_complete: stored.turn_complete == Some(true),
            interrupted: stored.interrupted == Some(true),
            error_code: stored.error_code.clone(),
            error_message: stored.error_message.clone(),
            provider_metadata: None,
            interaction_id: extra("interaction_id").as_ref().and_then(Value::as_str).map(str::to_owned),
        },
        actions: read_actions(stored),
        long_running_tool_ids: stored.long_running_tool_ids.iter().flatten().cloned().collect(),
        llm_request: None,
        provider_metadata: HashMap::new(),
    }
}

fn read_actions(stored: &seabed::Event) -> EventActions {
    let actions = &stored.actions;
    let extra = |name| extra(stored, &actions.extra, name);
    EventActions {
        state_delta: read_state(&actions.state_delta),
        artifact_delta: actions.artifact_delta.iter().map(|(name, version)| (name.clone(), *version)).collect(),
        skip_summarization: actions.skip_summarization == Some(true),
        transfer_to_agent: actions.transfer_to_agent.clone(),
        escalate: actions.escalate == Some(true),
        // google-adk's requests do not name the tool.
        tool_confirmation: None,
        tool_confirmation_decision: None,
        compaction: extra("compaction").as_ref().and_then(Value::as_object).and_then(read_compaction),
        route: extra("route").as_ref().and_then(read_route),
    }
}

fn read_compaction(compaction: &Object) -> Option<EventCompaction> {
    Some(EventCompaction {
        start_timestamp: time(compaction, "start_timestamp")?,
        end_timestamp: time(compaction, "end_timestamp")?,
        compacted_content: content::read(object(compaction, "compacted_content")?, "model"),
    })
}

/// Reads google-adk's route: a name, a number or a truth value, or a list of them.
fn read_route(route: &Value) -> Option<Vec<String>> {
    let name = |value: &Value| match value {
        Value::String(name) => Some(name.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        _ => None,
    };
    match route {
        Value::Array(routes) => Some(routes.iter().filter_map(name).collect()),
        route => Some(vec![name(route)?]),
    }
}

/// Converts state. A value that `serde_json` cannot read, such as one nested more than 127 levels deep, is left out
/// with a warning: other programs may have written it.
pub(crate) fn read_state(state: &State) -> HashMap<String, Value> {
    let mut read = HashMap::with_capacity(state.len());
    for (key, value) in state {
        if let Ok(value) = value.decode() {
            read.insert(key.clone(), value);
        } else {
            tracing::warn!(target: "seabed", key, "a value of the state cannot be read");
        }
    }
    read
}

/// Returns a field that Seabed itself has no name for, under its name or in camelCase.
fn extra(stored: &seabed::Event, fields: &BTreeMap<String, Json>, name: &str) -> Option<Value> {
    let json = fields.get(name).or_else(|| fields.get(&fields::camel_case(name)))?;
    parse(stored, name, json).filter(|value| !value.is_null())
}

fn parse(stored: &seabed::Event, name: &str, json: &Json) -> Option<Value> {
    let read = json.decode().ok();
    if read.is_none() {
        tracing::warn!(target: "seabed", event = stored.id, field = name, "a field of an event cannot be read");
    }
    read
}
