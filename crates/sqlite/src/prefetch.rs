//! The lookup of many sessions in one statement, SQLite's fast path for a batch.

use sea_orm::sea_query::{Condition, DynIden, Expr, ExprTrait, Func, JoinType, SelectStatement, TableRef};

/// Completes `select` with the rows of `table` whose keys are in the JSON array that the placeholder stands for.
///
/// CROSS JOIN keeps the keys outside, so that each row is looked up by its whole key. If it has the choice, the planner
/// may read the whole table where ANALYZE saw a small one. sea-query leaves out the ON of a cross join, so the
/// condition stands in WHERE.
pub(super) fn select_by_keys(
    mut select: SelectStatement,
    table: TableRef,
    key: [(DynIden, DynIden); 3],
) -> SelectStatement {
    let keys = Func::cust("json_each").arg("");
    select.from_function(keys, "keys").join(JoinType::CrossJoin, table, Condition::all());
    for (index, column) in key.into_iter().enumerate() {
        select.and_where(Expr::col(column).eq(Expr::cust(format!("keys.value ->> {index}"))));
    }
    select
}
