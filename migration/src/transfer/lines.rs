//! Sessions as JSON Lines.

use std::io::{self, BufRead, Read as _, Write};

use sea_orm::DbErr;
use seabed_core::entity::{app_states, events, seabed_sessions, sessions, user_states};
use seabed_core::{BackendError, BackendErrorKind, Error, Timestamp, sql};
use serde::{Deserialize, Serialize};

use super::body::Body;
use super::record::{ContentHash, Name, Record, Refused};
use super::source::{Outlet, Source, Stop};
use super::{Progress, Summary, transfer_error};

const FORMAT: &str = "seabed-sessions";
/// Version 1 has no annotations.
const VERSION: u32 = 2;
/// The maximum length of a line, without its line break, in bytes: as much as PostgreSQL's largest `jsonb`. Longer rows
/// are not exported, and a file without line breaks cannot use up memory.
const MAX_LINE: usize = 256 << 20;
/// The number of rows between two calls of the progress callback.
const ROWS_PER_REPORT: u64 = 1000;

/// A line of the file. Times are microseconds since 1970-01-01T00:00:00Z; a [`Body`] is written as in the source.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Line {
    Header {
        format: String,
        version: u32,
    },
    AppState {
        app_name: String,
        state: Body,
        update_time: Timestamp,
    },
    UserState {
        app_name: String,
        user_id: String,
        state: Body,
        update_time: Timestamp,
    },
    Session {
        app_name: String,
        user_id: String,
        id: String,
        state: Body,
        create_time: Timestamp,
        update_time: Timestamp,
    },
    Event {
        app_name: String,
        user_id: String,
        session_id: String,
        id: String,
        invocation_id: String,
        timestamp: Timestamp,
        event_data: Option<Body>,
    },
    Annotations {
        app_name: String,
        user_id: String,
        session_id: String,
        title: Option<String>,
        labels: Option<Body>,
        initial_state: Option<Body>,
        parent_session_id: Option<String>,
        parent_event_id: Option<String>,
        held_since: Option<Timestamp>,
        update_time: Timestamp,
    },
    End {
        rows: u64,
        content: String,
    },
}

pub(super) async fn write(
    mut source: Source,
    mut file: impl Write + Send,
    progress: &mut Progress<'_>,
) -> Result<Summary, Error> {
    let mut summary = Summary { expected_events: source.events, ..Summary::default() };
    let mut rows = 0;
    put(&mut file, &encoded(&Line::Header { format: FORMAT.to_owned(), version: VERSION })?)?;
    while let Some(record) = source.next().await.map_err(transfer_error)? {
        let record = match record {
            Record::Refused(refused) => {
                summary.refused.push(refused);
                continue;
            }
            record => record,
        };
        let (hash, name) = (ContentHash::of(&record), Name::of(&record).map(|name| name.to_string()));
        let count = match &record {
            Record::AppState(_) => &mut summary.app_states,
            Record::UserState(_) => &mut summary.user_states,
            Record::Session(_) => &mut summary.sessions,
            Record::Annotations(_) => &mut summary.annotations,
            _ => &mut summary.events,
        };
        let text = encoded(&line(record).map_err(transfer_error)?)?;
        if text.len() > MAX_LINE {
            let reason = format!("its line would have {} bytes; the limit is {MAX_LINE}", text.len());
            summary.refused.push(Refused { row: name.unwrap_or_default(), reason });
            continue;
        }
        *count += 1;
        summary.content.toggle(hash);
        put(&mut file, &text)?;
        rows += 1;
        if rows % ROWS_PER_REPORT == 0 {
            progress(&summary);
        }
    }
    // Everything in a new file is new.
    (summary.new_sessions, summary.new_events) = (summary.sessions, summary.events);
    summary.changed_states = summary.app_states + summary.user_states;
    summary.stored_content = summary.content;
    put(&mut file, &encoded(&Line::End { rows, content: summary.content.to_string() })?)?;
    file.flush().map_err(write_error)?;
    progress(&summary);
    Ok(summary)
}

