//! Generated events of adk-rust's come back equal: every field and every part.

use std::collections::HashMap;
use std::future::Future;

use adk_core::{
    BlobResourceContents, CitationMetadata, CitationSource, Content, EmbeddedResource, EventActions, EventCompaction,
    FileDataPart, FinishReason, FunctionResponseData, InlineDataPart, LlmResponse, Part, TextResourceContents,
    ToolConfirmationDecision, ToolConfirmationRequest, UsageMetadata,
};
use adk_session::{CreateRequest, Event, GetRequest, Session, SessionService};
use chrono::{DateTime, Utc};
use proptest::collection::{hash_map, vec};
use proptest::option::of;
use proptest::prelude::*;
use seabed_adk_rust::SeabedSessionService;
use seabed_adk_rust::seabed::MemorySessionService;
use serde_json::Value;

type Generated<T> = BoxedStrategy<T>;

/// Text with what JSON and JSON pointers escape. A NUL character is replaced, so there is none.
fn text() -> Generated<String> {
    prop_oneof!["[a-z]{0,8}", "[~/\"\\\\é🐢\u{2028}]{1,4}", "[A-Za-z0-9+/]{4}{0,3}"].boxed()
}

fn json() -> Generated<Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        proptest::num::f64::NORMAL.prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            hash_map(text(), inner, 0..4).prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
    .boxed()
}

/// adk-rust itself writes `Some(null)` as nothing.
fn optional_json() -> Generated<Option<Value>> {
    of(json().prop_filter("not null", |json| !json.is_null())).boxed()
}

fn time() -> Generated<DateTime<Utc>> {
    // From the year 1000 to 9999.
    (-30_610_224_000_i64..253_402_214_400, 0_u32..1_000_000_000)
        .prop_map(|(seconds, nanos)| DateTime::from_timestamp(seconds, nanos).unwrap())
        .boxed()
}

fn bytes() -> Generated<Vec<u8>> {
    vec(any::<u8>(), 0..8).boxed()
}

fn inline_data() -> Generated<InlineDataPart> {
    (text(), bytes(), of(text()), optional_json())
        .prop_map(|(mime_type, data, uri, annotations)| InlineDataPart { mime_type, data, uri, annotations })
        .boxed()
}

fn file_data() -> Generated<FileDataPart> {
    (text(), text(), optional_json())
        .prop_map(|(mime_type, file_uri, annotations)| FileDataPart { mime_type, file_uri, annotations })
        .boxed()
}

fn resource() -> Generated<EmbeddedResource> {
    prop_oneof![
        (text(), of(text()), text())
            .prop_map(|(uri, mime, text)| EmbeddedResource::Text(TextResourceContents::new(uri, mime, text))),
        (text(), of(text()), bytes())
            .prop_map(|(uri, mime, data)| EmbeddedResource::Blob(BlobResourceContents::new(uri, mime, data).unwrap())),
    ]
    .boxed()
}

fn part() -> Generated<Part> {
    let response = (text(), json(), vec(inline_data(), 0..2), vec(file_data(), 0..2)).prop_map(
        |(name, response, inline_data, file_data)| FunctionResponseData { name, response, inline_data, file_data },
    );
    prop_oneof![
        (text(), of(text())).prop_map(|(thinking, signature)| Part::Thinking { thinking, signature }),
        text().prop_map(|text| Part::Text { text }),
        inline_data().prop_map(|InlineDataPart { mime_type, data, uri, annotations }| Part::InlineData {
            mime_type,
            data,
            uri,
            annotations
        }),
        file_data().prop_map(|FileDataPart { mime_type, file_uri, annotations }| Part::FileData {
            mime_type,
            file_uri,
            annotations
        }),
        (text(), json(), of(text()), of(text())).prop_map(|(name, args, id, thought_signature)| Part::FunctionCall {
            name,
            args,
            id,
            thought_signature
        }),
        (response, of(text()), optional_json()).prop_map(|(function_response, id, annotations)| {
            Part::FunctionResponse { function_response, id, annotations }
        }),
        server_tool("args").prop_map(|server_tool_call| Part::ServerToolCall { server_tool_call }),
        server_tool("response").prop_map(|server_tool_response| Part::ServerToolResponse { server_tool_response }),
        resource().prop_map(|resource| Part::EmbeddedResource { resource }),
    ]
    .boxed()
}

