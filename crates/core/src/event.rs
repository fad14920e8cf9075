//! Events: google-adk's JSON. Fields that programs need are typed; every other key is preserved.

pub(crate) mod adk_check;
mod text;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

use self::adk_check::AdkCheck;
use crate::json::number::AnyNumber;
use crate::replay::is_replay;
use crate::{Clock, Error, IdSource, Json, Result, State, SystemClock, UuidV7};

/// One event of a session, as google-adk 2.13 stores it in `events.event_data`.
///
/// Reads snake_case and camelCase, writes snake_case, and omits fields that are not set. Keys without a field here stay
/// in `extra` unchanged. Inside a tagged, untagged or flattened type of serde's, numbers beyond 64 bits are rounded;
/// see [`Json`].
///
/// google-adk accepts unknown keys at the top level of an event and in `node_info`. Everywhere else, such as in
/// `actions` and in the parts of `content`, it accepts only the keys and types that it knows, and a single event with
/// anything else makes its whole session unreadable to google-adk. A service refuses to append such an event with
/// [`Invalid`](crate::Error::Invalid), unless [`without_adk_check`](crate::sql::ServiceOptions::without_adk_check)
/// turns that off.
///
/// ```
/// use seabed_core::Event;
///
/// let event = Event::new("user").with_content(serde_json::json!({"role": "user", "parts": [{"text": "hi"}]}));
/// assert!(!event.id.is_empty());
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Event {
    /// The idempotency key: one id names one event of its session forever. 1 to 128 characters without NUL.
    pub id: String,
    /// The agent run that the event belongs to. May be empty; at most 256 characters without NUL.
    pub invocation_id: String,
    /// `user`, or the name of the agent.
    pub author: String,
    /// The event's own time in seconds since 1970-01-01T00:00:00Z, as google-adk writes it: from the year 1000 to
    /// 9999-12-31T00:00:00Z. It does not determine the order of events; see [`Revision`](crate::Revision).
    pub timestamp: f64,
    /// The path of agents that led here, such as `root.researcher`.
    pub branch: Option<String>,
    /// The message: google-adk's `Content`, an object with `parts` and `role`.
    pub content: Option<Json>,
    /// Whether this is a streamed fragment. Fragments are never stored.
    pub partial: Option<bool>,
    /// Whether the model has finished its turn.
    pub turn_complete: Option<bool>,
    /// The model's error code.
    pub error_code: Option<String>,
    /// The model's error message.
    pub error_message: Option<String>,
    /// Whether the user interrupted the model.
    pub interrupted: Option<bool>,
    /// Ids of function calls that are still running after this event.
    pub long_running_tool_ids: Option<BTreeSet<String>>,
    /// What the event changes.
    pub actions: EventActions,
    /// All other keys, unchanged.
    pub extra: BTreeMap<String, Json>,
}

/// What an [`Event`] changes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EventActions {
    /// Keys to set in session, `user:` and `app:` state; `temp:` keys are not stored.
    pub state_delta: State,
    /// The new version of each artifact, by file name.
    pub artifact_delta: BTreeMap<String, i64>,
    /// The agent to hand over to.
    pub transfer_to_agent: Option<String>,
    /// Whether to hand over to a parent agent.
    pub escalate: Option<bool>,
    /// Whether the model should not summarize the tool's response.
    pub skip_summarization: Option<bool>,
    /// All other keys, unchanged. google-adk rejects keys here that it does not know.
    pub extra: BTreeMap<String, Json>,
}

impl Event {
    /// Creates an event by `author` with the current time and a new UUIDv7 as its id.
    ///
    /// Repeating the append of an event is safe, because it is stored once. A program that may have to build the event
    /// again, such as a server whose client repeats a request, sets an id that stays the same: [`with_id`](Self::with_id).
    pub fn new(author: impl Into<String>) -> Self {
        Self::from_sources(author, &SystemClock, &UuidV7)
    }

    /// Creates an event by `author` with a time from `clock` and an id from `ids`.
    pub fn from_sources(author: impl Into<String>, clock: &dyn Clock, ids: &dyn IdSource) -> Self {
        Self { id: ids.new_id(), author: author.into(), timestamp: clock.now().as_seconds(), ..Self::default() }
    }

    /// Sets the id, under which the event is stored once, however often it is appended, and whatever its time is.
    pub fn with_id(mut self, id: impl Into<String>) -> Self {
        self.id = id.into();
        self
    }

    /// Sets the invocation.
    pub fn with_invocation_id(mut self, invocation_id: impl Into<String>) -> Self {
        self.invocation_id = invocation_id.into();
        self
    }

    /// Sets the event's own time, in seconds since the epoch.
    pub fn with_timestamp(mut self, seconds: f64) -> Self {
        self.timestamp = seconds;
        self
    }

    /// Sets the message.
    pub fn with_content(mut self, content: impl Into<Json>) -> Self {
        self.content = Some(content.into());
        self
    }

