//! `seabed_sessions`: what Seabed keeps of a session beside google-adk's row. A session may have none.

use sea_orm::entity::prelude::*;

/// What Seabed keeps of a session.
#[derive(Debug, Clone, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "seabed_sessions")]
pub struct Model {
    /// The app.
    #[sea_orm(primary_key, auto_increment = false, column_type = "String(StringLen::N(128))")]
    pub app_name: String,
    /// The user.
    #[sea_orm(primary_key, auto_increment = false, column_type = "String(StringLen::N(128))")]
    pub user_id: String,
    /// The session.
    #[sea_orm(primary_key, auto_increment = false, column_type = "String(StringLen::N(128))")]
    pub session_id: String,
    /// The title, if it has one.
    #[sea_orm(column_type = "String(StringLen::N(256))", nullable)]
    pub title: Option<String>,
    /// A JSON object of its labels. `seabed_labels` has them as rows, to find sessions by.
    #[sea_orm(column_type = "Text", nullable)]
    pub labels: Option<String>,
    /// A JSON object: the session's own state when it was created. Null if it was not kept.
    #[sea_orm(column_type = "Text", nullable)]
    pub initial_state: Option<String>,
    /// The session of the same user that this one was forked from.
    #[sea_orm(column_type = "String(StringLen::N(128))", nullable)]
    pub parent_session_id: Option<String>,
    /// The last event that this session has from its parent.
    #[sea_orm(column_type = "String(StringLen::N(128))", nullable)]
    pub parent_event_id: Option<String>,
    /// Since when the session is held. For a later release: nothing writes this yet, and a delete ignores it.
    #[sea_orm(nullable)]
    pub held_since: Option<DateTime>,
    /// When the row last changed.
    pub update_time: DateTime,
}

/// Relations of this table.
#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {
    /// The row belongs to a session, and is deleted with it.
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
