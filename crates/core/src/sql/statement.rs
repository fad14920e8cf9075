//! SQL text: key predicates, placeholders, and statements that are built once.

use std::marker::PhantomData;

use sea_orm::sea_query::{CaseStatement, DynIden, Expr, ExprTrait, IntoColumnRef, IntoIden, Query, TableRef};
use sea_orm::{Statement, StatementBuilder, Value};

use super::dialect::Dialect;
use super::error::StatementError;
use crate::SessionKey;
use crate::entity::{events, sessions};

/// A statement whose text is built once. A call binds values to its [`placeholder`]s in the order in which they stand
/// in the text.
pub(crate) struct SqlText<D> {
    sql: String,
    dialect: PhantomData<fn() -> D>,
}

impl<D: Dialect> SqlText<D> {
    pub(crate) fn new(statement: &impl StatementBuilder) -> Self {
        Self { sql: D::BACKEND.build(statement).sql, dialect: PhantomData }
    }

    /// An update of a table, with the dialect's hint.
    fn hinted(mut self) -> Self {
        if let (Some(hint), Some(at)) = (D::UPDATE_BY_PRIMARY_KEY, self.sql.find(" SET ")) {
            self.sql.insert_str(at, hint);
        }
        self
    }

    /// `first`, followed by `second`.
    pub(crate) fn joined(first: &Self, second: &Self) -> Self {
        Self { sql: format!("{}; {}", first.sql, second.sql), dialect: PhantomData }
    }

    pub(crate) fn bind(&self, values: impl IntoIterator<Item = Value>) -> Statement {
        Statement::from_sql_and_values(D::BACKEND, &self.sql, values)
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.sql
    }
}

/// A session's state of more bytes is read and written by itself, and not in a statement about many rows: nobody knows
/// how large all of them are. That of an app or a user is written by itself.
pub(crate) const MAX_GROUPED_STATE: usize = 64 << 10;

/// What an update by key writes to a row.
pub(crate) struct KeyedRow<const COLUMNS: usize> {
    pub(crate) key: Vec<Value>,
    pub(crate) values: [Value; COLUMNS],
}

impl<const COLUMNS: usize> KeyedRow<COLUMNS> {
    /// About how many bytes its values have.
    pub(crate) fn bytes(&self) -> usize {
        let size = |value: &Value| if let Value::String(Some(text)) = value { text.len() } else { 0 };
        self.values.iter().map(size).sum()
    }

    /// The same row without its values. Behind the row itself it changes nothing: the first case of a key counts.
    fn again(&self) -> Self {
        Self { key: self.key.clone(), values: std::array::from_fn(|_| Value::String(None)) }
    }
}

impl<D: Dialect> SqlText<D> {
    /// Binds rows to the placeholders of [`update_by_key`].
    fn bind_by_key<const COLUMNS: usize>(&self, rows: &[&KeyedRow<COLUMNS>]) -> Statement {
        let case =
            |column: usize| rows.iter().flat_map(move |row| row.key.iter().chain([&row.values[column]]).cloned());
        let keys = rows.iter().flat_map(|row| &row.key).cloned();
        self.bind((0..COLUMNS).flat_map(case).chain(keys))
    }
}

/// An update of `rows` rows, each by its key: of each column to a value of its own.
pub(crate) fn update_by_key<D: Dialect, C: IntoIden + Copy, const COLUMNS: usize>(
    table: TableRef,
    rows: usize,
    key: impl Fn() -> Expr,
    columns: [(C, Expr); COLUMNS],
) -> SqlText<D> {
    let mut update = Query::update();
    update.table(table);
    for (column, value) in columns {
        let mut case = CaseStatement::new();
        for _ in 0..rows {
            case = case.case(key(), value.clone());
        }
        update.value(column, case.finally(Expr::col(column)));
    }
    SqlText::new(update.and_where(any_of(rows, key))).hinted()
}

/// The predicate that one of `rows` keys is that of a row.
pub(crate) fn any_of(rows: usize, key: impl Fn() -> Expr) -> Expr {
    (1..rows).fold(key(), |any, _| any.or(key()))
}

/// A statement about 1, 4, 16 or 64 rows: a server keeps few statements prepared for all of its connections.
pub(crate) struct Ladder<D>([SqlText<D>; 4]);

impl<D: Dialect> Ladder<D> {
    /// `text` makes the statement about a number of rows.
    pub(crate) fn new(text: impl Fn(usize) -> SqlText<D>) -> Self {
        Self(std::array::from_fn(|step| text(1 << (2 * step))))
    }

    /// The statement about four rows.
    pub(crate) fn sample(&self) -> &SqlText<D> {
        &self.0[1]
    }

    /// How many rows the statements are about, and their texts.
    fn steps(&self) -> impl DoubleEndedIterator<Item = (usize, &SqlText<D>)> {
        self.0.iter().enumerate().map(|(step, text)| (1 << (2 * step), text))
    }

