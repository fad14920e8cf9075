//! The message of an event: `Content` and its parts, which both frameworks have, in different shapes.

use adk_core::{Content, EmbeddedResource, FileDataPart, FunctionResponseData, InlineDataPart, Part};
use serde_json::{Value, json};

use super::fields::{Object, bytes, field, items, object, signature, signature_to_base64, text, to_base64};

/// google-adk's `inline_data` and `file_data` may have no type.
const UNKNOWN_TYPE: &str = "application/octet-stream";

pub(super) fn write(content: &Content) -> Value {
    let mut written = Object::new();
    // Of these roles google-adk knows `user` and `model`.
    let role = match content.role.as_str() {
        "function" | "tool" => "user",
        "assistant" => "model",
        role => role,
    };
    if !role.is_empty() {
        written.insert("role".to_owned(), role.into());
    }
    written.insert("parts".to_owned(), content.parts.iter().map(write_part).collect());
    written.into()
}

fn write_part(part: &Part) -> Value {
    match part {
        Part::Thinking { thinking, signature } => {
            with_signature(json!({"text": thinking, "thought": true}), signature.as_deref())
        }
        Part::Text { text } => json!({"text": text}),
        Part::InlineData { mime_type, data, uri: _, annotations: _ } => json!({"inline_data": blob(mime_type, data)}),
        Part::FileData { mime_type, file_uri, annotations: _ } => json!({"file_data": file(mime_type, file_uri)}),
        Part::FunctionCall { name, args, id, thought_signature } => {
            let mut call = json!({"name": name});
            insert(&mut call, "id", id.as_deref());
            // A call without arguments has none.
            insert(&mut call, "args", (!args.is_null()).then(|| as_object(args, "value")));
            with_signature(json!({"function_call": call}), thought_signature.as_deref())
        }
        Part::FunctionResponse { function_response, id, annotations: _ } => {
            json!({"function_response": write_response(function_response, id.as_deref())})
        }
        Part::ServerToolCall { server_tool_call } => json!({"tool_call": server_tool(server_tool_call, "args")}),
        Part::ServerToolResponse { server_tool_response } => {
            json!({"tool_response": server_tool(server_tool_response, "response")})
        }
        Part::EmbeddedResource { resource: EmbeddedResource::Text(resource) } => json!({"text": resource.text}),
        Part::EmbeddedResource { resource: EmbeddedResource::Blob(resource) } => {
            json!({"inline_data": blob(resource.mime_type.as_deref().unwrap_or(UNKNOWN_TYPE), &resource.data)})
        }
    }
}

fn write_response(response: &FunctionResponseData, id: Option<&str>) -> Value {
    let FunctionResponseData { name, response, inline_data, file_data } = response;
    let mut written = json!({"name": name, "response": as_object(response, "result")});
    insert(&mut written, "id", id);
    let blobs = inline_data.iter().map(|item| json!({"inline_data": blob(&item.mime_type, &item.data)}));
    let files = file_data.iter().map(|item| json!({"file_data": file(&item.mime_type, &item.file_uri)}));
    let parts: Vec<Value> = blobs.chain(files).collect();
    insert(&mut written, "parts", (!parts.is_empty()).then_some(parts));
    written
}

fn blob(mime_type: &str, data: &[u8]) -> Value {
    json!({"mime_type": mime_type, "data": to_base64(data)})
}

fn file(mime_type: &str, file_uri: &str) -> Value {
    json!({"mime_type": mime_type, "file_uri": file_uri})
}

fn with_signature(mut part: Value, signature: Option<&str>) -> Value {
    insert(&mut part, "thought_signature", signature.map(signature_to_base64));
    part
}

/// Sets a key of an object, if there is a value.
fn insert(object: &mut Value, key: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        object[key] = value.into();
    }
}

/// Returns an object unchanged, and wraps any other value in an object under `key`: google-adk accepts only objects.
fn as_object(value: &Value, key: &str) -> Value {
    if value.is_object() { value.clone() } else { json!({key: value}) }
}

