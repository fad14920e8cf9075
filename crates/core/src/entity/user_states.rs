//! `user_states`: the state that all sessions of a user share.

use sea_orm::entity::prelude::*;

/// The state of one user of an app.
#[derive(Debug, Clone, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "user_states")]
pub struct Model {
    /// The app.
    #[sea_orm(primary_key, auto_increment = false, column_type = "String(StringLen::N(128))")]
    pub app_name: String,
    /// The user.
    #[sea_orm(primary_key, auto_increment = false, column_type = "String(StringLen::N(128))")]
    pub user_id: String,
    /// A JSON object. Keys have no `user:` prefix.
    #[sea_orm(column_type = "Text")]
    pub state: String,
    /// When it last changed.
    pub update_time: DateTime,
}

/// Relations of this table.
#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