/// What a provider sends, or anything else.
fn server_tool(payload: &'static str) -> Generated<Value> {
    prop_oneof![
        json(),
        (text(), text(), json()).prop_map(move |(id, tool_type, value)| {
            serde_json::json!({"id": id, "toolType": tool_type, payload: value})
        }),
    ]
    .boxed()
}

fn content() -> Generated<Content> {
    let role = prop_oneof![Just("user"), Just("model"), Just("function"), Just("tool"), Just("assistant"), Just("")];
    (role, vec(part(), 0..4)).prop_map(|(role, parts)| Content { role: role.to_owned(), parts }).boxed()
}

fn usage() -> Generated<UsageMetadata> {
    let count = || of(any::<i32>());
    let counts = (any::<i32>(), any::<i32>(), any::<i32>());
    let cost = of(proptest::num::f64::NORMAL);
    (counts, count(), count(), count(), count(), count(), cost, of(any::<bool>()), optional_json())
        .prop_map(|(counts, read, creation, thinking, audio_in, audio_out, cost, is_byok, usage)| UsageMetadata {
            prompt_token_count: counts.0,
            candidates_token_count: counts.1,
            total_token_count: counts.2,
            cache_read_input_token_count: read,
            cache_creation_input_token_count: creation,
            thinking_token_count: thinking,
            audio_input_token_count: audio_in,
            audio_output_token_count: audio_out,
            cost,
            is_byok,
            provider_usage: usage,
        })
        .boxed()
}

fn citation() -> Generated<CitationSource> {
    let date = of(prop_oneof![text(), Just("2024-02-29".to_owned()), Just("2024-02-29T12:00:00Z".to_owned())]);
    (of(text()), of(text()), of(any::<i32>()), of(any::<i32>()), of(text()), date)
        .prop_map(|(uri, title, start_index, end_index, license, publication_date)| CitationSource {
            uri,
            title,
            start_index,
            end_index,
            license,
            publication_date,
        })
        .boxed()
}

fn response() -> Generated<LlmResponse> {
    let reason = of(prop_oneof![
        Just(FinishReason::Stop),
        Just(FinishReason::MaxTokens),
        Just(FinishReason::Safety),
        Just(FinishReason::Recitation),
        Just(FinishReason::Other),
    ]);
    let citations = of(vec(citation(), 0..3).prop_map(|citation_sources| CitationMetadata { citation_sources }));
    let flags = any::<(bool, bool)>();
    (of(content()), of(usage()), reason, citations, flags, of(text()), of(text()), optional_json(), of(text()))
        .prop_map(|(content, usage, reason, citations, flags, code, message, metadata, interaction)| LlmResponse {
            content,
            usage_metadata: usage,
            finish_reason: reason,
            citation_metadata: citations,
            // Partial events are not stored.
            partial: false,
            turn_complete: flags.0,
            interrupted: flags.1,
            error_code: code,
            error_message: message,
            provider_metadata: metadata,
            interaction_id: interaction,
        })
        .boxed()
}

fn actions() -> Generated<EventActions> {
    let confirmation = (text(), of(text()), json())
        .prop_map(|(tool_name, function_call_id, args)| ToolConfirmationRequest { tool_name, function_call_id, args });
    let decision = prop_oneof![Just(ToolConfirmationDecision::Approve), Just(ToolConfirmationDecision::Deny)];
    let compaction = (time(), time(), content()).prop_map(|(start_timestamp, end_timestamp, compacted_content)| {
        EventCompaction { start_timestamp, end_timestamp, compacted_content }
    });
    let deltas = (hash_map(text(), json(), 0..3), hash_map(text(), any::<i64>(), 0..3));
    (deltas, any::<(bool, bool)>(), of(text()), of(confirmation), of(decision), of(compaction), of(vec(text(), 0..3)))
        .prop_map(|(deltas, flags, transfer, tool_confirmation, decision, compaction, route)| EventActions {
            state_delta: deltas.0,
            artifact_delta: deltas.1,
            skip_summarization: flags.0,
            transfer_to_agent: transfer,
            escalate: flags.1,
            tool_confirmation,
            tool_confirmation_decision: decision,
            compaction,
            route,
        })
        .boxed()
}