    /// Sets the message to a text of the author's: google-adk's `Content` with the role `user` for the author `user`,
    /// and `model` for an agent.
    ///
    /// ```
    /// let event = seabed_core::Event::new("user").with_text("hello");
    /// assert_eq!(event.content.unwrap().as_str(), r#"{"parts":[{"text":"hello"}],"role":"user"}"#);
    /// ```
    pub fn with_text(self, text: impl Into<String>) -> Self {
        let role = if self.author == "user" { "user" } else { "model" };
        self.with_content(serde_json::json!({"parts": [{"text": text.into()}], "role": role}))
    }

    /// Sets whether this is a streamed fragment.
    pub fn with_partial(mut self, partial: bool) -> Self {
        self.partial = Some(partial);
        self
    }

    /// Sets whether the model has finished its turn.
    pub fn with_turn_complete(mut self, turn_complete: bool) -> Self {
        self.turn_complete = Some(turn_complete);
        self
    }

    /// Sets the path of agents that led here.
    pub fn with_branch(mut self, branch: impl Into<String>) -> Self {
        self.branch = Some(branch.into());
        self
    }

    /// Adds these keys to the state delta.
    pub fn with_state_delta(mut self, delta: State) -> Self {
        self.actions.state_delta.merge(delta);
        self
    }

    /// Whether this is `stored` once more, and so a replay: equal but for the event's own time, and for fields that say
    /// nothing. Those are nulls among the keys of the event, of its actions, of its content and of the content's parts,
    /// and the empty defaults that google-adk writes. Deeper nulls are content.
    pub fn is_replay_of(&self, stored: &Self) -> bool {
        is_replay(self.clone(), stored.clone())
    }

    /// Checks that google-adk 2.13 can read the event, as a service does before it stores it. For services of your own.
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) with the path of what google-adk cannot read, such as `content.parts[0].txt`.
    pub fn check_for_adk(&self) -> Result<()> {
        let written = Json::from_serialize(self).map_err(|error| Error::invalid("event", error.to_string()))?;
        AdkCheck::On.check(&written)
    }

    /// Whether this is a streamed fragment, which is never stored.
    pub fn is_partial(&self) -> bool {
        self.partial == Some(true)
    }
}

/// Writes the keys that are set; the counterpart of `read_object!`.
struct Writer<M>(M);

impl<M: SerializeMap> Writer<M> {
    fn set<T: Serialize + ?Sized>(&mut self, key: &str, value: Option<&T>) -> Result<(), M::Error> {
        value.map_or(Ok(()), |value| self.0.serialize_entry(key, value))
    }

    /// Writes `extra`. A key that has a field of its own is an error, because it would be written twice.
    fn finish(mut self, extra: &BTreeMap<String, Json>, fields: &[&str]) -> Result<M::Ok, M::Error> {
        for (key, value) in extra {
            if fields.contains(&key.as_str()) {
                return Err(ser::Error::custom(format_args!("extra holds {key:?}, which has a field of its own")));
            }
            self.0.serialize_entry(key, value)?;
        }
        self.0.end()
    }
}

fn non_empty(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

/// The keys of all fields: first those that are written, then the aliases that are also read.
const EVENT_FIELDS: [&str; 18] = [
    "id",
    "invocation_id",
    "author",
    "timestamp",
    "branch",
    "content",
    "partial",
    "turn_complete",
    "error_code",
    "error_message",
    "interrupted",
    "long_running_tool_ids",
    "actions",
    "invocationId",
    "turnComplete",
    "errorCode",
    "errorMessage",
    "longRunningToolIds",
];
const ACTION_FIELDS: [&str; 9] = [
    "state_delta",
    "artifact_delta",
    "transfer_to_agent",
    "escalate",
    "skip_summarization",
    "stateDelta",
    "artifactDelta",
    "transferToAgent",
    "skipSummarization",
];

impl Serialize for Event {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut writer = Writer(serializer.serialize_map(None)?);
        writer.set("id", Some(&self.id))?;
        writer.set("invocation_id", non_empty(&self.invocation_id))?;
        writer.set("author", non_empty(&self.author))?;
        writer.set("timestamp", Some(&self.timestamp))?;
        writer.set("branch", self.branch.as_ref())?;
        writer.set("content", self.content.as_ref())?;
        writer.set("partial", self.partial.as_ref())?;
        writer.set("turn_complete", self.turn_complete.as_ref())?;
        writer.set("error_code", self.error_code.as_ref())?;
        writer.set("error_message", self.error_message.as_ref())?;
        writer.set("interrupted", self.interrupted.as_ref())?;
        writer.set("long_running_tool_ids", self.long_running_tool_ids.as_ref())?;
        writer.set("actions", (self.actions != EventActions::default()).then_some(&self.actions))?;
        writer.finish(&self.extra, &EVENT_FIELDS)
    }
}

