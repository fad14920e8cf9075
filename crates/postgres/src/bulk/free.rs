//! The writes whose shared rows are free, in the bulk statements that wait for nobody.

use sea_orm::EntityTrait;
use sea_orm::sea_query::{
    Expr, ExprTrait, IntoIden, JoinType, LockBehavior, LockType, Query, SelectStatement, UnionType, WithClause,
};
use seabed_core::sql::{BulkStatements, Tables};

use super::shared_state::{SharedState, app_state, user_state};
use super::{INPUT, NUMBER, name, of, part};

/// The parts of the statements.
const GIVEN: &str = "given";
const BLOCKED: &str = "blocked";

/// What a statement does about an app's or user's row that another connection has locked.
#[derive(Clone, Copy)]
pub(super) enum Shared {
    /// It waits for the row.
    Wait,
    /// It leaves out the writes that change the row.
    Free,
}

impl Shared {
    /// The writes, as the part `input`.
    ///
    /// Shared rows are locked before sessions here, but the statement waits for no row that is there. Only an insert may
    /// wait, for somebody who inserts the same row; the database ends such a circle, and a write of ours is tried again.
    pub(super) fn input(self, tables: &Tables, input: SelectStatement) -> WithClause {
        let mut clause = WithClause::new();
        match self {
            Self::Wait => clause.cte(part(INPUT, input)),
            Self::Free => {
                let is_free = of(GIVEN, NUMBER).not_in_subquery(Query::select().column(NUMBER).from(BLOCKED).take());
                clause
                    .cte(part(GIVEN, input))
                    .cte(part("free_app", app_state(tables).lock_free()))
                    .cte(part("free_user", user_state(tables).lock_free()))
                    .cte(part(BLOCKED, blocked(tables)))
                    .cte(part(INPUT, Query::select().expr(Expr::cust("given.*")).from(GIVEN).and_where(is_free).take()))
            }
        };
        clause
    }
}

/// The numbers of the writes that change a row which exists and is not free.
fn blocked(tables: &Tables) -> SelectStatement {
    let is_blocked = app_state(tables).blocked("free_app").or(user_state(tables).blocked("free_user"));
    Query::select().expr(of(GIVEN, NUMBER)).from(GIVEN).and_where(is_blocked).take()
}

/// The rows of `outcome`, and one for each write that was left out, with so many nulls after its number.
pub(super) fn with_blocked(outcome: SelectStatement, nulls: usize) -> SelectStatement {
    let left_out = Query::select()
        .expr(of(BLOCKED, NUMBER))
        .exprs((0..nulls).map(|_| Expr::cust("NULL")))
        .expr(Expr::cust("TRUE"))
        .from(BLOCKED)
        .take();
    Query::select()
        .expr(Expr::cust("outcome.*"))
        .expr_as(Expr::cust("FALSE"), BulkStatements::BLOCKED)
        .from_subquery(outcome, "outcome")
        .union(UnionType::All, left_out)
        .take()
}

impl<E: EntityTrait, C: IntoIden + Copy, const N: usize> SharedState<'_, E, C, N> {
    /// Locks the rows that writes change, except for those that another connection has locked, and selects the numbers
    /// of these writes.
    fn lock_free(self) -> SelectStatement {
        let mut row = self.of_write();
        row.lock_with_behavior(LockType::NoKeyUpdate, LockBehavior::SkipLocked);
        Query::select()
            .expr(of(GIVEN, NUMBER))
            .from(GIVEN)
            .join_lateral(JoinType::InnerJoin, row, "row", Expr::cust("true"))
            .and_where(self.changes())
            .take()
    }

    fn blocked(self, free: &'static str) -> Expr {
        let is_free = of(GIVEN, NUMBER).in_subquery(Query::select().column(NUMBER).from(free).take());
        self.changes().and(is_free.not()).and(Expr::exists(self.of_write()))
    }

    /// Whether a write changes its row.
    fn changes(&self) -> Expr {
        of(GIVEN, self.delta).ne(Expr::cust("'{}'"))
    }

    /// The row of a write.
    fn of_write(&self) -> SelectStatement {
        let mut select = Query::select();
        select.expr(Expr::cust("1")).from(self.tables.aliased(self.table));
        for (column, written) in self.key {
            select.and_where(name((self.table, column)).eq(of(GIVEN, written)));
        }
        select.take()
    }
}