fn encoded(line: &Line) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(line).map_err(|error| transfer_error(DbErr::Custom(error.to_string())))
}

fn put(file: &mut impl Write, line: &[u8]) -> Result<(), Error> {
    file.write_all(line).and_then(|()| file.write_all(b"\n")).map_err(write_error)
}

/// The writer's own error is the source, so that its owner recognizes it.
fn write_error(error: io::Error) -> Error {
    BackendError::new(BackendErrorKind::Unexpected, "the file cannot be written").with_source(error).into()
}

fn line(record: Record) -> Result<Line, DbErr> {
    let time = sql::in_range;
    Ok(match record {
        Record::AppState(row) => {
            Line::AppState { app_name: row.app_name, state: Body(row.state), update_time: time(row.update_time)? }
        }
        Record::UserState(row) => Line::UserState {
            app_name: row.app_name,
            user_id: row.user_id,
            state: Body(row.state),
            update_time: time(row.update_time)?,
        },
        Record::Session(row) => Line::Session {
            app_name: row.app_name,
            user_id: row.user_id,
            id: row.id,
            state: Body(row.state),
            create_time: time(row.create_time)?,
            update_time: time(row.update_time)?,
        },
        Record::Event(row) => Line::Event {
            app_name: row.app_name,
            user_id: row.user_id,
            session_id: row.session_id,
            id: row.id,
            invocation_id: row.invocation_id,
            timestamp: time(row.timestamp)?,
            event_data: row.event_data.map(Body),
        },
        Record::Annotations(row) => Line::Annotations {
            app_name: row.app_name,
            user_id: row.user_id,
            session_id: row.session_id,
            title: row.title,
            labels: row.labels.map(Body),
            initial_state: row.initial_state.map(Body),
            parent_session_id: row.parent_session_id,
            parent_event_id: row.parent_event_id,
            held_since: row.held_since.map(time).transpose()?,
            update_time: time(row.update_time)?,
        },
        Record::Refused(refused) => return Err(DbErr::Custom(refused.to_string())),
    })
}

/// Reads the header, then the rows concurrently with their consumer. Uses blocking threads, because a pipe may have no
/// data for a long time.
pub(super) async fn read(mut file: impl BufRead + Send + 'static) -> Result<Source, DbErr> {
    let header = tokio::task::spawn_blocking(move || check_header(&mut file).map(|()| file));
    let mut file = header.await.map_err(|panic| DbErr::Custom(panic.to_string()))??;
    Ok(Source::of(None, |outlet| async move {
        let reading = tokio::task::spawn_blocking(move || read_rows(&mut file, &outlet));
        reading.await.map_err(|panic| Stop::Failed(DbErr::Custom(panic.to_string())))?
    }))
}

fn check_header(file: &mut impl BufRead) -> Result<(), DbErr> {
    let first = next(file, 1);
    match first.unwrap_or_default() {
        Some(Line::Header { format, version: 1..=VERSION }) if format == FORMAT => Ok(()),
        Some(Line::Header { format, version }) if format == FORMAT => {
            let message =
                format!("the file has version {version}, and this release reads only versions up to {VERSION}");
            Err(DbErr::Custom(message))
        }
        _ => Err(DbErr::Custom("the file was not written by `seabed-migrate export`".to_owned())),
    }
}