    /// Statements about all of `rows`. `filler` fills up the last one.
    fn filled<'r, R>(&self, rows: &'r [R], filler: &'r R) -> impl Iterator<Item = (&SqlText<D>, Vec<&'r R>)> {
        let most = self.steps().next_back().map_or(1, |(size, _)| size);
        rows.chunks(most).filter_map(move |rows| {
            let (size, text) = self.steps().find(|(size, _)| *size >= rows.len())?;
            let fillers = std::iter::repeat_n(filler, size - rows.len());
            Some((text, rows.iter().chain(fillers).collect()))
        })
    }

    /// Statements about all of `rows`, the last of which may be repeated.
    pub(crate) fn padded<'r, R>(&self, rows: &'r [R]) -> impl Iterator<Item = (&SqlText<D>, Vec<&'r R>)> {
        rows.last().into_iter().flat_map(move |last| self.filled(rows, last))
    }

    /// Statements about all of `rows`, each of them once.
    pub(crate) fn chunks<'r, R>(&self, mut rows: &'r [R]) -> impl Iterator<Item = (&SqlText<D>, &'r [R])> {
        std::iter::from_fn(move || {
            let (size, text) = self.steps().rev().find(|(size, _)| *size <= rows.len())?;
            let (chunk, rest) = rows.split_at(size);
            rows = rest;
            Some((text, chunk))
        })
    }

    /// Statements of [`update_by_key`] about all of `rows`. A value may be large, so none is sent twice.
    pub(crate) fn updates<const COLUMNS: usize>(&self, rows: &[KeyedRow<COLUMNS>]) -> Vec<Statement> {
        let Some(filler) = rows.last().map(KeyedRow::again) else { return Vec::new() };
        self.filled(rows, &filler).map(|(text, rows)| text.bind_by_key(&rows)).collect()
    }
}

/// A place in a statement to which [`SqlText::bind`] binds a value.
pub(crate) fn placeholder() -> Expr {
    Expr::value("")
}

/// Whether an insert made by [`Dialect::insert_if_absent`] inserted its row; false when the row was there already.
pub(crate) fn inserted<D: Dialect>(result: Result<u64, StatementError>) -> Result<bool, StatementError> {
    unless_duplicate::<D>(result).map(|changed| changed > 0)
}

/// How many rows such an insert changed: none when the row was there already.
pub(crate) fn unless_duplicate<D: Dialect>(result: Result<u64, StatementError>) -> Result<u64, StatementError> {
    match result {
        // On other databases the violated key is another one: a trigger's, or one that somebody added to the table.
        Err(error) if D::DUPLICATE_IS_ERROR && error.is_duplicate_key() => Ok(0),
        result => result,
    }
}

/// The predicate on a row of `sessions` that is not being deleted. Its placeholders take [`session_key_values`].
pub(crate) fn session_key_predicate<D: Dialect>() -> Expr {
    key_predicate::<D, _, 3>(session_key_columns()).and(is_not_being_deleted(sessions::Column::CreateTime))
}

/// The creation of a session that is being deleted: the last second of all, also in columns without microseconds. It
/// takes several transactions to delete a large session. After the first of them nobody finds it, and its id is free
/// after the last.
pub(crate) fn being_deleted() -> Expr {
    Expr::cust("'9999-12-31 23:59:59.000000'")
}

/// The predicate that a session is not being deleted. Every statement that finds sessions has it.
pub fn is_not_being_deleted(create_time: impl IntoColumnRef) -> Expr {
    Expr::col(create_time).ne(being_deleted())
}

/// The predicate on rows of `events` whose placeholders take [`session_key_values`].
pub(crate) fn event_session_predicate<D: Dialect>() -> Expr {
    use events::Column;
    key_predicate::<D, _, 3>([Column::AppName, Column::UserId, Column::SessionId])
}

/// The predicate on a row of `events` whose placeholders take [`session_key_values`], and the id of the event.
pub(crate) fn event_key_predicate<D: Dialect>() -> Expr {
    event_session_predicate::<D>().and(name::<D>(events::Column::Id).eq(placeholder()))
}

/// The columns of the key of `sessions`, in the order of [`session_key_values`].
pub(crate) fn session_key_columns() -> [sessions::Column; 3] {
    use sessions::Column;
    [Column::AppName, Column::UserId, Column::Id]
}

/// The columns of the key of `events`.
pub fn event_key_columns() -> Vec<DynIden> {
    use events::Column;
    [Column::Id, Column::AppName, Column::UserId, Column::SessionId].map(IntoIden::into_iden).into()
}

/// The columns of `events`, in the order in which every insert of an event gives their values.
pub fn event_columns() -> [events::Column; 7] {
    use events::Column;
    [
        Column::AppName,
        Column::UserId,
        Column::SessionId,
        Column::Id,
        Column::InvocationId,
        Column::Timestamp,
        Column::EventData,
    ]
}

/// The predicate that each column of a key equals a placeholder.
pub(crate) fn key_predicate<D: Dialect, C: IntoIden, const N: usize>(columns: [C; N]) -> Expr {
    let equals = |column: C| name::<D>(column.into_iden()).eq(placeholder());
    columns.into_iter().map(equals).reduce(ExprTrait::and).unwrap_or_else(|| Expr::cust("1 = 1"))
}

/// A column of names, in a comparison.
pub(crate) fn name<D: Dialect>(column: impl IntoColumnRef) -> Expr {
    D::SCHEMA.read_name(Expr::col(column))
}

pub(crate) fn session_key_values(key: &SessionKey) -> std::array::IntoIter<Value, 3> {
    [Value::from(key.app_name.as_str()), key.user_id.as_str().into(), key.session_id.as_str().into()].into_iter()
}
