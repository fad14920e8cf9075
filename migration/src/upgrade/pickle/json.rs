//! Writes actions as google-adk's `migrate_from_sqlalchemy_pickle` does.
//!
//! That function validates with `EventActions().model_validate(actions.model_dump())` and writes with the event's
//! `model_dump(mode="json", exclude_none=True)`. The rules here are therefore pydantic's, for the types that google-adk
//! declares.

use super::text::{decimal, duration, path, python_float};
use super::types::{Kind, part_of_state};
use super::{Id, MAX_DEPTH, Node, PickleError, Result, VALUE};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt::Write as _;

/// Writes `root`, which must be an `EventActions`, in about `budget` bytes.
pub(super) fn actions(nodes: &[Node<'_>], root: Id, budget: usize) -> Result<String> {
    let mut writer = Writer { nodes, json: String::new(), left: budget };
    writer.actions(root)?;
    Ok(writer.json)
}

/// The position of a value in the actions, which determines how pydantic writes it.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    /// In a field of type `Any`, where the migration converts every model to a plain dict before it writes.
    Any,
    /// In a field of a model, where fields that are `None` are omitted.
    Field,
    /// In a field of an `AuthConfig`.
    Auth,
}

/// Fields that the migration adds to an auth config as defaults that older versions lacked. An `APIKey` gets one that
/// was not meant for it: google-adk reads every scheme without its own `scheme` back as `HTTPBearer`.
const AUTH_DEFAULTS: [(&str, &str, &str); 3] = [
    ("OAuth2Auth", "token_endpoint_auth_method", r#""client_secret_basic""#),
    ("ServiceAccount", "use_id_token", "false"),
    ("APIKey", "scheme", r#""bearer""#),
];

/// Writes values of the arena as JSON.
struct Writer<'a> {
    nodes: &'a [Node<'a>],
    json: String,
    /// The bytes that may still be written.
    left: usize,
}

impl<'a> Writer<'a> {
    fn actions(&mut self, root: Id) -> Result<()> {
        let fields = self.fields(root, "EventActions")?;
        self.json.push('{');
        for name in ["state_delta", "artifact_delta", "requested_auth_configs", "requested_tool_confirmations"] {
            if !fields.iter().any(|(field, _)| field == name) {
                self.member(name);
                self.json.push_str("{}");
            }
        }
        for (name, id) in fields {
            let node = &self.nodes[id];
            // For every field that may be `None`, that is the default; the others are checked below.
            let required = name.ends_with("_delta") || name.starts_with("requested_");
            if matches!(node, Node::None) && !required {
                continue;
            }
            self.member(&name);
            match (&*name, node) {
                ("skip_summarization" | "escalate" | "end_of_agent" | "route", Node::Bool(_))
                | ("transfer_to_agent" | "transfer_reason" | "rewind_before_invocation_id" | "route", Node::Str(_))
                | ("route", Node::Int(_) | Node::Long(_))
                | ("set_model_response", _) => self.value(id, Place::Any, 1)?,
                ("route", Node::List(items))
                    if items.iter().all(|item| {
                        matches!(self.nodes[*item], Node::Bool(_) | Node::Int(_) | Node::Long(_) | Node::Str(_))
                    }) =>
                {
                    self.value(id, Place::Any, 1)?;
                }
                ("state_delta" | "agent_state", Node::Dict(pairs)) => {
                    self.map(&name, pairs, |writer, value| writer.value(value, Place::Any, 2))?;
                }
                ("artifact_delta", Node::Dict(pairs)) => self.map(&name, pairs, |writer, value| {
                    matches!(writer.nodes[value], Node::Int(_) | Node::Long(_))
                        .then(|| writer.value(value, Place::Any, 2))
                        .unwrap_or_else(|| {
                            Err(PickleError::Value("an artifact's version that is not an integer".into()))
                        })
                })?,
                ("requested_auth_configs", Node::Dict(pairs)) => {
                    self.map(&name, pairs, |writer, value| writer.model("AuthConfig", value, Place::Auth, 2))?;
                }
                ("requested_tool_confirmations", Node::Dict(pairs)) => {
                    self.map(&name, pairs, |writer, value| writer.model("ToolConfirmation", value, Place::Field, 2))?;
                }
                ("compaction", _) => self.model("EventCompaction", id, Place::Field, 1)?,
                ("render_ui_widgets", Node::List(items)) => {
                    self.json.push('[');
                    for item in items {
                        self.separate();
                        self.model("UiWidget", *item, Place::Field, 2)?;
                    }
                    self.json.push(']');
                }
                _ => return Err(PickleError::Value(format!("the value of the field `{name}`"))),
            }
        }
        self.json.push('}');
        Ok(())
    }

