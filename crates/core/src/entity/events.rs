//! `events`: one row per event, ordered by `timestamp`.

use sea_orm::entity::prelude::*;

/// An event of a session.
#[derive(Debug, Clone, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "events")]
pub struct Model {
    /// The event id, unique within its session.
    #[sea_orm(primary_key, auto_increment = false, column_type = "String(StringLen::N(128))")]
    pub id: String,
    /// The app.
    #[sea_orm(primary_key, auto_increment = false, column_type = "String(StringLen::N(128))")]
    pub app_name: String,
    /// The user.
    #[sea_orm(primary_key, auto_increment = false, column_type = "String(StringLen::N(128))")]
    pub user_id: String,
    /// The session.
    #[sea_orm(primary_key, auto_increment = false, column_type = "String(StringLen::N(128))")]
    pub session_id: String,
    /// The invocation; may be empty.
    #[sea_orm(column_type = "String(StringLen::N(256))")]
    pub invocation_id: String,
    /// The position in the session: strictly increasing in append order.
    pub timestamp: DateTime,
    /// The whole event as google-adk's JSON.
    #[sea_orm(column_type = "Text", nullable)]
    pub event_data: Option<String>,
}

/// Relations of this table.
#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {
    /// An event belongs to a session, and is deleted with it.
    #[sea_orm(
        belongs_to = "super::sessions::Entity",
        from = "(Column::AppName, Column::UserId, Column::SessionId)",
        to = "(super::sessions::Column::AppName, super::sessions::Column::UserId, super::sessions::Column::Id)",
        on_delete = "Cascade"
    )]
    Sessions,
}

impl Related<super::sessions::Entity> for Entity {
    fn to() -> RelationDef {
        Relation::Sessions.def()
    }
}

impl ActiveModelBehavior for ActiveModel {}
