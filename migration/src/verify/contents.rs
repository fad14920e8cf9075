//! Reads the contents of the tables, and finds what a service cannot decode.

use std::collections::BTreeMap;

use sea_orm::sea_query::{Alias, Expr, Order, Query};
use sea_orm::{ConnectionTrait as _, DatabaseConnection, DbErr, EntityName as _, QueryResult};
use seabed_core::entity::{app_states, events, seabed_sessions, sessions, user_states};
use seabed_core::{Event, Json, Result, State};

use super::content::NAMED;
use super::{Finding, Repair, Severity, usable_columns};
use crate::rows::{after, json_text, time_of};
use crate::session_tables::SessionTables;
use crate::spec::SchemaSpec;
use crate::{migration_error, own_tables, schema};

/// How many rows one query reads; each may be several megabytes.
const BATCH: u64 = 50;

/// What [`verify_contents`] reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ContentsOptions {
    /// The maximum number of rows of each table, in the order of the primary key. A million by default.
    pub max_rows: u64,
}

impl Default for ContentsOptions {
    fn default() -> Self {
        Self { max_rows: 1_000_000 }
    }
}

/// Reads states, events and times as a service does, and finds the rows that it cannot decode, or decodes with `null`
/// for a number that is not finite. Up to ten rows of a kind are named by their keys, the others counted. Changes
/// nothing. Reads one batch after the other, each in its own statement, and holds one batch in memory.
///
/// Returns nothing for tables that are missing or of another layout, which [`verify`](super::verify) finds.
///
/// # Errors
/// Those of [`verify`](super::verify).
pub async fn verify_contents(tables: impl Into<SessionTables<'_>>, options: ContentsOptions) -> Result<Vec<Finding>> {
    let tables = tables.into();
    let spec = tables.spec().await?;
    find(tables.connection, &spec, options).await.map_err(migration_error)
}

async fn find(
    connection: &DatabaseConnection,
    spec: &SchemaSpec,
    options: ContentsOptions,
) -> Result<Vec<Finding>, DbErr> {
    let mut findings = Vec::new();
    if usable_columns(connection, spec).await?.is_err() {
        return Ok(findings);
    }
    let missing = own_tables::missing(connection, spec).await?;
    for table in TABLES.into_iter().filter(|table| !missing.contains(&(table.name)())) {
        findings.extend(table.find(connection, spec, options.max_rows).await?);
    }
    Ok(findings)
}

/// A table, and what each of its rows holds.
struct Table {
    name: fn() -> &'static str,
    times: &'static [&'static str],
    json: &'static str,
    /// What a row that cannot be decoded leads to.
    consequence: &'static str,
}

const TABLES: [Table; 5] = [
    Table {
        name: || app_states::Entity.table_name(),
        times: &["update_time"],
        json: "state",
        consequence: "get_session and create_session fail for all sessions of these apps; list_sessions returns an error in the place of each",
    },
    Table {
        name: || user_states::Entity.table_name(),
        times: &["update_time"],
        json: "state",
        consequence: "get_session and create_session fail for all sessions of these users; list_sessions returns an error in the place of each",
    },
    Table {
        name: || sessions::Entity.table_name(),
        times: &["create_time", "update_time"],
        json: "state",
        consequence: "these sessions cannot be read; list_sessions returns an error in the place of each",
    },
    Table {
        name: || events::Entity.table_name(),
        times: &["timestamp"],
        json: "event_data",
        consequence: "get_session fails for their sessions; list_events returns the other events",
    },
    Table {
        name: || seabed_sessions::Entity.table_name(),
        times: &["update_time"],
        json: "labels",
        consequence: "find_sessions returns an error in the place of each of these sessions, and their labels cannot be set",
    },
];

/// What is wrong with a column of a row.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    Undecodable,
    NotFinite,
}

/// The rows with one fault in one column.
#[derive(Default)]
struct Faulty {
    count: u64,
    /// The first of them.
    named: Vec<String>,
}

impl Table {
    async fn find(
        &self,
        connection: &DatabaseConnection,
        spec: &SchemaSpec,
        max_rows: u64,
    ) -> Result<Vec<Finding>, DbErr> {
        let keys = schema::primary_keys();
        let key = keys.iter().find(|(table, _)| *table == (self.name)()).map(|(_, key)| &key[..]).unwrap_or_default();
        let mut faults: BTreeMap<(Fault, &str), Faulty> = BTreeMap::new();
        let mut last: Option<Vec<String>> = None;
        let mut left = max_rows;
        loop {
            // A row more than may be read shows that there are others.
            let limit = BATCH.min(left.saturating_add(1));
            let rows = self.batch(connection, spec, key, last.as_deref(), limit).await?;
            let (count, is_cut) = (rows.len() as u64, rows.len() as u64 > left);
            for row in rows.iter().take(rows.len() - usize::from(is_cut)) {
                let values: Vec<String> = key.iter().map(|column| row.try_get("", column)).collect::<Result<_, _>>()?;
                for (column, fault) in self.faults(row) {
                    faults.entry((fault, column)).or_default().add(key, &values);
                }
                last = Some(values);
            }
            if is_cut || count < limit {
                let faults = faults.into_iter().map(|((fault, column), faulty)| self.finding(fault, column, &faulty));
                return Ok(faults.chain(is_cut.then(|| self.cut(max_rows))).collect());
            }
            left -= count;
        }
    }