    /// Writes a dict whose keys must all be strings, as in the fields of `EventActions`.
    fn map(
        &mut self,
        name: &str,
        pairs: &'a [(Id, Id)],
        mut write: impl FnMut(&mut Self, Id) -> Result<()>,
    ) -> Result<()> {
        if pairs.iter().any(|(key, _)| !matches!(self.nodes[*key], Node::Str(_))) {
            return Err(PickleError::Value(format!("a key of `{name}` that is not a string")));
        }
        self.json.push('{');
        for (key, value) in self.entries(pairs, &[])? {
            self.member(&key);
            write(self, value)?;
        }
        self.json.push('}');
        Ok(())
    }

    fn model(&mut self, class: &str, id: Id, place: Place, depth: usize) -> Result<()> {
        match self.nodes[id] {
            Node::Object(Kind::Model, name, Some(_)) if name == class => self.value(id, place, depth),
            _ => Err(PickleError::Value(format!("a value in the place of a {class}"))),
        }
    }

    fn value(&mut self, id: Id, place: Place, depth: usize) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(PickleError::Limit("nesting"));
        }
        self.spend(VALUE)?;
        match &self.nodes[id] {
            Node::None => self.json.push_str("null"),
            Node::Bool(true) => self.json.push_str("true"),
            Node::Bool(false) => self.json.push_str("false"),
            Node::Int(_) | Node::Long(_) => {
                let digits = self.text(id)?;
                self.json.push_str(&digits);
            }
            // `{:?}` writes the shortest text that parses back to the same double.
            Node::Float(value) if value.is_finite() => {
                let _ = write!(self.json, "{value:?}");
            }
            Node::Float(_) if place == Place::Any => self.json.push_str("null"),
            Node::Float(value) => return Err(PickleError::Value(format!("the number {value}"))),
            // In an auth config, bytes have a different text than everywhere else.
            Node::Bytes(_) if place == Place::Auth => return Err(PickleError::Value("bytes in an auth config".into())),
            Node::Str(_) | Node::Bytes(_) | Node::Text(_) | Node::Delta(_) | Node::Path(_) => {
                let text = self.text(id)?;
                self.string(&text);
            }
            Node::List(items) | Node::Set(items) | Node::Tuple(items) => {
                self.json.push('[');
                for item in items {
                    self.separate();
                    self.value(*item, place, depth + 1)?;
                }
                self.json.push(']');
            }
            Node::SetOf(list) => self.value(*list, place, depth + 1)?,
            Node::Dict(pairs) => {
                let place = if place == Place::Auth { place } else { Place::Any };
                self.json.push('{');
                for (key, value) in self.entries(pairs, &[])? {
                    self.member(&key);
                    self.value(value, place, depth + 1)?;
                }
                self.json.push('}');
            }
            Node::Object(_, name, _) => self.object(id, name, place, depth)?,
            Node::Class(_, name) => return Err(PickleError::Value(format!("the type {name}"))),
            Node::Zone(_) => return Err(PickleError::Value("a time zone on its own".into())),
        }
        Ok(())
    }

    fn object(&mut self, id: Id, name: &str, place: Place, depth: usize) -> Result<()> {
        let fields = self.fields(id, name)?;
        self.json.push('{');
        for (class, field, default) in AUTH_DEFAULTS {
            if place == Place::Auth && class == name && !fields.iter().any(|(name, _)| name == field) {
                self.member(field);
                self.json.push_str(default);
            }
        }
        for (field, value) in fields {
            if place == Place::Any || !matches!(self.nodes[value], Node::None) {
                self.member(&field);
                self.value(value, place, depth + 1)?;
            }
        }
        self.json.push('}');
        Ok(())
    }

    /// Returns the fields of a model, extra ones last. `__pydantic_private__` is never written.
    fn fields(&mut self, id: Id, class: &str) -> Result<Vec<(Cow<'a, str>, Id)>> {
        let Node::Object(Kind::Model, name, Some(state)) = self.nodes[id] else {
            return Err(PickleError::Value(format!("a value in the place of a {class}")));
        };
        let declared = part_of_state(self.nodes, state, "__dict__");
        let extra = part_of_state(self.nodes, state, "__pydantic_extra__");
        if name != class {
            return Err(PickleError::Value(format!("a {name} in the place of a {class}")));
        }
        let Some(Node::Dict(declared)) = declared.map(|id| &self.nodes[id]) else {
            return Err(PickleError::Malformed("a model has no fields"));
        };
        match extra.map(|id| &self.nodes[id]) {
            Some(Node::Dict(extra)) => self.entries(declared, extra),
            Some(Node::None) | None => self.entries(declared, &[]),
            Some(_) => Err(PickleError::Malformed("the extra fields of a model are not a dict")),
        }
    }

    /// Returns the members of an object. Keys that differ in Python may be equal in JSON; the last one wins, as in
    /// google-adk's migration.
    fn entries(&mut self, pairs: &'a [(Id, Id)], more: &'a [(Id, Id)]) -> Result<Vec<(Cow<'a, str>, Id)>> {
        self.spend(VALUE * (pairs.len() + more.len()))?;
        let mut entries: Vec<(Cow<'a, str>, Id)> = Vec::with_capacity(pairs.len());
        let mut places: HashMap<Cow<'a, str>, usize> = HashMap::with_capacity(pairs.len());
        for (key, value) in pairs.iter().chain(more) {
            let key = self.text(*key)?;
            match places.entry(key.clone()) {
                Entry::Occupied(place) => entries[*place.get()].1 = *value,
                Entry::Vacant(place) => {
                    place.insert(entries.len());
                    entries.push((key, *value));
                }
            }
        }
        Ok(entries)
    }

    /// Returns the text of a value that can be an object key.
    fn text(&mut self, id: Id) -> Result<Cow<'a, str>> {
        let text: Cow<'a, str> = match &self.nodes[id] {
            Node::Str(text) => (*text).into(),
            Node::Text(text) => text.into(),
            // pydantic writes bytes with the URL-safe alphabet.
            Node::Bytes(bytes) => URL_SAFE.encode(bytes).into(),
            Node::Delta(delta) => duration(*delta).into(),
            Node::Int(value) => value.to_string().into(),
            Node::Long(bytes) => {
                // Converting to decimal takes time quadratic in the length.
                self.spend(bytes.len() * bytes.len() / 16)?;
                decimal(bytes).into()
            }
            Node::Bool(true) => "true".into(),
            Node::Bool(false) => "false".into(),
            Node::None => "None".into(),
            Node::Path(parts) => match path(self.nodes, *parts) {
                Some(text) => text.into(),
                None => return Err(PickleError::Value("a path with these parts".into())),
            },
            Node::Float(float) => python_float(*float).into(),
            _ => return Err(PickleError::Value("a key that is a collection".into())),
        };
        self.spend(text.len())?;
        Ok(text)
    }

    fn spend(&mut self, cost: usize) -> Result<()> {
        self.left = self.left.checked_sub(cost).ok_or(PickleError::Limit("size"))?;
        Ok(())
    }

    fn separate(&mut self) {
        if !self.json.ends_with(['{', '[']) {
            self.json.push(',');
        }
    }

    fn member(&mut self, name: &str) {
        self.separate();
        self.string(name);
        self.json.push(':');
    }

    fn string(&mut self, text: &str) {
        self.json.push_str(&serde_json::Value::from(text).to_string());
    }
}
