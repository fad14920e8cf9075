//! `seabed_labels`: the labels of sessions as rows, to find sessions by. `seabed_sessions` has the same labels.

use sea_orm::entity::prelude::*;

/// A label of a session.
#[derive(Debug, Clone, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "seabed_labels")]
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
    /// The label's name, unique within its session.
    #[sea_orm(primary_key, auto_increment = false, column_type = "String(StringLen::N(64))")]
    pub name: String,
    /// The label's value; may be empty.
    #[sea_orm(column_type = "String(StringLen::N(128))")]
    pub value: String,
}

/// Relations of this table.
#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {
    /// A label belongs to a session, and is deleted with it.
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
