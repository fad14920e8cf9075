//! The Rust crate adk-session (2.3.0), on SQLite and PostgreSQL.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose;
use chrono::{DateTime as Moment, Datelike as _, NaiveDate};
use sea_orm::prelude::DateTime;
use sea_orm::{DbErr, QueryResult};
use seabed_core::entity::events;
use seabed_core::{Json, Scope, State, Timestamp, sql};
use serde::Deserialize;

use super::object::{Object, base64_url};
use crate::rows::time_of;
use crate::transfer::{Shape, event_of};

/// The tables of adk-session. Its times have nanoseconds, and events with equal times have no defined order.
pub(super) struct AdkSession;

type Fields = BTreeMap<String, Json>;

impl Shape for AdkSession {
    fn column(&self, table: &'static str, column: &'static str) -> &'static str {
        match (table, column) {
            ("sessions", "id") => "session_id",
            (_, "create_time") => "created_at",
            (_, "update_time") => "updated_at",
            _ => column,
        }
    }

    fn time(&self, row: &QueryResult, column: &str) -> Result<DateTime, DbErr> {
        if let Ok(time) = time_of(row, column) {
            return Ok(time);
        }
        let text: String = row.try_get("", column)?;
        parse_time(&text).ok_or_else(|| DbErr::Custom(format!("{column} is not a time")))
    }

    /// In adk-session, the session's state contains copies of the app and user state as of the session's last change.
    fn state(&self, table: &'static str, state: State) -> State {
        if table != "sessions" {
            return state;
        }
        let own = state.iter().filter(|(key, _)| Scope::of(key).0 == Scope::Session);
        own.fold(State::new(), |kept, (key, value)| kept.with(key.clone(), value.clone()))
    }

    fn event_columns(&self) -> Vec<(&str, bool)> {
        vec![
            ("invocation_id", false),
            ("branch", false),
            ("author", false),
            ("timestamp", false),
            ("llm_response", true),
            ("actions", true),
            ("long_running_tool_ids", true),
        ]
    }

    /// adk-session stores streamed fragments; google-adk's tables never contain any.
    fn event(&self, row: &QueryResult) -> Result<Option<events::Model>, String> {
        let unreadable = |error: DbErr| error.to_string();
        let text = |column: &str| row.try_get::<String>("", column).map_err(unreadable);
        let response: Fields = parse(&text("llm_response")?, "llm_response")?;
        if response.get("partial").is_some_and(|partial| partial.as_str() == "true") {
            return Ok(None);
        }
        let timestamp = self.time(row, "timestamp").map_err(unreadable)?;
        let mut data = Object::default();
        data.text("id", &text("id")?);
        data.text("invocation_id", &text("invocation_id")?);
        data.text("author", &text("author")?);
        data.value("timestamp", &sql::in_range(timestamp).map_err(unreadable)?.as_seconds());
        let branch = text("branch")?;
        if !branch.is_empty() {
            data.text("branch", &branch);
        }
        let long_running: Vec<String> = parse(&text("long_running_tool_ids")?, "long_running_tool_ids")?;
        if !long_running.is_empty() {
            data.value("long_running_tool_ids", &long_running);
        }
        let actions: Fields = parse(&text("actions")?, "actions")?;
        // Data without a field in google-adk is kept where google-adk does not look for anything.
        let mut custom = Object::default();
        data.json("actions", &write_actions(&actions, &mut custom)?);
        write_response(&response, &mut data, &mut custom)?;
        if !custom.is_empty() {
            let mut metadata = Object::default();
            metadata.json("adk_session", &custom.finish());
            data.json("custom_metadata", &metadata.finish());
        }
        event_of(row, timestamp, Some(data.finish())).map(Some).map_err(unreadable)
    }

    fn spreads_times(&self) -> bool {
        true
    }
}

fn parse<'de, T: Deserialize<'de>>(text: &'de str, name: &str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|_| format!("{name} is not in adk-session's format"))
}

fn parse_time(text: &str) -> Option<DateTime> {
    let moment = Moment::parse_from_rfc3339(text).ok()?;
    Timestamp::try_from(moment.to_utc()).ok().map(Timestamp::to_naive_utc)
}

/// Returns the fields that are set; adk-session writes `null` for the others.
fn set<'a>(fields: &'a Fields, names: &'a [&'a str]) -> impl Iterator<Item = (&'a str, &'a Json)> {
    names.iter().filter_map(|name| fields.get(*name).filter(|json| !json.is_null()).map(|json| (*name, json)))
}

