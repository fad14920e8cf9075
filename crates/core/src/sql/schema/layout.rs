//! Tables of other programs, under the names that Seabed uses.

use sea_orm::EntityName;

use super::dialect::Column;
use crate::entity::{adk_internal_metadata, events};

/// A layout of the tables that Seabed knows and does not share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OtherLayout {
    /// google-adk's schema v0, with actions pickled by Python.
    V0,
    /// google-adk's `SqliteSessionService`, with times as numbers.
    SqliteSessionService,
    /// Those of the Rust crate adk-session.
    AdkSession,
    /// Those of adk-js, the package `@google/adk` for JavaScript. It claims schema version 1, and keeps times in its own
    /// way.
    AdkJs,
    /// Those of adk-go's `session/database`, with a column for each field of an event.
    AdkGo,
}

impl OtherLayout {
    /// Recognizes a layout by the columns of the tables.
    pub fn of(columns: &[Column]) -> Option<Self> {
        let has_version = columns.iter().any(|column| column.table_name == adk_internal_metadata::Entity.table_name());
        let of_events = |name: &str| {
            let is_it =
                |column: &&Column| column.table_name == events::Entity.table_name() && column.column_name == name;
            columns.iter().find(is_it)
        };
        let key = of_events("app_name")?.data_type.as_str();
        let time = of_events("timestamp").map_or("", |column| column.data_type.as_str());
        if of_events("event_data").is_some_and(|data| is_of_mikro_orm(key, time, data)) {
            return Some(Self::AdkJs);
        }
        if has_version {
            return None;
        }
        if of_events("llm_response").is_some() {
            return Some(Self::AdkSession);
        }
        if of_events("actions").is_some() {
            // GORM limits no text, but for a key of MySQL's.
            let is_gorm = matches!(key, "text" | "longtext" | "varchar(191)");
            return Some(if is_gorm { Self::AdkGo } else { Self::V0 });
        }
        (time == "real").then_some(Self::SqliteSessionService)
    }

    /// Describes the layout in a sentence.
    pub fn describe(self) -> &'static str {
        match self {
            Self::V0 => "the tables have google-adk's schema v0",
            Self::SqliteSessionService => {
                "the tables are those of google-adk's SqliteSessionService, which stores times as numbers"
            }
            Self::AdkSession => "the tables are those of the Rust crate adk-session",
            Self::AdkJs => {
                "the tables are those of adk-js (the package @google/adk), which stores times as integers of \
                 milliseconds on SQLite, in whole seconds on MySQL, and with a time zone on PostgreSQL"
            }
            Self::AdkGo => {
                "the tables are those of adk-go (session/database), which stores each field of an event in a column of \
                 its own"
            }
        }
    }

    /// What to do about it.
    pub fn advice(self) -> &'static str {
        match self {
            Self::V0 => "upgrade them with `seabed-migrate upgrade`",
            Self::SqliteSessionService | Self::AdkSession => {
                "copy them into another database with `seabed-migrate upgrade --to`"
            }
            Self::AdkJs | Self::AdkGo => "use another database, schema or table prefix",
        }
    }
}

/// Whether `events` is as `MikroORM` creates it for adk-js: JSON that is never null, keys of 191 characters (255 in
/// earlier releases; no limit on SQLite), and times of the kind that it gives to JavaScript's `Date`.
fn is_of_mikro_orm(key: &str, time: &str, data: &Column) -> bool {
    let is_kind = match key {
        "text" => data.data_type == "json",
        "varchar(191)" | "varchar(255)" => time == "datetime",
        "character varying(191)" | "character varying(255)" => time.ends_with(" with time zone"),
        _ => false,
    };
    is_kind && data.is_required
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_events(columns: &[(&str, &str)]) -> Vec<Column> {
        let column = |&(name, data_type): &(&str, &str)| Column {
            table_name: "events".to_owned(),
            column_name: name.to_owned(),
            data_type: data_type.to_owned(),
            is_required: true,
            ..Column::default()
        };
        columns.iter().map(column).collect()
    }

    #[test]
    fn layouts_of_other_programs_are_told_apart() {
        let layout = |columns: &[(&str, &str)]| OtherLayout::of(&of_events(columns));
        let mikro = |key, time, data| layout(&[("app_name", key), ("timestamp", time), ("event_data", data)]);
        assert_eq!(mikro("text", "datetime", "json"), Some(OtherLayout::AdkJs));
        assert_eq!(mikro("varchar(255)", "datetime", "longtext"), Some(OtherLayout::AdkJs));
        assert_eq!(mikro("character varying(191)", "timestamp with time zone", "jsonb"), Some(OtherLayout::AdkJs));
        assert_eq!(mikro("text", "real", "text"), Some(OtherLayout::SqliteSessionService));
        assert_eq!(mikro("varchar(191)", "datetime(6)", "longtext"), None);
        assert_eq!(mikro("varchar(128)", "datetime", "text"), None);
        for (key, layout_of) in [("text", OtherLayout::AdkGo), ("character varying(128)", OtherLayout::V0)] {
            assert_eq!(layout(&[("app_name", key), ("actions", "bytea")]), Some(layout_of));
        }
        let versioned = Column { table_name: "adk_internal_metadata".to_owned(), ..Column::default() };
        let columns = [of_events(&[("app_name", "text"), ("actions", "bytea")]), vec![versioned]].concat();
        assert_eq!(OtherLayout::of(&columns), None);
    }
}