    /// Reads the rows after the one with the key `last`.
    async fn batch(
        &self,
        connection: &DatabaseConnection,
        spec: &SchemaSpec,
        key: &[&'static str],
        last: Option<&[String]>,
        limit: u64,
    ) -> Result<Vec<QueryResult>, DbErr> {
        let mut select = Query::select();
        select.from(spec.table_ref((self.name)())).columns(key.iter().chain(self.times).copied());
        select.expr_as(json_text(spec, self.json), Alias::new(self.json));
        let columns: Vec<Expr> = key.iter().map(|column| spec.compared(*column)).collect();
        if let Some(last) = last {
            select.cond_where(after(&columns, last));
        }
        for column in columns {
            select.order_by_expr(column, Order::Asc);
        }
        connection.query_all(select.limit(limit)).await
    }

    /// The faults of a row, by column.
    fn faults(&self, row: &QueryResult) -> Vec<(&'static str, Fault)> {
        let times = self.times.iter().filter(|column| time_of(row, column).is_err());
        let mut faults: Vec<_> = times.map(|column| (*column, Fault::Undecodable)).collect();
        let text = row.try_get::<Option<String>>("", self.json).ok().flatten();
        faults.extend(json_fault(self.json, text.as_deref()).map(|fault| (self.json, fault)));
        faults
    }

    fn finding(&self, fault: Fault, column: &str, faulty: &Faulty) -> Finding {
        let rows = faulty.to_string();
        let (severity, problem, consequence, advice) = match fault {
            Fault::Undecodable if column == self.json => (
                Severity::Error,
                format!("{rows} no JSON that can be decoded"),
                self.consequence,
                if column == "labels" {
                    "store a JSON object of strings, or {}"
                } else if column == "state" {
                    "keep the text of each row elsewhere, then store a JSON object: what can be saved of it, or {}"
                } else {
                    "store the JSON of the event, from a backup or mended by hand, or delete the row"
                },
            ),
            Fault::Undecodable => (
                Severity::Error,
                format!("{rows} no time of the years 1 to 9999"),
                self.consequence,
                "store a time: that of a neighboring event, or of the session's last event",
            ),
            Fault::NotFinite => (
                Severity::Warning,
                format!("{rows} NaN or infinities, which are not JSON"),
                "Seabed reads them as null; PostgreSQL cannot store them, and a copy into it leaves these rows out",
                "store other values; a state is mended when its keys are set again",
            ),
        };
        let subject = format!("{}.{column}", (self.name)());
        Finding::new(severity, subject, problem, consequence, Repair::Advice(advice.to_owned()))
    }

    /// The finding that the table has more rows than were to be read.
    fn cut(&self, max_rows: u64) -> Finding {
        Finding::warning(
            (self.name)(),
            format!("only the first {max_rows} rows were read"),
            "nothing is known about the others",
            Repair::Advice("read more: --max-rows NUMBER".to_owned()),
        )
    }
}

/// The fault of a text in a column for JSON; `None` is no text.
fn json_fault(column: &str, text: Option<&str>) -> Option<Fault> {
    let Some(text) = text else { return (column != "labels").then_some(Fault::Undecodable) };
    let json = Json::from_stored(text);
    let is_decodable = match &json {
        Ok(_) if column == "state" => State::from_stored(text).is_ok(),
        Ok(json) if column == "labels" => json.decode::<BTreeMap<String, String>>().is_ok(),
        Ok(json) => json.decode::<Event>().is_ok(),
        Err(_) => false,
    };
    match json {
        Ok(json) if is_decodable => (json.as_str() != text).then_some(Fault::NotFinite),
        _ => Some(Fault::Undecodable),
    }
}

impl Faulty {
    fn add(&mut self, columns: &[&str], values: &[String]) {
        self.count += 1;
        if self.named.len() < NAMED {
            let parts = columns.iter().zip(values).map(|(column, value)| format!("{column} {value:?}"));
            self.named.push(parts.collect::<Vec<_>>().join(", "));
        }
    }
}

impl std::fmt::Display for Faulty {
    /// The number and the keys of the rows, up to the verb.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (rows, have) = if self.count == 1 { ("row", "has") } else { ("rows", "have") };
        write!(f, "{} {rows} ({}", self.count, self.named.join("; "))?;
        if self.count > self.named.len() as u64 {
            write!(f, "; and {} more", self.count - self.named.len() as u64)?;
        }
        write!(f, ") {have}")
    }
}
