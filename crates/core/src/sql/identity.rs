//! Which database a caller's transaction is on.

use std::sync::{Mutex, PoisonError};

use sea_orm::Statement;

use super::database::Database;
use super::dialect::Dialect;
use super::error::{StatementError, statement_error, was_rejected};
use super::executor::{CallerTransaction, Executor};
use super::tables::Tables;
use crate::{Error, Result};

/// Tells a transaction on the service's database from one on another.
///
/// Nothing that sea-orm shows of a transaction says where it runs, so the transaction is asked.
#[derive(Debug)]
pub(crate) struct DatabaseIdentity {
    /// The server's and the database's names, as a connection of the service's pool told them; `None` on a server that
    /// cannot tell them.
    known: Mutex<Option<String>>,
}

impl DatabaseIdentity {
    /// Asks the service's own database.
    pub(crate) async fn of<D: Dialect>(database: &Database<D>, tables: &Tables) -> Result<Self> {
        let told =
            database.statement_timeout().limit(ask::<D>(&mut database.autocommit(), D::database_query(tables))).await;
        let known = match told {
            Err(error) if was_rejected::<D>(&error) => None,
            told => told.map_err(|error| statement_error::<D>("connect", error))?,
        };
        Ok(Self { known: Mutex::new(known) })
    }

    /// Rejects a transaction on another database.
    pub(crate) async fn check<D: Dialect>(
        &self,
        database: &Database<D>,
        tables: &Tables,
        on: &mut CallerTransaction<'_, D>,
    ) -> Result<()> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if known.is_none() {
            return Ok(());
        }
        let failed = |error| statement_error::<D>("asking a transaction for its database", error);
        let told = ask::<D>(on, D::database_query(tables)).await.map_err(failed)?;
        if told == known {
            return Ok(());
        }
        // The transaction may have reached another node of a cluster, or another one has become the primary.
        let sure = ask::<D>(on, D::cluster_query(tables)).await.map_err(failed)?;
        let own =
            database.statement_timeout().limit(ask::<D>(&mut database.autocommit(), D::cluster_query(tables))).await;
        if sure != own.map_err(failed)? {
            return Err(Error::invalid("transaction", "belongs to another database than the service's"));
        }
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = told;
        Ok(())
    }
}

/// The answer to a dialect's query.
async fn ask<D: Dialect>(on: &mut dyn Executor, query: Option<String>) -> Result<Option<String>, StatementError> {
    let Some(query) = query else { return Ok(None) };
    let row = on.query_one(Statement::from_string(D::BACKEND, query)).await?;
    Ok(row.map(|row| row.try_get_by_index::<Option<String>>(0)).transpose()?.flatten())
}
