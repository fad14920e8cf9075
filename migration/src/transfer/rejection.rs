//! Errors of a database that concern the data of one row. Other rows do not meet them.

use sea_orm::{DbErr, RuntimeErr};
use seabed_core::BackendErrorKind;

use crate::spec::Database;

/// Why a batch was not written.
pub(super) enum Failure {
    /// The database rejects one of its rows, for this reason.
    Rejected(String),
    /// Anything else.
    Database(DbErr),
}

impl Failure {
    /// Tells an error that concerns the data of a row from others. The reason does not contain the server's message,
    /// which may quote the data.
    pub(super) fn of(database: Database, error: DbErr) -> Self {
        if database.error_kind(&error) == BackendErrorKind::TooLarge {
            return Self::Rejected("it is larger than the target accepts".to_owned());
        }
        match code(&error).filter(|code| is_of_data(database, code)) {
            Some(code) => Self::Rejected(format!("the target rejects its data (error {code})")),
            None => Self::Database(error),
        }
    }
}

impl From<DbErr> for Failure {
    fn from(error: DbErr) -> Self {
        Self::Database(error)
    }
}

/// The SQLSTATE, on SQLite the extended result code, and on MySQL and MariaDB the error number if the SQLSTATE is the
/// general one.
fn code(error: &DbErr) -> Option<String> {
    let (DbErr::Exec(error) | DbErr::Query(error)) = error else { return None };
    match error {
        #[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
        RuntimeErr::SqlxError(error) => {
            let error = error.as_database_error()?;
            let code = error.code()?;
            #[cfg(feature = "mysql")]
            if code == "HY000"
                && let Some(error) = error.try_downcast_ref::<sea_orm::SqlxMySqlError>()
            {
                return Some(error.number().to_string());
            }
            Some(code.into_owned())
        }
        RuntimeErr::Internal(_) => None,
    }
}

fn is_of_data(database: Database, code: &str) -> bool {
    match database {
        // Data exceptions, violated constraints, and what triggers raise.
        Database::Postgres => code.starts_with("22") || code.starts_with("23") || code == "P0001",
        // The same, and ER_TRUNCATED_WRONG_VALUE_FOR_FIELD and ER_CHECK_CONSTRAINT_VIOLATED.
        Database::MySql => {
            ["22", "23", "45"].iter().any(|class| code.starts_with(class)) && code.len() == 5
                || matches!(code, "1366" | "3819")
        }
        // SQLITE_CONSTRAINT (triggers too) and SQLITE_MISMATCH.
        Database::Sqlite => code.parse::<u32>().is_ok_and(|code| matches!(code & 0xff, 19 | 20)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_errors_of_data_are_blamed_on_rows() {
        for (database, of_data, other) in [
            (Database::Postgres, &["22021", "23514", "P0001"][..], &["42501", "53100", "40001"][..]),
            (Database::MySql, &["22001", "23000", "45000", "1366", "3819"], &["42000", "1114", "2300", "4500"]),
            (Database::Sqlite, &["19", "275", "1811", "20"], &["13", "8", "1"]),
        ] {
            for code in of_data {
                assert!(is_of_data(database, code), "{code}");
            }
            for code in other {
                assert!(!is_of_data(database, code), "{code}");
            }
        }
    }
}