/// What google-adk has room for in a call of a tool that runs at the provider.
fn server_tool(tool: &Value, payload: &str) -> Value {
    let mut written = json!({});
    if let Some(tool) = tool.as_object() {
        insert(&mut written, "id", text(tool, "id"));
        insert(&mut written, "tool_type", text(tool, "tool_type"));
        insert(&mut written, payload, object(tool, payload).cloned());
    }
    written
}

/// Reads a message. `author` is that of its event; a part that adk-rust has no place for is left out.
pub(super) fn read(content: &Object, author: &str) -> Content {
    let parts: Vec<Part> = items(content, "parts").filter_map(read_part).collect();
    let role = text(content, "role").unwrap_or_else(|| if author == "user" { "user" } else { "model" }.to_owned());
    // adk-rust answers function calls in a role of their own, by which its models find the answers.
    let is_answer = !parts.is_empty() && parts.iter().all(|part| matches!(part, Part::FunctionResponse { .. }));
    Content { role: if is_answer && role == "user" { "function".to_owned() } else { role }, parts }
}

fn read_part(part: &Value) -> Option<Part> {
    let read = part.as_object().and_then(read_known_part);
    if read.is_none() {
        let keys: Vec<&str> = part.as_object().into_iter().flatten().map(|(key, _)| key.as_str()).collect();
        tracing::warn!(target: "seabed", ?keys, "adk-rust has no such part of a message; it is left out");
    }
    read
}

fn read_known_part(part: &Object) -> Option<Part> {
    if let Some(call) = object(part, "function_call") {
        return Some(Part::FunctionCall {
            name: text(call, "name").unwrap_or_default(),
            args: field(call, "args").cloned().unwrap_or_else(|| json!({})),
            id: text(call, "id"),
            thought_signature: signature(part),
        });
    }
    if let Some(response) = object(part, "function_response") {
        return Some(read_response(response));
    }
    if let Some(data) = object(part, "inline_data") {
        let InlineDataPart { mime_type, data, uri, annotations } = read_blob(data);
        return Some(Part::InlineData { mime_type, data, uri, annotations });
    }
    if let Some(data) = object(part, "file_data") {
        let FileDataPart { mime_type, file_uri, annotations } = read_file(data);
        return Some(Part::FileData { mime_type, file_uri, annotations });
    }
    if let Some(tool) = object(part, "tool_call") {
        return Some(Part::ServerToolCall { server_tool_call: read_server_tool(tool, "args") });
    }
    if let Some(tool) = object(part, "tool_response") {
        return Some(Part::ServerToolResponse { server_tool_response: read_server_tool(tool, "response") });
    }
    let text = text(part, "text")?;
    if field(part, "thought") == Some(&Value::Bool(true)) {
        return Some(Part::Thinking { thinking: text, signature: signature(part) });
    }
    Some(Part::Text { text })
}

fn read_response(response: &Object) -> Part {
    let parts = || items(response, "parts").filter_map(Value::as_object);
    Part::FunctionResponse {
        function_response: FunctionResponseData {
            name: text(response, "name").unwrap_or_default(),
            response: field(response, "response").cloned().unwrap_or_else(|| json!({})),
            inline_data: parts().filter_map(|part| object(part, "inline_data")).map(read_blob).collect(),
            file_data: parts().filter_map(|part| object(part, "file_data")).map(read_file).collect(),
        },
        id: text(response, "id"),
        annotations: None,
    }
}

fn read_blob(data: &Object) -> InlineDataPart {
    InlineDataPart {
        mime_type: mime_type(data),
        data: bytes(data, "data").unwrap_or_default(),
        uri: None,
        annotations: None,
    }
}

fn read_file(data: &Object) -> FileDataPart {
    FileDataPart { mime_type: mime_type(data), file_uri: text(data, "file_uri").unwrap_or_default(), annotations: None }
}

fn mime_type(data: &Object) -> String {
    text(data, "mime_type").unwrap_or_else(|| UNKNOWN_TYPE.to_owned())
}

/// adk-rust keeps what the provider sent, which is in camelCase.
fn read_server_tool(tool: &Object, payload: &str) -> Value {
    let mut read = json!({});
    insert(&mut read, "id", text(tool, "id"));
    insert(&mut read, "toolType", text(tool, "tool_type"));
    insert(&mut read, payload, field(tool, payload).cloned());
    read
}