fn event() -> Generated<Event> {
    let metadata = hash_map(text(), text(), 0..3);
    let author = prop_oneof![Just("user".to_owned()), text()];
    (time(), text(), text(), author, response(), actions(), vec(text(), 0..3), of(text()), metadata)
        .prop_map(|(timestamp, run, branch, author, llm_response, actions, tools, llm_request, metadata)| Event {
            id: "e".to_owned(),
            timestamp,
            invocation_id: run,
            branch,
            author,
            llm_response,
            actions,
            long_running_tool_ids: tools,
            llm_request,
            provider_metadata: metadata,
        })
        .boxed()
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn names() -> GetRequest {
    let [app_name, user_id, session_id] = ["app", "user", "s"].map(str::to_owned);
    GetRequest { app_name, user_id, session_id, num_recent_events: None, after: None }
}

async fn store(service: &SeabedSessionService, event: Event) -> adk_core::Result<Box<dyn Session>> {
    let GetRequest { app_name, user_id, session_id, .. } = names();
    let session_id = Some(session_id);
    service.create(CreateRequest { app_name, user_id, session_id, state: HashMap::new() }).await?;
    service.append_event("s", event).await?;
    service.get(names()).await
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn every_event_comes_back_equal(event in event()) {
        let service = SeabedSessionService::new(MemorySessionService::default()).with_requests();
        let session = run(store(&service, event.clone())).unwrap();
        let found = session.events().at(0).unwrap();
        prop_assert_eq!(serde_json::to_value(found).unwrap(), serde_json::to_value(&event).unwrap());
    }
}

#[test]
fn temporary_state_requests_and_partial_events_are_not_stored() {
    let service = SeabedSessionService::new(MemorySessionService::default());
    let mut event = Event::new("run");
    event.actions.state_delta.insert("temp:secret".to_owned(), 1.into());
    // Too deep to be read back.
    let deep = (0..200).fold(Value::from(1), |value, _| vec![value].into());
    event.actions.state_delta.insert("temp:deep".to_owned(), deep);
    event.llm_request = Some("{}".to_owned());
    event.provider_metadata.insert("gcp.vertex.agent.llm_request".to_owned(), "{}".to_owned());
    event.provider_metadata.insert("other".to_owned(), "kept".to_owned());
    let mut partial = event.clone();
    let session = run(store(&service, event)).unwrap();
    let found = session.events().at(0).unwrap();
    assert!(found.actions.state_delta.is_empty());
    assert_eq!(found.llm_request, None);
    assert_eq!(found.provider_metadata, HashMap::from([("other".to_owned(), "kept".to_owned())]));

    partial.id = "partial".to_owned();
    partial.llm_response.partial = true;
    run(service.append_event("s", partial)).unwrap();
    assert_eq!(run(service.get(names())).unwrap().events().len(), 1);
}

#[test]
fn a_nul_character_is_replaced() {
    let service = SeabedSessionService::new(MemorySessionService::default());
    let mut event = Event::new("run");
    event.set_content(Content::new("model").with_text("a\0b"));
    event.actions.state_delta.insert("key".to_owned(), "\0".into());
    event.llm_response.provider_metadata = Some("\0".into());
    let session = run(store(&service, event)).unwrap();
    let found = session.events().at(0).unwrap();
    assert_eq!(found.content().unwrap().parts[0].text(), Some("a\u{fffd}b"));
    assert_eq!(found.llm_response.provider_metadata, Some("\u{fffd}".into()));
    assert_eq!(session.state().get("key"), Some("\u{fffd}".into()));
}
