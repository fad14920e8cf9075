//! The guards of the adapter for adk-rust.

use super::Mutant;

const ADK_RUST_SERVICE: &str = "crates/adk-rust/src/service.rs";

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        guard: "what google-adk has no place for comes back",
        file: "crates/adk-rust/src/codec/mod.rs",
        from: "    if !patch.is_empty() {\n        stored",
        to: "    if patch.len() == usize::MAX {\n        stored",
        case: "adk_rust::every_event_comes_back_equal",
    },
    Mutant {
        guard: "temporary state stays out of what is stored beside an event",
        file: "crates/adk-rust/src/codec/mod.rs",
        from: "    event.actions.state_delta.retain(|key, _| Scope::of(key).0 != Scope::Temp);\n",
        to: "    event.actions.state_delta.retain(|key, _| Scope::of(key).0 != Scope::Temp || !key.is_empty());\n",
        case: "adk_rust::temporary_state_requests_and_partial_events_are_not_stored",
    },
    Mutant {
        guard: "a session id of two users is an error",
        file: ADK_RUST_SERVICE,
        from: "        self.owners.remove_if(&key.session_id, |owner| owner != key);\n",
        to: "",
        case: "adk_rust::an_id_of_two_users_is_never_guessed",
    },
    Mutant {
        guard: "a run goes on only at its own revision",
        file: ADK_RUST_SERVICE,
        from: "begun.map_or(ExpectedRevision::Any, ExpectedRevision::Exact)",
        to: "begun.map_or(ExpectedRevision::Any, |_| ExpectedRevision::Any)",
        case: "adk_rust::exclusive_runs_do_not_interleave",
    },
    Mutant {
        guard: "an owner that a create may have outdated is not remembered",
        file: ADK_RUST_SERVICE,
        from: "        if self.sightings.load(Ordering::SeqCst) != sightings {\n",
        to: "        if sightings == u64::MAX {\n",
        case: "adk_rust::an_owner_that_a_create_may_have_outdated",
    },
    Mutant {
        guard: "the owner of an id is remembered",
        file: ADK_RUST_SERVICE,
        from: "        if let Some(owner) = self.owners.get(session_id) {\n",
        to: "        if let Some(owner) = self.owners.get(session_id).filter(|_| false) {\n",
        case: "adk_rust::an_id_is_looked_up_once",
    },
];
