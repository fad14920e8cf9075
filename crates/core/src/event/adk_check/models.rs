//! The models of google-adk 2.13 and of google-genai 2.34 that an event is made of.

use super::{Field, Kind, Model, Presence};

/// A kind: `[kind]` is a list, `{kind}` an object with any keys, `(kind | kind)` an alternative, and an upper-case name
/// a model.
macro_rules! kind {
    (any) => { Kind::Any };
    (bool) => { Kind::Bool };
    (bytes) => { Kind::Bytes };
    (float) => { Kind::Float };
    (int) => { Kind::Int };
    (no_object) => { Kind::NoObject };
    (string) => { Kind::String };
    ([$item:tt]) => { Kind::List(&kind!($item)) };
    ({$value:tt}) => { Kind::Map(&kind!($value)) };
    (($($kind:tt)|+)) => { Kind::OneOf(&[$(kind!($kind)),+]) };
    ($literal:literal) => { Kind::Literal($literal) };
    ($model:ident) => { Kind::Object(&$model) };
}

macro_rules! presence {
    () => {
        Presence::Optional
    };
    (not_null) => {
        Presence::NotNull
    };
    (required) => {
        Presence::Required
    };
}

macro_rules! model {
    ($fields:expr) => {
        Model { fields: $fields, is_open: false, has_aliases: true }
    };
    ($fields:expr, open) => {
        Model { fields: $fields, is_open: true, has_aliases: true }
    };
    ($fields:expr, snake_case) => {
        Model { fields: $fields, is_open: false, has_aliases: false }
    };
}

macro_rules! models {
    ($($model:ident $(($rule:ident))? { $($name:ident: $kind:tt $(= $presence:ident)?),* $(,)? })*) => {$(
        pub(super) static $model: Model = model!(
            &[$(Field { name: stringify!($name), kind: kind!($kind), presence: presence!($($presence)?) }),*]
            $(, $rule)?
        );
    )*};
}

