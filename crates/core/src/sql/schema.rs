//! Looking at the schema before anything is stored in it.

use sea_orm::{ColumnTrait, DbErr, EntityTrait, FromQueryResult, QueryFilter, QueryResult, QueryTrait, Statement};

use super::failure::{classify, statement_error};
use super::{Column, Dialect, Objection, Unfit, Weakness, unfit_columns};
use crate::entity::adk_internal_metadata::{self, SCHEMA_VERSION, SCHEMA_VERSION_KEY};
use crate::{BackendError, BackendErrorKind, Result};

/// Reads the version of the schema.
pub(super) fn version_query<D: Dialect>() -> Statement {
    let query = adk_internal_metadata::Entity::find().filter(adk_internal_metadata::Column::Key.eq(SCHEMA_VERSION_KEY));
    query.build(D::BACKEND)
}

/// Refuses a database whose schema, by the answer to [`version_query`], is missing or of a version that is not google-adk's v1.
pub(super) fn check_version<D: Dialect>(answer: Result<Option<QueryResult>, DbErr>) -> Result<()> {
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

/// Refuses tables that cannot keep the laws, but for the weaknesses that the user has accepted.
pub(super) fn check_columns<D: Dialect>(columns: Result<Vec<Column>, DbErr>, accepted: &[Weakness]) -> Result<()> {
    let columns = columns.map_err(|error| statement_error::<D>("reading the columns of the tables", error))?;
    let refused = |unfit: &Unfit| !matches!(unfit.objection, Objection::Weak(weakness) if accepted.contains(&weakness));
    let Some(unfit) = unfit_columns(D::BACKEND, &columns).into_iter().find(refused) else { return Ok(()) };
    let message = match unfit.objection {
        Objection::Weak(weakness) => format!(
            "{unfit}: {}; `seabed-migrate verify` says how to mend it, and Weakness::{weakness:?} accepts it",
            weakness.consequence()
        ),
        _ => format!("{unfit}; `seabed-migrate verify` says how to mend it"),
    };
    Err(BackendError::new(BackendErrorKind::Schema, message).into())
}
