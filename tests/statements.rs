//! A snapshot of every statement of every dialect, so that a review sees each change of SQL, and a reader can read it.
//!
//! After a change, look at the difference and accept it: `INSTA_UPDATE=always cargo test -p seabed-tests --test
//! statements`.

use seabed_core::sql::{Dialect, Tables, statements};

/// Every statement under its name.
fn readable<D: Dialect>(tables: &Tables) -> String {
    let options = sqlformat::FormatOptions {
        max_inline_block: 100,
        max_inline_arguments: Some(120),
        max_inline_top_level: Some(120),
        ..Default::default()
    };
    let format = |(name, sql): (String, String)| {
        let sql = sqlformat::format(&sql, &sqlformat::QueryParams::None, &options);
        format!("-- {name}\n{sql}\n")
    };
    statements::<D>(tables).into_iter().map(format).collect::<Vec<_>>().join("\n")
}

fn check<D: Dialect>(name: &str) {
    insta::with_settings!({ snapshot_path => "snapshots", prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!(name, readable::<D>(&Tables::new()));
        let elsewhere = Tables::new().with_schema("agents").with_prefix("bot_");
        insta::assert_snapshot!(format!("{name}_in_other_tables"), readable::<D>(&elsewhere));
    });
}

#[test]
fn statements_of_postgres() {
    check::<seabed_postgres::Postgres>("postgres");
}

#[test]
fn statements_of_mysql() {
    check::<seabed_mysql::MySql>("mysql");
}

#[test]
fn statements_of_sqlite() {
    check::<seabed_sqlite::Sqlite>("sqlite");
}
