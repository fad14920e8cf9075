//! `sessions`: one row per session.

use sea_orm::entity::prelude::*;

/// A session without its events.
#[derive(Debug, Clone, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "sessions")]
pub struct Model {
    /// The app.
    #[sea_orm(primary_key, auto_increment = false, column_type = "String(StringLen::N(128))")]
    pub app_name: String,
    /// The user.
    #[sea_orm(primary_key, auto_increment = false, column_type = "String(StringLen::N(128))")]
    pub user_id: String,
    /// The session.
    #[sea_orm(primary_key, auto_increment = false, column_type = "String(StringLen::N(128))")]
    pub id: String,
    /// A JSON object with the session's own keys.
    #[sea_orm(column_type = "Text")]
    pub state: String,
    /// When it was created.
    pub create_time: DateTime,
    /// The stored time of its newest event; equal to `create_time` while it has none.
    pub update_time: DateTime,
}

/// Relations of this table.
#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {
    /// A session has events.
    #[sea_orm(has_many = "super::events::Entity")]
    Events,
}

impl Related<super::events::Entity> for Entity {
    fn to() -> RelationDef {
        Relation::Events.def()
    }
}

impl ActiveModelBehavior for ActiveModel {}
