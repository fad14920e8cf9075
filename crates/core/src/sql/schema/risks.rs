//! Risks that no column shows: of whole tables, of the database, and of the session.

use std::fmt;

use sea_orm::{ConnectionTrait, DbErr, QueryResult, Statement};

use super::dialect::{SchemaDialect, SchemaRisk};
use crate::sql::tables::{Tables, table_names};

/// A risk that the database has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundRisk {
    /// Which one.
    pub risk: SchemaRisk,
    /// The table, without its prefix, or what else has the risk: a schema, a setting.
    pub subject: String,
    /// What it is, in the database's words where it has some.
    pub found: String,
}

impl fmt::Display for FoundRisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { risk, subject, found } = self;
        match risk {
            SchemaRisk::NoTransactions => {
                write!(f, "table {subject} has the storage engine {found}, which has no transactions")
            }
            SchemaRisk::Unlogged => write!(f, "table {subject} is unlogged"),
            SchemaRisk::RowSecurity => write!(f, "row level security filters table {subject} for this account"),
            SchemaRisk::LossyText => write!(f, "the {subject} has the encoding {found}, which lacks characters"),
            SchemaRisk::SessionSettings => write!(f, "connections have the setting {subject}: {found}"),
            SchemaRisk::OpenSchema => {
                write!(f, "every account may create functions and tables in the schema {subject}")
            }
            SchemaRisk::UnsafeCommits => {
                write!(f, "commits are acknowledged before they are on disk, by the setting {subject}: {found}")
            }
            SchemaRisk::ReducedDurability => {
                write!(f, "commits are not safe in every crash, by the setting {subject}: {found}")
            }
            SchemaRisk::ReadOnlyServer => write!(f, "the server is read-only ({subject}: {found})"),
            SchemaRisk::MultiPrimary => {
                write!(f, "the server belongs to a cluster in which every node takes writes ({subject}: {found})")
            }
            SchemaRisk::OtherServer => write!(f, "the server is another product: {found}"),
            SchemaRisk::WalResetBug => write!(f, "{subject} {found} has the WAL-reset bug"),
            // Risks of columns.
            SchemaRisk::InexactIds | SchemaRisk::CoarseTimes | SchemaRisk::ShortText => write!(f, "{subject}: {found}"),
        }
    }
}

/// The query for the risks, in one statement, and the risks by the number in its column `risk`; `None` where no risk
/// needs a query.
pub(crate) fn risks_query(dialect: &dyn SchemaDialect, tables: &Tables) -> Option<(String, Vec<SchemaRisk>)> {
    let queries = dialect.risk_queries(tables.schema(), &table_names().map(|name| tables.name(name)));
    let (risks, queries): (Vec<SchemaRisk>, Vec<String>) = queries.into_iter().unzip();
    let numbered = |(number, query): (usize, String)| {
        format!("SELECT {number} AS risk, subject, found FROM ({query}) AS risk_{number}")
    };
    let union = queries.into_iter().enumerate().map(numbered).collect::<Vec<_>>().join(" UNION ALL ");
    (!union.is_empty()).then_some((union, risks))
}

/// The risks of the tables and of the session of a connection that no column shows. Needs no privileges but those on
/// the tables.
///
/// # Errors
/// Those of the database.
pub async fn risks(
    connection: &impl ConnectionTrait,
    dialect: &dyn SchemaDialect,
    tables: &Tables,
) -> Result<Vec<FoundRisk>, DbErr> {
    let Some((query, risks)) = risks_query(dialect, tables) else { return Ok(Vec::new()) };
    let rows = connection.query_all_raw(Statement::from_string(dialect.backend(), query)).await?;
    read_risks(&rows, &risks, dialect, tables)
}

/// The answer to [`risks_query`].
pub(crate) fn read_risks(
    rows: &[QueryResult],
    risks: &[SchemaRisk],
    dialect: &dyn SchemaDialect,
    tables: &Tables,
) -> Result<Vec<FoundRisk>, DbErr> {
    let mut found = Vec::new();
    for row in rows {
        let number = usize::try_from(row.try_get_by_index::<i32>(0)?).unwrap_or(usize::MAX);
        let Some(&risk) = risks.get(number) else { continue };
        let subject: String = row.try_get_by_index(1)?;
        let what: String = row.try_get_by_index(2)?;
        if !dialect.confirms_risk(risk, &what) {
            continue;
        }
        let table = subject.strip_prefix(tables.prefix()).filter(|name| table_names().contains(name));
        let subject = table.map_or(subject.clone(), str::to_owned);
        found.push(FoundRisk { risk, subject, found: what });
    }
    // Tables in an order in which a repair may change them.
    found.sort_by_key(|found| table_names().iter().position(|name| *name == found.subject));
    Ok(found)
}
