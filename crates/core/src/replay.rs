//! Whether an event is the one that is stored under its id.

use std::collections::BTreeMap;

use crate::{Event, Json};

/// Whether both are the same event: equal but for their own times, and for fields that say nothing.
///
/// Whoever repeats an append may build the event again, with a new time. google-adk writes the empty defaults of its
/// fields, which Seabed leaves out.
pub(crate) fn is_same_event(left: &Json, right: &Json) -> bool {
    let decoded = || left.decode().ok().zip(right.decode().ok());
    left == right || decoded().is_some_and(|(left, right)| is_replay(left, right))
}

/// [`Event::is_replay_of`].
pub(crate) fn is_replay(left: Event, right: Event) -> bool {
    meaning(left) == meaning(right)
}

/// The event without its time and without fields that say nothing.
fn meaning(mut event: Event) -> Event {
    event.timestamp = 0.0;
    event.content = event.content.map(|content| without_nulls(&content));
    event.extra.retain(|key, value| !is_default(key, value));
    event.actions.extra.retain(|key, value| !is_default(key, value));
    event
}

/// Whether the value of a field is the one that google-adk gives it where nothing was said.
fn is_default(key: &str, value: &Json) -> bool {
    let defaults: &[&str] = match key {
        "requested_auth_configs"
        | "requestedAuthConfigs"
        | "requested_tool_confirmations"
        | "requestedToolConfirmations" => &["null", "{}"],
        "node_info" | "nodeInfo" => &["null", "{}", r#"{"path":""}"#],
        _ => &["null"],
    };
    defaults.contains(&value.canonical().as_str())
}

/// A `Content` without the fields of its own and of its parts that are null. Nulls further down are a tool's own.
fn without_nulls(content: &Json) -> Json {
    type Object = BTreeMap<String, Json>;
    let set = |fields: Object| fields.into_iter().filter(|(_, value)| !value.is_null()).collect::<Object>();
    let Ok(fields) = content.decode::<Object>() else { return content.clone() };
    let mut fields = set(fields);
    if let Some(parts) = fields.get_mut("parts")
        && let Ok(objects) = parts.decode::<Vec<Object>>()
        && let Ok(cleared) = Json::from_serialize(&objects.into_iter().map(set).collect::<Vec<_>>())
    {
        *parts = cleared;
    }
    Json::from_serialize(&fields).unwrap_or_else(|_| content.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Json {
        Json::parse(text).unwrap()
    }

    #[test]
    fn an_event_of_google_adk_is_the_same_without_its_empty_fields() {
        let google_adk = r#"{"id":"e","invocation_id":"","author":"user","timestamp":1.5,"branch":null,
            "content":{"parts":[{"text":"hi","thought":null}],"role":"user"},"node_info":{"path":""},
            "actions":{"state_delta":{},"artifact_delta":{},"requested_auth_configs":{},
            "requested_tool_confirmations":{}}}"#;
        let seabed = r#"{"id":"e","author":"user","timestamp":2,"content":{"parts":[{"text":"hi"}],"role":"user"}}"#;
        assert!(is_same_event(&json(google_adk), &json(seabed)));
    }

    #[test]
    fn what_was_said_counts() {
        let event = r#"{"id":"e","author":"user","timestamp":1,"content":{"parts":[{"text":"hi"}]}}"#;
        for other in [
            event.replace("hi", "ho"),
            event.replace("user", "agent"),
            event.replace("\"timestamp\"", "\"output\":0,\"timestamp\""),
            event.replace("\"timestamp\"", "\"actions\":{\"state_delta\":{\"k\":null}},\"timestamp\""),
            event.replace("\"text\":\"hi\"", "\"function_call\":{\"args\":{\"k\":null}}"),
        ] {
            assert!(!is_same_event(&json(event), &json(&other)), "{other}");
        }
        let call = r#"{"id":"e","content":{"parts":[{"function_call":{"args":{"k":null}}}]}}"#;
        assert!(!is_same_event(&json(call), &json(&call.replace("\"k\":null", ""))), "an argument of a tool");
    }
}
