//! What a model says about its response: tokens, citations, why it stopped.

use adk_core::{CitationMetadata, CitationSource, FinishReason, UsageMetadata};
use chrono::{Datelike as _, NaiveDate};
use serde_json::{Value, json};

use super::fields::{Object, integer, items, object, text};

pub(super) fn write_finish_reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "STOP",
        FinishReason::MaxTokens => "MAX_TOKENS",
        FinishReason::Safety => "SAFETY",
        FinishReason::Recitation => "RECITATION",
        FinishReason::Other => "OTHER",
    }
}

/// Reads one of google-adk's reasons, of which there are more.
pub(super) fn read_finish_reason(reason: &Value) -> FinishReason {
    match reason.as_str() {
        Some("STOP") => FinishReason::Stop,
        Some("MAX_TOKENS") => FinishReason::MaxTokens,
        Some("SAFETY") => FinishReason::Safety,
        Some("RECITATION") => FinishReason::Recitation,
        _ => FinishReason::Other,
    }
}

pub(super) fn write_usage(usage: &UsageMetadata) -> Value {
    let mut written = json!({
        "prompt_token_count": usage.prompt_token_count,
        "candidates_token_count": usage.candidates_token_count,
        "total_token_count": usage.total_token_count,
    });
    for (name, count) in [
        ("cached_content_token_count", usage.cache_read_input_token_count),
        ("thoughts_token_count", usage.thinking_token_count),
    ] {
        if let Some(count) = count {
            written[name] = count.into();
        }
    }
    written
}

pub(super) fn read_usage(usage: &Object) -> UsageMetadata {
    let count = |name| integer(usage, name).unwrap_or_default();
    UsageMetadata {
        prompt_token_count: count("prompt_token_count"),
        candidates_token_count: count("candidates_token_count"),
        total_token_count: count("total_token_count"),
        cache_read_input_token_count: integer(usage, "cached_content_token_count"),
        thinking_token_count: integer(usage, "thoughts_token_count"),
        ..UsageMetadata::default()
    }
}

pub(super) fn write_citations(metadata: &CitationMetadata) -> Value {
    json!({"citations": metadata.citation_sources.iter().map(write_citation).collect::<Vec<_>>()})
}

fn write_citation(source: &CitationSource) -> Value {
    let CitationSource { uri, title, start_index, end_index, license, publication_date } = source;
    let written = json!({
        "uri": uri,
        "title": title,
        "start_index": start_index,
        "end_index": end_index,
        "license": license,
        "publication_date": publication_date.as_deref().and_then(write_date),
    });
    without_nulls(written)
}

fn without_nulls(mut object: Value) -> Value {
    if let Value::Object(fields) = &mut object {
        fields.retain(|_, value| !value.is_null());
    }
    object
}

/// Returns google-adk's form of a text that begins with a date.
fn write_date(text: &str) -> Option<Value> {
    let date: NaiveDate = text.get(..10)?.parse().ok()?;
    Some(json!({"year": date.year(), "month": date.month(), "day": date.day()}))
}

pub(super) fn read_citations(metadata: &Object) -> CitationMetadata {
    let sources = items(metadata, "citations").filter_map(Value::as_object);
    CitationMetadata { citation_sources: sources.map(read_citation).collect() }
}

fn read_citation(citation: &Object) -> CitationSource {
    CitationSource {
        uri: text(citation, "uri"),
        title: text(citation, "title"),
        start_index: integer(citation, "start_index"),
        end_index: integer(citation, "end_index"),
        license: text(citation, "license"),
        publication_date: object(citation, "publication_date").and_then(read_date),
    }
}

/// Reads a date, whose month and day may be missing.
fn read_date(date: &Object) -> Option<String> {
    let part = |name| integer(date, name).map(|number| format!("-{number:02}"));
    let year = format!("{:04}", integer(date, "year")?);
    let month = part("month");
    let day = month.as_ref().and_then(|_| part("day"));
    Some([year, month.unwrap_or_default(), day.unwrap_or_default()].concat())
}
