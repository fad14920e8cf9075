//! App and user state in the bulk statements.

use sea_orm::EntityTrait;
use sea_orm::sea_query::{
    Expr, ExprTrait, Func, InsertStatement, IntoIden, OnConflict, Order, Query, Returning, SelectStatement,
};
use seabed_core::entity::{app_states, user_states};
use seabed_core::sql::{Dialect, Tables};

use super::{APP, APP_DELTA, INPUT, NOW, NUMBER, USER, USER_DELTA, insert_from, name, object, of, within_limit};
use crate::Postgres;

/// A table of shared state, and where its columns are in a write.
pub(super) struct SharedState<'a, E, C, const N: usize> {
    pub(super) tables: &'a Tables,
    pub(super) table: E,
    pub(super) key: [(C, &'static str); N],
    pub(super) delta: &'static str,
    state: C,
    update_time: C,
}

pub(super) fn app_state(tables: &Tables) -> SharedState<'_, app_states::Entity, app_states::Column, 1> {
    use app_states::Column;
    SharedState {
        tables,
        table: app_states::Entity,
        key: [(Column::AppName, APP)],
        delta: APP_DELTA,
        state: Column::State,
        update_time: Column::UpdateTime,
    }
}

pub(super) fn user_state(tables: &Tables) -> SharedState<'_, user_states::Entity, user_states::Column, 2> {
    use user_states::Column;
    SharedState {
        tables,
        table: user_states::Entity,
        key: [(Column::AppName, APP), (Column::UserId, USER)],
        delta: USER_DELTA,
        state: Column::State,
        update_time: Column::UpdateTime,
    }
}

impl<E: EntityTrait, C: IntoIden + Copy, const N: usize> SharedState<'_, E, C, N> {
    /// Merges the deltas of `writes`, which selects rows of `part`, into the rows they are about. A delta without keys
    /// touches no row.
    pub(super) fn merge(
        self,
        mut writes: SelectStatement,
        part: &'static str,
        max_state_bytes: usize,
    ) -> InsertStatement {
        let Self { tables, table, key, delta, state, update_time } = self;
        // One change for each row, the later writes winning, and rows in one order everywhere.
        writes.from_function(Func::cust("pg_catalog.jsonb_each").arg(of(part, delta)), "pair");
        for (_, written) in key {
            writes.group_by_col((part, written)).order_by((part, written), Order::Asc);
        }
        let merged = Expr::cust(format!("pg_catalog.jsonb_object_agg(pair.key, pair.value ORDER BY {part}.{NUMBER})"));
        let columns = key.into_iter().map(|(column, written)| (column, of(part, written)));
        let columns = columns.chain([(state, merged), (update_time, of(part, NOW).max())]);
        let mut insert = insert_from(tables.aliased(table), columns, writes);
        let states = [object(|| Expr::col((table, state))), Expr::col(("excluded", state))];
        insert.on_conflict(
            OnConflict::columns(key.map(|(column, _)| column))
                .value(state, Expr::cust_with_exprs("$1 || $2", states))
                .update_column(update_time)
                .to_owned(),
        );
        let returned =
            key.into_iter().map(|(column, _)| column).chain([state]).map(|column| Expr::col((table, column)));
        let checked = within_limit(|| Expr::col((table, state)), max_state_bytes);
        insert.returning(Returning::new().exprs(returned.chain([checked]))).to_owned()
    }

    /// Creates the rows that `writes`, which selects rows of the input, are about, unless they exist or were `merged`
    /// into.
    pub(super) fn make(self, mut writes: SelectStatement, merged: &'static str) -> InsertStatement {
        let Self { tables, table, key, state, update_time, .. } = self;
        let mut is_merged = Query::select();
        is_merged.expr(Expr::cust("1")).from(merged);
        for (column, written) in key {
            is_merged.and_where(name((merged, column)).eq(of(INPUT, written)));
            writes.group_by_col((INPUT, written)).order_by((INPUT, written), Order::Asc);
        }
        writes.and_where(Expr::exists(is_merged).not());
        let columns = key.into_iter().map(|(column, written)| (column, of(INPUT, written)));
        let columns = columns.chain([(state, Expr::cust("'{}'::jsonb")), (update_time, of(INPUT, NOW).max())]);
        let mut insert = insert_from(tables.table(table), columns, writes);
        Postgres::insert_or_ignore(&mut insert, key.map(|(column, _)| column.into_iden()).into());
        insert.returning(Returning::new().columns(key.into_iter().map(|(column, _)| column).chain([state]))).to_owned()
    }
}