fn write_actions(actions: &Fields, custom: &mut Object) -> Result<String, String> {
    let mut written = Object::default();
    for (name, json) in set(actions, &["state_delta", "artifact_delta", "transfer_to_agent", "route"]) {
        written.json(name, json.as_str());
    }
    for (name, json) in set(actions, &["skip_summarization", "escalate"]).filter(|(_, json)| json.as_str() == "true") {
        written.json(name, json.as_str());
    }
    for (name, json) in set(actions, &["tool_confirmation_decision"]) {
        custom.json(name, json.as_str());
    }
    for (_, json) in set(actions, &["compaction"]) {
        let compaction: Fields = parse(json.as_str(), "compaction")?;
        let mut fields = Object::default();
        for (name, json) in set(&compaction, &["start_timestamp", "end_timestamp"]) {
            let text: String = parse(json.as_str(), name)?;
            let time = parse_time(&text).ok_or_else(|| format!("{name} is not a time"))?;
            fields.value(name, &sql::in_range(time).map_err(|error| error.to_string())?.as_seconds());
        }
        for (name, json) in set(&compaction, &["compacted_content"]) {
            fields.json(name, &write_content(json)?);
        }
        written.json("compaction", &fields.finish());
    }
    for (name, json) in set(actions, &["tool_confirmation"]) {
        let confirmation: Fields = parse(json.as_str(), name)?;
        let Some((_, id)) = set(&confirmation, &["functionCallId"]).next() else {
            custom.json(name, json.as_str());
            continue;
        };
        let id: String = parse(id.as_str(), "functionCallId")?;
        let mut request = Object::default();
        request.text("hint", "");
        request.json("confirmed", "false");
        for (_, json) in set(&confirmation, &["args"]) {
            request.json("payload", json.as_str());
        }
        let mut requests = Object::default();
        requests.json(&id, &request.finish());
        written.json("requested_tool_confirmations", &requests.finish());
    }
    Ok(written.finish())
}

fn write_response(response: &Fields, data: &mut Object, custom: &mut Object) -> Result<(), String> {
    for (name, json) in
        set(response, &["turn_complete", "interrupted", "error_code", "error_message", "interaction_id"])
    {
        data.json(name, json.as_str());
    }
    for (name, json) in set(response, &["provider_metadata"]) {
        custom.json(name, json.as_str());
    }
    for (name, json) in set(response, &["content"]) {
        data.json(name, &write_content(json)?);
    }
    for (name, json) in set(response, &["finish_reason"]) {
        let reason: String = parse(json.as_str(), name)?;
        data.text(
            name,
            match reason.as_str() {
                "Stop" => "STOP",
                "MaxTokens" => "MAX_TOKENS",
                "Safety" => "SAFETY",
                "Recitation" => "RECITATION",
                _ => "OTHER",
            },
        );
    }
    for (name, json) in set(response, &["usage_metadata"]) {
        let mut usage: Fields = parse(json.as_str(), name)?;
        let mut fields = Object::default();
        for (theirs, ours) in [
            ("prompt_token_count", "prompt_token_count"),
            ("candidates_token_count", "candidates_token_count"),
            ("total_token_count", "total_token_count"),
            ("cache_read_input_token_count", "cached_content_token_count"),
            ("thinking_token_count", "thoughts_token_count"),
        ] {
            if let Some(count) = usage.remove(theirs).filter(|json| !json.is_null()) {
                fields.json(ours, count.as_str());
            }
        }
        data.json(name, &fields.finish());
        usage.retain(|_, json| !json.is_null());
        if !usage.is_empty() {
            custom.value(name, &usage);
        }
    }
    for (name, json) in set(response, &["citation_metadata"]) {
        data.json(name, &write_citations(json)?);
    }
    Ok(())
}

fn write_citations(json: &Json) -> Result<String, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Citations {
        #[serde(default)]
        citation_sources: Vec<Fields>,
    }
    let citations: Citations = parse(json.as_str(), "citation_metadata")?;
    let mut written = Vec::new();
    for source in &citations.citation_sources {
        let mut fields = Object::default();
        for (theirs, ours) in [
            ("uri", "uri"),
            ("title", "title"),
            ("license", "license"),
            ("startIndex", "start_index"),
            ("endIndex", "end_index"),
        ] {
            for (_, json) in set(source, &[theirs]) {
                fields.json(ours, json.as_str());
            }
        }
        for (name, json) in set(source, &["publicationDate"]) {
            let text: String = parse(json.as_str(), name)?;
            let day = text.get(..10).and_then(|day| day.parse::<NaiveDate>().ok());
            if let Some(day) = day {
                let mut date = Object::default();
                date.value("year", &day.year());
                date.value("month", &day.month());
                date.value("day", &day.day());
                fields.json("publication_date", &date.finish());
            }
        }
        written.push(Json::parse(fields.finish()).map_err(|error| error.to_string())?);
    }
    let mut object = Object::default();
    object.value("citations", &written);
    Ok(object.finish())
}