fn read_rows(file: &mut impl BufRead, outlet: &Outlet) -> Result<(), Stop> {
    let runtime = tokio::runtime::Handle::current();
    let mut content = ContentHash::default();
    let mut rows = 0;
    loop {
        let number = rows + 2;
        let record = match next(file, number)? {
            Some(Line::End { rows: all, content: sum }) => {
                if all == rows && sum == content.to_string() {
                    return Ok(expect_end(file)?);
                }
                let message =
                    format!("the file was changed after the export: {rows} rows instead of {all}, or other content");
                return Err(Stop::Failed(DbErr::Custom(message)));
            }
            Some(line) => record(line).ok_or_else(|| DbErr::Custom(format!("line {number} is a second header")))?,
            None => {
                let message = "the file was cut off; imported rows stay, and importing the complete file adds the rest";
                return Err(Stop::Failed(DbErr::Custom(message.to_owned())));
            }
        };
        rows += 1;
        content.toggle(ContentHash::of(&record));
        runtime.block_on(outlet.send(record))?;
    }
}

/// What follows the last line would be lost without a word. Editors and shells add blank lines.
fn expect_end(file: &mut impl BufRead) -> Result<(), DbErr> {
    let mut rest = file.bytes();
    let is_blank = |byte: &io::Result<u8>| byte.as_ref().is_ok_and(u8::is_ascii_whitespace);
    match rest.find(|byte| !is_blank(byte)) {
        None => return Ok(()),
        Some(byte) => byte.map_err(|error| read_error(&error))?,
    };
    let message = "the file goes on behind the last line of an export, and only the rows before it are imported; \
                   import each export by itself";
    Err(DbErr::Custom(message.to_owned()))
}

fn read_error(error: &io::Error) -> DbErr {
    DbErr::Custom(format!("the file cannot be read: {error}"))
}

/// Reads a line; `None` if the file ends before or in it.
fn next(file: &mut impl BufRead, number: u64) -> Result<Option<Line>, DbErr> {
    let mut text = Vec::new();
    let mut line = file.take(MAX_LINE as u64 + 1);
    line.read_until(b'\n', &mut text).map_err(|error| read_error(&error))?;
    if line.limit() == 0 && !text.ends_with(b"\n") {
        return Err(DbErr::Custom(format!("line {number} is longer than {MAX_LINE} bytes")));
    }
    if text.pop() != Some(b'\n') {
        return Ok(None);
    }
    let place = |error: serde_json::Error| {
        DbErr::Custom(format!("line {number} is invalid: {:?} error, column {}", error.classify(), error.column()))
    };
    serde_json::from_slice(&text).map(Some).map_err(place)
}

fn record(line: Line) -> Option<Record> {
    Some(match line {
        Line::AppState { app_name, state, update_time } => {
            Record::AppState(app_states::Model { app_name, state: state.0, update_time: update_time.to_naive_utc() })
        }
        Line::UserState { app_name, user_id, state, update_time } => Record::UserState(user_states::Model {
            app_name,
            user_id,
            state: state.0,
            update_time: update_time.to_naive_utc(),
        }),
        Line::Session { app_name, user_id, id, state, create_time, update_time } => Record::Session(sessions::Model {
            app_name,
            user_id,
            id,
            state: state.0,
            create_time: create_time.to_naive_utc(),
            update_time: update_time.to_naive_utc(),
        }),
        Line::Event { app_name, user_id, session_id, id, invocation_id, timestamp, event_data } => {
            Record::Event(events::Model {
                id,
                app_name,
                user_id,
                session_id,
                invocation_id,
                timestamp: timestamp.to_naive_utc(),
                event_data: event_data.map(|body| body.0),
            })
        }
        Line::Annotations {
            app_name,
            user_id,
            session_id,
            title,
            labels,
            initial_state,
            parent_session_id,
            parent_event_id,
            held_since,
            update_time,
        } => Record::Annotations(seabed_sessions::Model {
            app_name,
            user_id,
            session_id,
            title,
            labels: labels.map(|body| body.0),
            initial_state: initial_state.map(|body| body.0),
            parent_session_id,
            parent_event_id,
            held_since: held_since.map(Timestamp::to_naive_utc),
            update_time: update_time.to_naive_utc(),
        }),
        Line::Header { .. } | Line::End { .. } => return None,
    })
}
