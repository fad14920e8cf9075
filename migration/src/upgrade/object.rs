//! Writes JSON objects from parts that are neither rounded nor parsed.

use seabed_core::Json;
use serde::Serialize;

/// A JSON object under construction.
#[derive(Default)]
pub(super) struct Object(String);

impl Object {
    pub(super) fn json(&mut self, key: &str, json: &str) {
        self.0.push(if self.0.is_empty() { '{' } else { ',' });
        self.0.push_str(Json::from(key).as_str());
        self.0.push(':');
        self.0.push_str(json);
    }

    pub(super) fn text(&mut self, key: &str, text: &str) {
        self.json(key, Json::from(text).as_str());
    }

    pub(super) fn value(&mut self, key: &str, value: &impl Serialize) {
        if let Ok(json) = Json::from_serialize(value) {
            self.json(key, json.as_str());
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn finish(mut self) -> String {
        if self.0.is_empty() {
            self.0.push('{');
        }
        self.0.push('}');
        self.0
    }
}

/// Encodes bytes as pydantic does: base64 with the URL-safe alphabet, padded.
pub(super) fn base64_url(bytes: &[u8]) -> String {
    base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE, bytes)
}
