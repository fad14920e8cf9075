//! `adk_internal_metadata`: the version of the schema, under [`SCHEMA_VERSION_KEY`].

use sea_orm::entity::prelude::*;

/// The key of the schema version.
pub const SCHEMA_VERSION_KEY: &str = "schema_version";
/// The schema version that Seabed supports: google-adk's v1.
pub const SCHEMA_VERSION: &str = "1";

/// A fact about the schema.
#[derive(Debug, Clone, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "adk_internal_metadata")]
pub struct Model {
    /// Its name.
    #[sea_orm(primary_key, auto_increment = false, column_type = "String(StringLen::N(128))")]
    pub key: String,
    /// Its value.
    #[sea_orm(column_type = "String(StringLen::N(256))")]
    pub value: String,
}

/// Relations of this table.
#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
