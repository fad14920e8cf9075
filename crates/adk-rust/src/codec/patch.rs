//! What an event loses in google-adk's shape: its values by their places in adk-rust's own JSON, as JSON pointers.

use std::mem;

use adk_core::{BlobResourceContents, Content, EmbeddedResource, Event, Part};
use serde_json::{Map, Value};

pub(super) type Patch = Map<String, Value>;

/// Returns what turns `found` into `wanted`. Bytes come back as they are, so they are not compared: in adk-rust's JSON
/// each of them is a number.
pub(super) fn difference(mut wanted: Event, mut found: Event) -> serde_json::Result<Patch> {
    take_bytes(&mut wanted);
    take_bytes(&mut found);
    let mut patch = Patch::new();
    compare(&serde_json::to_value(wanted)?, &serde_json::to_value(found)?, "", &mut patch);
    Ok(patch)
}

fn compare(wanted: &Value, found: &Value, place: &str, patch: &mut Patch) {
    match (wanted, found) {
        // A patch takes no keys away: an object that has one too many is replaced.
        (Value::Object(wanted), Value::Object(found)) if found.keys().all(|key| wanted.contains_key(key)) => {
            for (key, wanted) in wanted {
                let place = format!("{place}/{}", key.replace('~', "~0").replace('/', "~1"));
                match found.get(key) {
                    Some(found) => compare(wanted, found, &place, patch),
                    None => drop(patch.insert(place, wanted.clone())),
                }
            }
        }
        (Value::Array(wanted), Value::Array(found)) if wanted.len() == found.len() => {
            for (index, (wanted, found)) in wanted.iter().zip(found).enumerate() {
                compare(wanted, found, &format!("{place}/{index}"), patch);
            }
        }
        _ if wanted == found => {}
        _ => drop(patch.insert(place.to_owned(), wanted.clone())),
    }
}

/// Applies a patch. `None` if it does not fit the event, which another program must have changed.
pub(super) fn apply(mut event: Event, patch: Patch) -> Option<Event> {
    let bytes = take_bytes(&mut event);
    let mut value = serde_json::to_value(event).ok()?;
    for (pointer, wanted) in patch {
        set(&mut value, &pointer, wanted)?;
    }
    let mut event: Event = serde_json::from_value(value).ok()?;
    let places = blobs(&mut event);
    if places.len() != bytes.len() {
        return None;
    }
    for (place, bytes) in places.into_iter().zip(bytes) {
        *place = bytes;
    }
    Some(event)
}

/// Sets the value at a JSON pointer. The last key of an object may be new.
fn set(value: &mut Value, pointer: &str, wanted: Value) -> Option<()> {
    if let Some(place) = value.pointer_mut(pointer) {
        *place = wanted;
        return Some(());
    }
    let (parent, key) = pointer.rsplit_once('/')?;
    let key = key.replace("~1", "/").replace("~0", "~");
    value.pointer_mut(parent)?.as_object_mut()?.insert(key, wanted);
    Some(())
}

fn take_bytes(event: &mut Event) -> Vec<Vec<u8>> {
    blobs(event).into_iter().map(mem::take).collect()
}

/// Returns all bytes of an event's messages, in order. Those of an embedded resource are inline data in google-adk's
/// shape, at the same position.
fn blobs(event: &mut Event) -> Vec<&mut Vec<u8>> {
    let compacted = event.actions.compaction.as_mut().map(|compaction| &mut compaction.compacted_content);
    let contents: [Option<&mut Content>; 2] = [event.llm_response.content.as_mut(), compacted];
    let mut blobs = Vec::new();
    for part in contents.into_iter().flatten().flat_map(|content| &mut content.parts) {
        match part {
            Part::InlineData { data, .. }
            | Part::EmbeddedResource { resource: EmbeddedResource::Blob(BlobResourceContents { data, .. }) } => {
                blobs.push(data);
            }
            Part::FunctionResponse { function_response, .. } => {
                blobs.extend(function_response.inline_data.iter_mut().map(|item| &mut item.data));
            }
            _ => {}
        }
    }
    blobs
}