impl Serialize for EventActions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut writer = Writer(serializer.serialize_map(None)?);
        writer.set("state_delta", (!self.state_delta.is_empty()).then_some(&self.state_delta))?;
        writer.set("artifact_delta", (!self.artifact_delta.is_empty()).then_some(&self.artifact_delta))?;
        writer.set("transfer_to_agent", self.transfer_to_agent.as_ref())?;
        writer.set("escalate", self.escalate.as_ref())?;
        writer.set("skip_summarization", self.skip_summarization.as_ref())?;
        writer.finish(&self.extra, &ACTION_FIELDS)
    }
}

/// A key of a JSON object, borrowed from the text where it has no escapes.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Key<'de>(Cow<'de, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl<'de> Visitor<'de> for Text {
            type Value = Key<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(key)))
            }

            fn visit_str<E>(self, key: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(key.to_owned())))
            }
        }

        deserializer.deserialize_str(Text)
    }
}

/// Implements `Deserialize` for a struct: reads a JSON object key by key, and collects keys without a field in `extra`.
/// A field that is `null` keeps its default; one with `as` is read through another type. If both names of a field are
/// present, the snake case name wins.
macro_rules! read_object {
    ($type:ident, $expecting:literal, { $($field:ident: $name:literal $(| $alias:literal)? $(as $read:ident via $convert:ident)?),* $(,)? }) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Object;

                impl<'de> Visitor<'de> for Object {
                    type Value = $type;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }

                    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<$type, A::Error> {
                        #[derive(Default)]
                        struct Named {
                            $($field: bool),*
                        }
                        let mut read = $type::default();
                        let mut named = Named::default();
                        while let Some(Key(key)) = entries.next_key()? {
                            match &*key {
                                $($name => {
                                    named.$field = true;
                                    read.$field = value(&mut entries, $name)?$(.map($read::$convert))?.unwrap_or_default();
                                }
                                $($alias => {
                                    let aliased = value(&mut entries, $name)?.unwrap_or_default();
                                    if !named.$field {
                                        read.$field = aliased;
                                    }
                                })?)*
                                _ => {
                                    read.extra.insert(key.into_owned(), entries.next_value()?);
                                }
                            }
                        }
                        Ok(read)
                    }
                }

                deserializer.deserialize_map(Object)
            }
        }
    };
}

/// Reads the value of a field; an error names the field.
fn value<'de, T: Deserialize<'de>, A: MapAccess<'de>>(entries: &mut A, name: &str) -> Result<Option<T>, A::Error> {
    entries.next_value().map_err(|error| de::Error::custom(format_args!("{name}: {error}")))
}

read_object!(Event, "an event", {
    id: "id",
    invocation_id: "invocation_id" | "invocationId",
    author: "author",
    timestamp: "timestamp" as AnyNumber via to_double,
    branch: "branch",
    content: "content",
    partial: "partial",
    turn_complete: "turn_complete" | "turnComplete",
    error_code: "error_code" | "errorCode",
    error_message: "error_message" | "errorMessage",
    interrupted: "interrupted",
    long_running_tool_ids: "long_running_tool_ids" | "longRunningToolIds",
    actions: "actions",
});

read_object!(EventActions, "the actions of an event", {
    state_delta: "state_delta" | "stateDelta",
    artifact_delta: "artifact_delta" | "artifactDelta",
    transfer_to_agent: "transfer_to_agent" | "transferToAgent",
    escalate: "escalate",
    skip_summarization: "skip_summarization" | "skipSummarization",
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_and_big_numbers_are_carried_through() {
        let text = r#"{"id":"e1","invocation_id":"i","author":"a","timestamp":1763900000.1234567,"content":{"role":"model"},"actions":{"state_delta":{"k":123456789012345678901234567890},"end_of_agent":true},"node_info":{"path":""},"zzz":null}"#;
        let event: Event = serde_json::from_str(text).unwrap();
        assert_eq!(event.extra["zzz"].as_str(), "null");
        assert_eq!(event.actions.extra["end_of_agent"].as_str(), "true");
        assert_eq!(Json::from_serialize(&event).unwrap(), Json::parse(text).unwrap());
    }

    #[test]
    fn camel_case_is_read_and_snake_case_written() {
        let event: Event = serde_json::from_str(
            r#"{"id":"e","invocationId":"i","turnComplete":true,"actions":{"stateDelta":{"k":null}},"longRunningToolIds":["b","a"]}"#,
        )
        .unwrap();
        assert_eq!(
            serde_json::to_string(&event).unwrap(),
            r#"{"id":"e","invocation_id":"i","timestamp":0.0,"turn_complete":true,"long_running_tool_ids":["a","b"],"actions":{"state_delta":{"k":null}}}"#
        );
    }

    #[test]
    fn a_wrong_type_is_named() {
        let error = serde_json::from_str::<Event>(r#"{"turn_complete":"yes"}"#).unwrap_err();
        assert!(error.to_string().starts_with("turn_complete: "), "{error}");
    }
}
