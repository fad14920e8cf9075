//! Function calls that a compaction hides although their responses are still there.

use std::collections::{HashMap, HashSet};

use super::compaction::Item;
use super::view::View;

/// The responses to calls. An id may be used again, so a response belongs to the latest call before it with its id.
#[derive(Default)]
struct Pairs<'a> {
    /// The event with the call, by event and id of the response.
    call_of: HashMap<(usize, &'a str), usize>,
    /// The event with the latest response, by event and id of the call.
    response_to: HashMap<(usize, &'a str), usize>,
    /// The calls with a response that is still there.
    answered: HashSet<(usize, &'a str)>,
}

impl<'a> Pairs<'a> {
    fn of(visible: &'a [View<'_>], present: &HashSet<usize>) -> Self {
        let mut pairs = Self::default();
        let mut latest_call: HashMap<&str, usize> = HashMap::new();
        for (index, view) in visible.iter().enumerate() {
            let named = |id: &&str| !id.is_empty();
            latest_call.extend(view.calls().map(|call| call.id.as_str()).filter(named).map(|id| (id, index)));
            for id in view.responses().map(|response| response.id.as_str()) {
                let Some(&call) = latest_call.get(id) else { continue };
                pairs.call_of.insert((index, id), call);
                if present.contains(&index) {
                    pairs.answered.insert((call, id));
                }
                let latest = pairs.response_to.entry((call, id)).or_insert(index);
                if view.event.timestamp >= visible[*latest].event.timestamp {
                    *latest = index;
                }
            }
        }
        pairs
    }
}

/// Puts hidden calls back before the first response that is still there, each with the responses to its event's other
/// calls, so that none of them looks as if it were waiting.
pub(super) fn put_back(items: Vec<Item>, visible: &[View<'_>]) -> Vec<Item> {
    let present = items.iter().filter_map(|item| match item {
        Item::Event(index) => Some(*index),
        Item::Summary(_) => None,
    });
    let present: HashSet<usize> = present.collect();
    let pairs = Pairs::of(visible, &present);
    let mut calls = HashSet::new();
    let mut responses = HashSet::new();
    let mut result = Vec::with_capacity(items.len());
    for item in items {
        if let Item::Event(index) = item {
            for response in visible[index].responses() {
                let Some(&call) = pairs.call_of.get(&(index, response.id.as_str())) else { continue };
                if present.contains(&call) || !calls.insert(call) {
                    continue;
                }
                result.push(Item::Event(call));
                for sibling in visible[call].calls().map(|sibling| (call, sibling.id.as_str())) {
                    let Some(&response) = pairs.response_to.get(&sibling) else { continue };
                    if !pairs.answered.contains(&sibling) && responses.insert(response) {
                        result.push(Item::Event(response));
                    }
                }
            }
        }
        result.push(item);
    }
    result
}
