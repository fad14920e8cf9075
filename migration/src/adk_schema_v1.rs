//! The first migration: google-adk's schema v1.

use sea_orm::{ConnectionTrait, DbErr};
use sea_orm_migration::{MigrationName, MigrationTrait, SchemaManager};

use crate::{layout, schema};

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0001_adk_schema_v1"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let connection = manager.get_connection();
        layout::check(connection).await?;
        for statement in schema::create(schema::Flavor::of(connection).await?) {
            connection.execute_unprepared(&statement).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let connection = manager.get_connection();
        for statement in schema::drop(schema::Flavor::of(connection).await?) {
            connection.execute_unprepared(&statement).await?;
        }
        Ok(())
    }
}
