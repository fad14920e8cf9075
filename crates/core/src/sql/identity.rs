//! Which database a caller's transaction is on.

use std::sync::{Mutex, PoisonError};

use sea_orm::{DatabaseConnection, DbErr, Statement, TransactionTrait as _};

use super::database::Database;
use super::dialect::Dialect;
use super::driver::{Driver, in_task};
use super::error::{StatementError, classify, statement_error};
use super::executor::{CallerTransaction, Executor};
use super::tables::Tables;
use crate::{BackendErrorKind, Error, Result};

/// Tells a transaction on the service's database from one on another.
///
/// Nothing that sea-orm shows of a transaction says where it runs, so the transaction is asked.
#[derive(Debug)]
pub(crate) struct DatabaseIdentity {
    /// What a transaction on this database answers; `None` on a server that cannot tell.
    known: Mutex<Option<String>>,
}

impl DatabaseIdentity {
    /// Asks the service's own database.
    pub(crate) async fn of<D: Dialect>(database: &Database<D>, tables: &Tables) -> Result<Self> {
        let query = D::database_query(tables);
        let told = database.statement_timeout().limit(ask::<D>(&mut database.autocommit(), query)).await;
        let known = match told {
            Err(error) if classify::<D>(&error) == BackendErrorKind::Unexpected => {
                tracing::warn!(target: "seabed", %error, "writes in callers' transactions are not checked for being on this database");
                None
            }
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
        // It may still be the same database: on another node of a cluster, or on a new primary.
        let theirs = ask::<D>(on, D::cluster_query(tables)).await.map_err(failed)?;
        let own = database.statement_timeout().limit(ask_anew::<D>(database.pool(), D::cluster_query(tables))).await;
        if theirs != own.map_err(failed)? {
            return Err(Error::invalid("transaction", "is not on the service's database"));
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

/// The answer in a new transaction on a new connection. A connection that is open may be one to the old primary, and a
/// proxy may send what is in no transaction to a replica.
async fn ask_anew<D: Dialect>(
    pool: &DatabaseConnection,
    query: Option<String>,
) -> Result<Option<String>, StatementError> {
    let sibling = D::Driver::sibling_pool(pool);
    let asked = sibling.as_ref().unwrap_or(pool).clone();
    let begun = in_task(async move { asked.begin().await }).await;
    let told = match begun {
        Ok(transaction) => ask::<D>(&mut CallerTransaction::<D>::new(&transaction), query).await,
        Err(error) => Err(error.into()),
    };
    if let Some(sibling) = sibling {
        let _: Result<(), DbErr> = sibling.close().await;
    }
    told
}
