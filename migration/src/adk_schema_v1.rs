//! The first migration: google-adk's schema v1.

use sea_orm::DbErr;
use sea_orm_migration::{MigrationName, MigrationTrait, SchemaManager};
use seabed_core::sql::Tables;

use crate::location::located;
use crate::spec::SchemaSpec;
use crate::{execute, layout, schema};

pub(crate) struct Migration {
    pub(crate) tables: Tables,
}

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0001_adk_schema_v1"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let connection = manager.get_connection();
        let spec = located(connection, &SchemaSpec::of(connection, &self.tables).await?).await?;
        layout::check(connection, &spec).await?;
        schema::create_missing(connection, &spec).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let connection = manager.get_connection();
        let spec = located(connection, &SchemaSpec::of(connection, &self.tables).await?).await?;
        layout::check(connection, &spec).await?;
        execute(connection, schema::drop(&spec)).await
    }
}
