//! A SQLite that says it is an old one. A program links one SQLite, so the tests cannot use an old one beside a new
//! one.

use std::ffi::c_int;
use std::ptr;

use libsqlite3_sys::{
    SQLITE_OK, SQLITE_STATIC, SQLITE_UTF8, sqlite3_context, sqlite3_create_function_v2, sqlite3_result_text,
    sqlite3_value,
};
use sea_orm::sqlx::pool::PoolOptions;
use sea_orm::sqlx::{Error, Sqlite};

/// A pool on whose connections the SQL function `sqlite_version()` returns 3.46.0.
pub fn with_version_3_46_0(pool: PoolOptions<Sqlite>) -> PoolOptions<Sqlite> {
    pool.after_connect(|connection, _| {
        Box::pin(async move {
            let mut connection = connection.lock_handle().await?;
            // SAFETY: the connection is open and locked, and the function uses no data of its own.
            let outcome = unsafe {
                sqlite3_create_function_v2(
                    connection.as_raw_handle().as_ptr(),
                    c"sqlite_version".as_ptr(),
                    0,
                    SQLITE_UTF8,
                    ptr::null_mut(),
                    Some(old_version),
                    None,
                    None,
                    None,
                )
            };
            if outcome == SQLITE_OK { Ok(()) } else { Err(Error::Protocol(format!("SQLite's error {outcome}"))) }
        })
    })
}

unsafe extern "C" fn old_version(context: *mut sqlite3_context, _: c_int, _: *mut *mut sqlite3_value) {
    // SAFETY: SQLite calls it with a context, and the text lives as long as the program.
    unsafe { sqlite3_result_text(context, c"3.46.0".as_ptr(), -1, SQLITE_STATIC()) }
}
