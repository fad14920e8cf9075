//! Looking at the schema before anything is stored in it.

use sea_orm::{ColumnTrait, DbErr, EntityTrait, FromQueryResult, QueryFilter, QueryResult, QueryTrait, Statement};

use super::Dialect;
use super::failure::{classify, statement_error};
use crate::entity::adk_internal_metadata::{self, SCHEMA_VERSION, SCHEMA_VERSION_KEY};
use crate::{BackendError, BackendErrorKind, Result};

/// Reads the version of the schema.
pub(super) fn version_query<D: Dialect>() -> Statement {
    let query = adk_internal_metadata::Entity::find().filter(adk_internal_metadata::Column::Key.eq(SCHEMA_VERSION_KEY));
    query.build(D::BACKEND)
}

/// Refuses a database whose schema, by the answer to [`version_query`], is missing or of a version that is not google-adk's v1.
pub(super) fn check<D: Dialect>(answer: Result<Option<QueryResult>, DbErr>) -> Result<()> {
    let version =
        answer.and_then(|row| row.map(|row| adk_internal_metadata::Model::from_query_result(&row, "")).transpose());
    let refused = |message: String| Err(BackendError::new(BackendErrorKind::Schema, message).into());
    match version {
        Ok(Some(row)) if row.value == SCHEMA_VERSION => Ok(()),
        Ok(Some(row)) => refused(format!(
            "the tables are of schema version {:?}, this crate knows version {SCHEMA_VERSION:?} only; use a release of \
             Seabed that knows it",
            row.value
        )),
        Ok(None) => refused(format!(
            "adk_internal_metadata has no {SCHEMA_VERSION_KEY}, so the tables cannot be told; run `seabed-migrate status`"
        )),
        Err(error) if classify::<D>(&error) == BackendErrorKind::Schema => {
            let missing = "there are no session tables in this database; make them with `seabed-migrate up` or \
                           `seabed::migrate`";
            Err(BackendError::new(BackendErrorKind::Schema, missing).with_source(error).into())
        }
        Err(error) => Err(statement_error::<D>("reading the schema version", error)),
    }
}
