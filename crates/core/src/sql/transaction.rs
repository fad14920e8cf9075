//! Transactions: of the service's own, and of its callers'.

use sea_orm::{ConnectionTrait, DatabaseTransaction, DbErr, QueryResult, Statement};

use super::Dialect;
use super::connections::{Connections, Lease};

/// Runs statements one after the other in one transaction: ours, or one of the caller's.
pub(super) trait InTransaction: Send {
    /// How many rows a statement changed.
    fn execute(&mut self, statement: Statement) -> impl Future<Output = Result<u64, DbErr>> + Send;

    /// The first row of a statement, if it has one.
    fn query_one(&mut self, statement: Statement) -> impl Future<Output = Result<Option<QueryResult>, DbErr>> + Send;
}

/// A transaction of ours. It is rolled back when it is dropped before its end.
pub(super) struct Transaction<'a, D: Dialect>(Lease<'a, D>);

impl<'a, D: Dialect> Transaction<'a, D> {
    pub(super) async fn begin(connections: &'a Connections<D>) -> Result<Self, DbErr> {
        connections.begin().await.map(Self)
    }

    pub(super) async fn commit(self) -> Result<(), DbErr> {
        self.end("COMMIT").await
    }

    pub(super) async fn rollback(self) -> Result<(), DbErr> {
        self.end("ROLLBACK").await
    }

    /// Hands on the rows of a statement as they come.
    pub(super) async fn query(
        &mut self,
        statement: Statement,
        each: &mut (dyn FnMut(QueryResult) + Send),
    ) -> Result<(), DbErr> {
        self.0.run(statement, each).await.map(drop)
    }

    async fn end(mut self, command: &'static str) -> Result<(), DbErr> {
        self.0.command(command).await?;
        self.0.end();
        Ok(())
    }
}

impl<D: Dialect> InTransaction for Transaction<'_, D> {
    async fn execute(&mut self, statement: Statement) -> Result<u64, DbErr> {
        self.0.run(statement, &mut |_| {}).await
    }

    async fn query_one(&mut self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        let mut first = None;
        self.0.run(statement, &mut |row| _ = first.get_or_insert(row)).await?;
        Ok(first)
    }
}

impl InTransaction for &DatabaseTransaction {
    async fn execute(&mut self, statement: Statement) -> Result<u64, DbErr> {
        self.execute_raw(statement).await.map(|executed| executed.rows_affected())
    }

    async fn query_one(&mut self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        self.query_one_raw(statement).await
    }
}