fn write_content(json: &Json) -> Result<String, String> {
    #[derive(Deserialize)]
    struct Content {
        role: Option<String>,
        #[serde(default)]
        parts: Vec<Fields>,
    }
    let content: Content = parse(json.as_str(), "content")?;
    let mut written = Object::default();
    if let Some(role) = content.role {
        // google-adk answers function calls in the role of the user.
        written.text("role", if matches!(role.as_str(), "function" | "tool") { "user" } else { &role });
    }
    let parts: Result<Vec<Json>, String> = content
        .parts
        .iter()
        .map(|part| write_part(part).and_then(|part| Json::parse(part).map_err(|error| error.to_string())))
        .collect();
    written.value("parts", &parts?);
    Ok(written.finish())
}

/// Parts have no type field; only their keys distinguish them.
fn write_part(part: &Fields) -> Result<String, String> {
    let mut written = Object::default();
    let signature = |written: &mut Object, name: &str| -> Result<(), String> {
        for (_, json) in set(part, &[name]) {
            let text: String = parse(json.as_str(), name)?;
            // The model's Base64, where google-adk has the bytes.
            let bytes = general_purpose::STANDARD.decode(&text).unwrap_or_else(|_| text.into_bytes());
            written.text("thought_signature", &base64_url(&bytes));
        }
        Ok(())
    };
    if let Some(thinking) = part.get("thinking") {
        written.json("text", thinking.as_str());
        written.json("thought", "true");
        signature(&mut written, "signature")?;
    } else if let Some(text) = part.get("text") {
        written.json("text", text.as_str());
    } else if part.contains_key("data") {
        written.json("inline_data", &write_blob(part)?);
    } else if part.contains_key("file_uri") {
        written.json("file_data", &write_file(part));
    } else if part.contains_key("name") {
        let mut call = Object::default();
        for (name, json) in set(part, &["id", "name"]) {
            call.json(name, json.as_str());
        }
        for (name, json) in set(part, &["args"]) {
            call.json(name, &as_object(json, "value"));
        }
        written.json("function_call", &call.finish());
        signature(&mut written, "thought_signature")?;
    } else if let Some(response) = part.get("functionResponse") {
        written.json("function_response", &write_function_response(part, response)?);
    } else {
        // A part that has no equivalent in google-adk.
        written.text("text", "");
        written.value("part_metadata", part);
    }
    Ok(written.finish())
}

fn write_function_response(part: &Fields, response: &Json) -> Result<String, String> {
    let response: Fields = parse(response.as_str(), "functionResponse")?;
    let mut written = Object::default();
    for (name, json) in set(part, &["id"]).chain(set(&response, &["name"])) {
        written.json(name, json.as_str());
    }
    for (name, json) in set(&response, &["response"]) {
        written.json(name, &as_object(json, "result"));
    }
    let mut parts = Vec::new();
    for (kind, write) in [
        ("inline_data", write_blob as fn(&Fields) -> Result<String, String>),
        ("file_data", |file| Ok(write_file(file))),
    ] {
        for (_, json) in set(&response, &[kind]) {
            for item in parse::<Vec<Fields>>(json.as_str(), kind)? {
                let mut object = Object::default();
                object.json(kind, &write(&item)?);
                parts.push(Json::parse(object.finish()).map_err(|error| error.to_string())?);
            }
        }
    }
    if !parts.is_empty() {
        written.value("parts", &parts);
    }
    Ok(written.finish())
}

/// In adk-session, bytes are a list of numbers.
fn write_blob(part: &Fields) -> Result<String, String> {
    let mut blob = Object::default();
    for (name, json) in set(part, &["mime_type"]) {
        blob.json(name, json.as_str());
    }
    for (name, json) in set(part, &["data"]) {
        let bytes: Vec<u8> = parse(json.as_str(), name)?;
        blob.text(name, &base64_url(&bytes));
    }
    Ok(blob.finish())
}

fn write_file(part: &Fields) -> String {
    let mut file = Object::default();
    for (name, json) in set(part, &["mime_type", "file_uri"]) {
        file.json(name, json.as_str());
    }
    file.finish()
}

/// Returns an object unchanged, and wraps any other value in an object under `key`: google-adk accepts only objects.
fn as_object(json: &Json, key: &str) -> String {
    if json.as_str().trim_start().starts_with('{') {
        return json.as_str().to_owned();
    }
    let mut object = Object::default();
    object.json(key, json.as_str());
    object.finish()
}
