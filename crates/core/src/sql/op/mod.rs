//! The operations, a file for each kind: the algorithm, its SQL, its decoding. Reading the state of an app or a user is
//! a method of `shared_state`.
//!
//! Every algorithm is written once, against the entities of [`entity`](crate::entity) and a [`Dialect`]. A dialect may
//! add a faster way that keeps the same guarantees (`bulk.rs`); the portable algorithm handles what that way leaves
//! out.
//!
//! Rows are locked in one order everywhere: session, then app state, then user state.

pub(crate) mod annotate;
pub(crate) mod append;
mod bulk;
pub(crate) mod context;
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod find;
pub(crate) mod forget;
pub(crate) mod fork;
pub(crate) mod get;
pub(crate) mod list;
pub(crate) mod origin;
mod page;
pub(crate) mod redact;
pub(crate) mod shared_state;
pub(crate) mod summarize;
pub(crate) mod update_state;

use std::sync::Arc;

use self::context::Settings;
use crate::event::adk_check::AdkCheck;
use crate::sql::deadline::DatabaseClock;
use crate::sql::dialect::Dialect;
use crate::sql::schema::check::version_query;
use crate::sql::schema::columns::columns_query;
use crate::sql::schema::risks::risks_query;
use crate::sql::statement::SqlText;
use crate::sql::tables::Tables;
use crate::state::DEFAULT_MAX_STATE_BYTES;

/// The statements of the operations, built once for a service.
pub(crate) struct Sql<D> {
    pub(crate) annotate: Arc<annotate::AnnotateSql<D>>,
    pub(crate) append: Arc<append::AppendSql<D>>,
    pub(crate) create: Arc<create::CreateSql<D>>,
    pub(crate) delete: Arc<delete::DeleteSql<D>>,
    pub(crate) fork: Arc<fork::ForkSql<D>>,
    pub(crate) get: get::GetSql<D>,
    pub(crate) origin: Arc<origin::OriginSql<D>>,
    pub(crate) redact: Arc<redact::RedactSql<D>>,
}

impl<D: Dialect> Sql<D> {
    /// With the dialect's fast paths, or with portable statements only.
    pub(crate) fn new(tables: &Tables, Settings { fast_paths, max_state_bytes, .. }: Settings) -> Self {
        let bulk = D::bulk_statements(tables, max_state_bytes).filter(|_| fast_paths);
        let origin = Arc::new(origin::OriginSql::new(tables));
        let create = Arc::new(create::CreateSql::new(tables, bulk.as_ref(), origin.clone()));
        Self {
            annotate: Arc::new(annotate::AnnotateSql::new(tables)),
            append: Arc::new(append::AppendSql::new(tables, bulk.as_ref())),
            delete: Arc::new(delete::DeleteSql::new(tables)),
            fork: Arc::new(fork::ForkSql::new(tables, create.clone(), origin.clone())),
            create,
            get: get::GetSql::new(tables),
            origin,
            redact: Arc::new(redact::RedactSql::new(tables)),
        }
    }

    /// Whether batches of one operation are one statement.
    pub(crate) fn has_bulk_statements(&self) -> bool {
        self.append.has_bulk_statement()
    }
}

/// The text of the statements that the operations of dialect `D` send, by their names: for reviews, and for whoever
/// reads the server's own statistics. Listings are shown once with a cursor and once without.
pub fn statements<D: Dialect>(tables: &Tables) -> Vec<(String, String)> {
    let settings = Settings {
        fast_paths: true,
        max_state_bytes: DEFAULT_MAX_STATE_BYTES,
        max_session_bytes: usize::MAX,
        adk_check: AdkCheck::default(),
        deletes_own_rows: false,
        failover_patience: None,
        may_be_read_only: false,
    };
    let sql = Sql::<D>::new(tables, settings);
    let shared_state = shared_state::SharedStateSql::<D>::new(tables, settings.max_state_bytes);
    let session = context::SessionSql::<D>::new(tables);
    let kept = [
        ("annotate_session", sql.annotate.texts()),
        ("append_event", sql.append.texts()),
        ("create_session", sql.create.texts()),
        ("delete_session", sql.delete.texts()),
        ("fork_session", sql.fork.texts()),
        ("get_session", sql.get.texts()),
        ("origin", sql.origin.texts()),
        ("redact_event", sql.redact.texts()),
        ("session", session.texts()),
        ("shared_state", shared_state.texts()),
    ];
    let named = |(operation, texts): (&'static str, Vec<(&'static str, &SqlText<D>)>)| {
        let named = |(name, text): (&str, &SqlText<D>)| (format!("{operation}.{name}"), text.as_str().to_owned());
        texts.into_iter().map(named).collect::<Vec<_>>()
    };
    let of_database = [
        ("schema.version".to_owned(), version_query::<D>(tables).sql),
        ("clock".to_owned(), DatabaseClock::<D>::text().as_str().to_owned()),
        ("schema.columns".to_owned(), columns_query(D::SCHEMA, tables)),
    ];
    let standbys = D::AWAIT_STANDBYS.map(|statement| ("standbys".to_owned(), statement.to_owned()));
    let risks = risks_query(D::SCHEMA, tables).map(|(query, _)| ("schema.risks".to_owned(), query));
    let built = [
        annotate::sample_texts::<D>(tables),
        find::sample_texts::<D>(tables),
        forget::sample_texts::<D>(tables),
        list::sample_texts::<D>(tables),
        summarize::sample_texts::<D>(tables),
    ];
    kept.into_iter().flat_map(named).chain(built.concat()).chain(of_database).chain(standbys).chain(risks).collect()
}