// The last four keys of an event are other ways to give `content`, `actions.state_delta`, `actions.route` and
// `node_info.path`; `citationSources` is one to give `citations`.
models! {
    EVENT (open) {
        model_version: string, content: CONTENT, grounding_metadata: GROUNDING_METADATA, partial: bool,
        turn_complete: bool, turn_complete_reason: string, interaction_status: string, finish_reason: string,
        error_code: string, error_message: string, interrupted: bool, custom_metadata: {any},
        usage_metadata: USAGE_METADATA, live_session_resumption_update: SESSION_RESUMPTION_UPDATE,
        live_session_id: string, go_away: GO_AWAY, voice_activity: VOICE_ACTIVITY, input_transcription: TRANSCRIPTION,
        output_transcription: TRANSCRIPTION, avg_logprobs: float, logprobs_result: LOGPROBS_RESULT,
        cache_metadata: CACHE_METADATA, citation_metadata: CITATION_METADATA, interaction_id: string,
        environment_id: string, invocation_id: string = not_null, author: string = not_null,
        actions: EVENT_ACTIONS = not_null, output: any, node_info: NODE_INFO = not_null,
        long_running_tool_ids: [string], branch: string, isolation_scope: string, id: string = not_null,
        timestamp: float = not_null, message: (string | CONTENT | PART | [(string | PART)]), state: {any},
        route: (bool | int | string | [(bool | int | string)]), node_path: string,
    }
    CONTENT { parts: [PART], role: string }
    PART {
        media_resolution: PART_MEDIA_RESOLUTION, code_execution_result: CODE_EXECUTION_RESULT,
        executable_code: EXECUTABLE_CODE, file_data: FILE_DATA, function_call: FUNCTION_CALL,
        function_response: FUNCTION_RESPONSE, inline_data: BLOB, text: string, thought: bool, thought_signature: bytes,
        video_metadata: VIDEO_METADATA, tool_call: TOOL_CALL, tool_response: TOOL_RESPONSE, part_metadata: {any},
        audio_transcription: TRANSCRIPTION, media_processing: string, speech_metadata: SPEECH_METADATA,
    }
    PART_MEDIA_RESOLUTION { level: string, num_tokens: int }
    CODE_EXECUTION_RESULT { outcome: string, output: string, id: string }
    EXECUTABLE_CODE { code: string, language: string, id: string }
    FILE_DATA { display_name: string, file_uri: string, mime_type: string }
    FUNCTION_CALL { id: string, args: {any}, name: string, partial_args: [PARTIAL_ARG], will_continue: bool }
    PARTIAL_ARG {
        bool_value: bool, json_path: string, null_value: "NULL_VALUE", number_value: float,
        string_value: string, will_continue: bool,
    }
    FUNCTION_RESPONSE {
        will_continue: bool, scheduling: string, parts: [FUNCTION_RESPONSE_PART], id: string, name: string,
        response: {any},
    }
    FUNCTION_RESPONSE_PART {
        inline_data: FUNCTION_RESPONSE_BLOB, file_data: FUNCTION_RESPONSE_FILE_DATA, media_processing: string,
    }
    FUNCTION_RESPONSE_BLOB { mime_type: string, data: bytes, display_name: string }
    FUNCTION_RESPONSE_FILE_DATA { file_uri: string, mime_type: string, display_name: string }
    BLOB { data: bytes, display_name: string, mime_type: string }
    VIDEO_METADATA { end_offset: string, fps: float, start_offset: string }
    TOOL_CALL { id: string, tool_type: string, args: {any} }
    TOOL_RESPONSE { id: string, tool_type: string, response: {any} }
    TRANSCRIPTION {
        text: string, finished: bool, language_code: string, speaker_label: string, words: [WORD_INFO],
        start_offset: string, end_offset: string,
    }
    WORD_INFO { word: string, start_offset: string, end_offset: string }
    SPEECH_METADATA { speaker: string, style: string }
    GROUNDING_METADATA {
        image_search_queries: [string], grounding_chunks: [GROUNDING_CHUNK], grounding_supports: [GROUNDING_SUPPORT],
        retrieval_metadata: RETRIEVAL_METADATA, search_entry_point: SEARCH_ENTRY_POINT, web_search_queries: [string],
        google_maps_widget_context_token: string, retrieval_queries: [string],
        source_flagging_uris: [SOURCE_FLAGGING_URI],
    }
    GROUNDING_CHUNK {
        image: GROUNDING_CHUNK_IMAGE, maps: GROUNDING_CHUNK_MAPS, retrieved_context: RETRIEVED_CONTEXT,
        web: GROUNDING_CHUNK_WEB,
    }
    GROUNDING_CHUNK_IMAGE { source_uri: string, image_uri: string, title: string, domain: string }
    GROUNDING_CHUNK_MAPS {
        place_answer_sources: PLACE_ANSWER_SOURCES, place_id: string, text: string, title: string, uri: string,
        route: GROUNDING_CHUNK_MAPS_ROUTE,
    }
    PLACE_ANSWER_SOURCES {
        review_snippet: [REVIEW_SNIPPET], flag_content_uri: string, review_snippets: [REVIEW_SNIPPET],
    }
    REVIEW_SNIPPET {
        author_attribution: AUTHOR_ATTRIBUTION, flag_content_uri: string, google_maps_uri: string,
        relative_publish_time_description: string, review: string, review_id: string, title: string,
    }
    AUTHOR_ATTRIBUTION { display_name: string, photo_uri: string, uri: string }
    GROUNDING_CHUNK_MAPS_ROUTE { distance_meters: int, duration: string, encoded_polyline: string }
    RETRIEVED_CONTEXT {
        document_name: string, rag_chunk: RAG_CHUNK, text: string, title: string, uri: string,
        custom_metadata: [CUSTOM_METADATA], file_search_store: string, page_number: int, media_id: string,
    }
    RAG_CHUNK { page_span: RAG_CHUNK_PAGE_SPAN, text: string, chunk_id: string, file_id: string }
    RAG_CHUNK_PAGE_SPAN { first_page: int, last_page: int }
    CUSTOM_METADATA { key: string, numeric_value: float, string_list_value: STRING_LIST, string_value: string }
    STRING_LIST { values: [string] }
    GROUNDING_CHUNK_WEB { domain: string, title: string, uri: string }
    GROUNDING_SUPPORT {
        confidence_scores: [float], grounding_chunk_indices: [int], segment: SEGMENT, rendered_parts: [int],
    }
    SEGMENT { start_index: int, end_index: int, part_index: int, text: string }
    RETRIEVAL_METADATA { google_search_dynamic_retrieval_score: float }
    SEARCH_ENTRY_POINT { rendered_content: string, sdk_blob: bytes }
    SOURCE_FLAGGING_URI { flag_content_uri: string, source_id: string }
    USAGE_METADATA {
        cache_tokens_details: [MODALITY_TOKEN_COUNT], cached_content_token_count: int, candidates_token_count: int,
        candidates_tokens_details: [MODALITY_TOKEN_COUNT], prompt_token_count: int,
        prompt_tokens_details: [MODALITY_TOKEN_COUNT], thoughts_token_count: int, tool_use_prompt_token_count: int,
        tool_use_prompt_tokens_details: [MODALITY_TOKEN_COUNT], total_token_count: int, traffic_type: string,
    }
    MODALITY_TOKEN_COUNT { modality: string, token_count: int }
    SESSION_RESUMPTION_UPDATE { new_handle: string, resumable: bool, last_consumed_client_message_index: int }
    GO_AWAY { time_left: string }
    VOICE_ACTIVITY { voice_activity_type: string, audio_offset: string }
    LOGPROBS_RESULT {
        chosen_candidates: [LOGPROBS_RESULT_CANDIDATE], top_candidates: [LOGPROBS_RESULT_TOP_CANDIDATES],
        log_probability_sum: float,
    }
    LOGPROBS_RESULT_CANDIDATE { log_probability: float, token: string, token_id: int }
    LOGPROBS_RESULT_TOP_CANDIDATES { candidates: [LOGPROBS_RESULT_CANDIDATE] }
    CACHE_METADATA (snake_case) {
        cache_name: string, expire_time: float, fingerprint: string = required, invocations_used: int,
        contents_count: int = required, created_at: float,
    }
    CITATION_METADATA { citations: [CITATION], citationSources: [CITATION] }
    CITATION { end_index: int, license: string, publication_date: DATE, start_index: int, title: string, uri: string }
    DATE { day: int, month: int, year: int }
    EVENT_ACTIONS {
        skip_summarization: bool, state_delta: {any} = not_null, artifact_delta: {int} = not_null,
        transfer_to_agent: string, transfer_reason: string, escalate: bool,
        requested_auth_configs: {(AUTH_CONFIG | no_object)} = not_null,
        requested_tool_confirmations: {TOOL_CONFIRMATION} = not_null, compaction: COMPACTION, end_of_agent: bool,
        agent_state: {any}, rewind_before_invocation_id: string, route: (bool | int | string | [(bool | int | string)]),
        render_ui_widgets: [UI_WIDGET], set_model_response: any,
    }
    AUTH_CONFIG (open) {
        auth_scheme: {any} = required, raw_auth_credential: {any}, exchanged_auth_credential: {any},
        credential_key: string,
    }
    TOOL_CONFIRMATION { hint: string = not_null, confirmed: bool = not_null, payload: any }
    COMPACTION {
        start_timestamp: float = required, end_timestamp: float = required, compacted_content: CONTENT = required,
    }
    UI_WIDGET { id: string = required, provider: string = required, payload: {any} = not_null }
    NODE_INFO (open) { path: string = not_null, output_for: [string], message_as_output: bool }
}
