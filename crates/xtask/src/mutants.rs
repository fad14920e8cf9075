//! `cargo xtask mutants`: takes the guards away, one at a time, and shows the case that fails then.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};

use crate::cargo::cargo;
use crate::servers;

/// A guard, the change that takes it away, and a case that needs it.
struct Mutant {
    guard: &'static str,
    file: &'static str,
    /// Replaced by [`to`](Self::to) once; must be there.
    from: &'static str,
    to: &'static str,
    /// What the names of the cases to run hold.
    case: &'static str,
}

const POSTGRES: &str = "crates/postgres/src/lib.rs";
const STATEMENTS: &str = "crates/postgres/src/statements.rs";
const MYSQL: &str = "crates/mysql/src/lib.rs";
const SQLITE: &str = "crates/sqlite/src/lib.rs";
const APPEND: &str = "crates/core/src/sql/append.rs";
const GROUP: &str = "crates/core/src/sql/group.rs";
const CONNECTIONS: &str = "crates/core/src/sql/connections.rs";
const QUEUE: &str = "crates/core/src/sql/queue.rs";
const SHARED_STATE: &str = "crates/core/src/sql/shared_state.rs";
const STORE: &str = "migration/src/transfer/store.rs";

const MUTANTS: &[Mutant] = &[
    Mutant {
        guard: "insert-or-ignore of shared rows, PostgreSQL",
        file: POSTGRES,
        from: "insert.on_conflict(OnConflict::columns(key).do_nothing().to_owned());",
        to: "let _ = (insert, key);",
        case: "postgres_18_portable::concurrent_creates_of_a_new_app",
    },
    Mutant {
        guard: "insert-or-ignore of shared rows, MySQL",
        file: MYSQL,
        from: "insert.on_conflict(OnConflict::new().do_nothing_on(key).to_owned());",
        to: "let _ = (insert, key);",
        case: "mariadb::a_create_tells_the_state_that_others_made_meanwhile",
    },
    Mutant {
        guard: "lock of the session row, portable",
        file: APPEND,
        from: ".and_where(session_key_condition())\n            .lock_exclusive()",
        to: ".and_where(session_key_condition())",
        case: "mariadb_portable::no_session_key_is_lost",
    },
    Mutant {
        guard: "lock of the session row, PostgreSQL's statement",
        file: STATEMENTS,
        from: "        .lock_with_behavior(LockType::NoKeyUpdate, LockBehavior::SkipLocked)\n",
        to: "",
        // Within one service the queue keeps writers to one session apart.
        case: "postgres_18::nothing_is_lost_under_torture",
    },
    Mutant {
        guard: "lock of the app's and user's row",
        file: SHARED_STATE,
        from: "lock: Prepared::new(read.clone().lock_exclusive()),",
        to: "lock: Prepared::new(&read),",
        case: "mariadb_portable::no_app_key_is_lost",
    },
    Mutant {
        guard: "shared rows made by others read again, PostgreSQL's create",
        file: "crates/core/src/sql/single.rs",
        from: "    let states = existing(inner, key, \"create_session\").await;",
        to: "    let states: Result<Option<(State, State)>> = Ok(None);",
        case: "postgres_18::a_create_tells_the_state_that_others_made_meanwhile",
    },
    Mutant {
        guard: "expected revision, portable",
        file: "crates/core/src/prepare.rs",
        from: "ExpectedRevision::Exact(expected) if expected != actual => {",
        to: "ExpectedRevision::Exact(expected) if expected != actual && expected == actual => {",
        case: "mariadb::stale_revision_conflicts",
    },
    Mutant {
        guard: "expected revision, PostgreSQL's statement",
        file: STATEMENTS,
        from: "        .and_where(of(INPUT, EXPECTED).is_null().or(of(INPUT, EXPECTED).eq(updated())))\n",
        to: "",
        case: "postgres_18::stale_revision_conflicts",
    },
    Mutant {
        guard: "expected revision, append without a look",
        file: APPEND,
        from: ".and_where(Expr::col(Session::UpdateTime).eq(slot()))",
        to: ".and_where(Expr::cust(\"1 = 1\").or(Expr::col(Session::UpdateTime).eq(slot())))",
        case: "mariadb::stale_revision_conflicts",
    },
    Mutant {
        guard: "no event at the creation of its session, append without a look",
        file: APPEND,
        from: ".and_where(Expr::col(Session::CreateTime).ne(slot()))",
        to: ".and_where(Expr::cust(\"1 = 1\").or(Expr::col(Session::CreateTime).ne(slot())))",
        case: "sqlite_file::revisions_never_repeat_when_times_do",
    },
    Mutant {
        guard: "lock of the session row, append without a look",
        file: APPEND,
        from: "            .lock_exclusive()\n            .take();\n        let at_free_revision =\n            at_revision.clone().lock_with_behavior(LockType::Update, LockBehavior::SkipLocked).take();",
        to: "            .take();\n        let at_free_revision = at_revision.clone();",
        case: "mariadb::of_writers_at_one_revision_one_wins",
    },
    Mutant {
        guard: "replay look-up after a conflict",
        file: APPEND,
        from: "return replayed(statements, transaction, new).await?.ok_or(conflict).map(Some);",
        to: "return Err(conflict);",
        case: "mariadb_portable::a_replay_succeeds_after_later_events",
    },
    Mutant {
        guard: "replay look-up, PostgreSQL's statement",
        file: STATEMENTS,
        from: "    Postgres::insert_if_absent(&mut stored, event_key.map(IntoIden::into_iden).into());\n",
        to: "    let _ = event_key;\n",
        case: "postgres_18::a_replay_does_not_break_up_its_group",
    },
    Mutant {
        guard: "content of a replay",
        file: "crates/core/src/prepare.rs",
        from: "if *stored == self.event_data {",
        to: "if *stored == self.event_data || true {",
        case: "mariadb::an_event_id_with_other_content_is_refused",
    },
    Mutant {
        guard: "one microsecond later than the newest event",
        file: "crates/core/src/revision.rs",
        from: "if has_events && own <= update_time { update_time.next() } else { own };",
        to: "if has_events && own < update_time { update_time } else { own };",
        case: "sqlite_file::events_with_one_timestamp_keep_append_order",
    },
    Mutant {
        guard: "no event at the creation of its session",
        file: "crates/core/src/revision.rs",
        from: "if stored == create_time { stored.next() } else { stored }",
        to: "stored",
        case: "sqlite_file::revisions_never_repeat_when_times_do",
    },
    Mutant {
        guard: "retry after contention",
        file: "crates/core/src/sql/retry.rs",
        from: "Some(BackendErrorKind::Contention | BackendErrorKind::CommitUnknown) => TRY_WITHIN,",
        to: "Some(BackendErrorKind::CommitUnknown) => TRY_WITHIN,",
        case: "postgres_18::a_deadlock_with_others_is_survived",
    },
    Mutant {
        guard: "retry after a broken connection",
        file: "crates/core/src/sql/retry.rs",
        from: "Some(BackendErrorKind::Unavailable) => RECONNECT_WITHIN,",
        to: "",
        case: "mariadb::a_cut_append_is_stored_once_and_told",
    },
    Mutant {
        guard: "a failed try leaves no outcome",
        file: GROUP,
        from: "            write.forget_outcome();\n",
        to: "",
        case: "mariadb::a_lock_that_others_hold_is_contention",
    },
    Mutant {
        guard: "a lone write whose commit got no answer is in doubt",
        file: GROUP,
        from: "(is_lone || write.has_written())",
        to: "write.has_written()",
        case: "mariadb::a_cut_create_is_stored_once_and_told",
    },
    Mutant {
        guard: "look whose session a create in doubt has met",
        file: GROUP,
        from: "let told = create::look(inner, &call.request).await?;",
        to: "let told = None;",
        case: "mariadb::a_cut_create_is_stored_once_and_told",
    },
    Mutant {
        guard: "a commit without an answer is unknown, not failed",
        file: "crates/core/src/sql/failure.rs",
        from: "if may_have_run { commit_error::<D>(operation, error) } else { statement_error::<D>(operation, error) }",
        to: "{ let _ = may_have_run; statement_error::<D>(operation, error) }",
        case: "postgres_18::a_cut_create_is_stored_once_and_told",
    },
    Mutant {
        guard: "writes run in tasks of their own",
        file: GROUP,
        from: "await? {\n        tokio::spawn(work(inner.clone()));",
        to: "await? {\n        work(inner.clone()).await;",
        case: "mariadb::a_dropped_call_leaves_its_group_alone",
    },
    Mutant {
        guard: "writes of a group are tried for themselves after an error",
        file: GROUP,
        from: "(is_lone || error.is_retryable());",
        to: "(is_lone || !error.is_retryable() || error.is_retryable());",
        case: "sqlite_file::a_write_that_fails_fails_alone",
    },
    Mutant {
        guard: "groups leave locked sessions out",
        file: APPEND,
        from: "Wait::No => &statements.lock_free_session,",
        to: "Wait::No => &statements.lock_session,",
        case: "mariadb::a_locked_session_holds_up_nobody_else",
    },
    Mutant {
        guard: "writes to one session keep their order",
        file: QUEUE,
        from: "                passed.insert(session);\n",
        to: "",
        case: "mariadb::writes_to_one_session_keep_their_order",
    },
    Mutant {
        guard: "closing waits for what was accepted",
        file: QUEUE,
        from: "        let _all = self.room.acquire_many(ROOM).await;\n",
        to: "",
        case: "postgres_18::a_closed_service_has_carried_out_what_it_accepted",
    },
    Mutant {
        guard: "events deleted by name",
        file: "crates/core/src/sql/delete.rs",
        from: "for delete in [&inner.delete.delete_session, &inner.delete.delete_events] {",
        to: "for delete in [&inner.delete.delete_session] {",
        case: "sqlite_file::a_pool_without_foreign_keys_leaves_no_events_behind",
    },
    Mutant {
        guard: "six digits of a second on SQLite",
        file: SQLITE,
        from: "%Y-%m-%d %H:%M:%S%.6f",
        to: "%Y-%m-%d %H:%M:%S%.f",
        case: "sqlite_file::times_are_stored_as_google_adk_stores_them",
    },
    Mutant {
        guard: "collation of ids, MariaDB",
        file: "migration/src/schema.rs",
        from: "utf8mb4_nopad_bin",
        to: "utf8mb4_general_ci",
        case: "mariadb::session_ids_that_look_alike",
    },
    Mutant {
        guard: "limit on a statement",
        file: "crates/core/src/sql/patience.rs",
        from: "tokio::time::timeout(self.0, work)",
        to: "tokio::time::timeout(self.0 * 1000, work)",
        case: "mariadb::a_server_that_hangs_is_told_within_the_timeout",
    },
    Mutant {
        guard: "limit on the wait for a lock, PostgreSQL",
        file: POSTGRES,
        from: "; SET lock_timeout TO '10s'",
        to: "",
        case: "postgres_18::a_lock_that_others_hold_is_contention",
    },
    Mutant {
        guard: "one migrator at a time, PostgreSQL",
        file: "migration/src/lock.rs",
        from: "            transaction.execute_unprepared(&lock).await.map_err(migration_error)?;\n        }\n        DbBackend::MySql",
        to: "            let _ = lock;\n        }\n        DbBackend::MySql",
        case: "postgres_18::ten_processes_migrate_at_once",
    },
    Mutant {
        guard: "a transaction that did not end is closed with its connection",
        file: CONNECTIONS,
        from: "(Err(_), ..) | (Ok(_), false, false) => connection.close(),",
        to: "(Err(_), ..) => connection.close(),\n            (Ok(_), false, false) => {}",
        case: "postgres_18::a_transaction_that_takes_too_long_is_rolled_back",
    },
    Mutant {
        guard: "a transaction of SQLite's that did not end is rolled back",
        file: CONNECTIONS,
        from: "let _: Result<(), DbErr> = connection.command(\"ROLLBACK\").await;",
        to: "drop(connection);",
        case: "sqlite_file::a_database_in_memory_outlives_dropped_calls",
    },
    Mutant {
        guard: "the test of a connection that comes back has a limit",
        file: CONNECTIONS,
        from: "if !answers(connection.ping()).await.unwrap_or(false) {\n                    connection.close();\n                }",
        to: "drop(connection);",
        case: "mariadb::a_connection_that_falls_silent_takes_no_place",
    },
    Mutant {
        guard: "a connection is left after an error that is none in passing",
        file: CONNECTIONS,
        from: "held.is_settled = is_sound || D::DROPS_STATEMENTS_SAFELY;",
        to: "held.is_settled = is_sound || !is_sound;",
        case: "postgres_18::tables_may_change_under_a_service",
    },
    Mutant {
        guard: "a dropped statement ends no connection of SQLite's",
        file: SQLITE,
        from: "const DROPS_STATEMENTS_SAFELY: bool = true;",
        to: "const DROPS_STATEMENTS_SAFELY: bool = false;",
        case: "sqlite_file::a_database_in_memory_outlives_dropped_calls",
    },
    Mutant {
        guard: "a connection is left when its statement is dropped",
        file: CONNECTIONS,
        from: "lease.held.is_settled = D::DROPS_STATEMENTS_SAFELY;",
        to: "",
        case: "mariadb::a_dropped_call_takes_no_place",
    },
    Mutant {
        guard: "an insert that fails is not one that left its event out, SQLite",
        file: "crates/core/src/sql/prepared.rs",
        from: "if D::FAILS_WHEN_PRESENT && matches!",
        to: "if matches!",
        case: "sqlite_file::an_append_that_a_trigger_refuses_leaves_nothing",
    },
    Mutant {
        guard: "a dropped call ends no connection of SQLite's that the pool tests",
        file: SQLITE,
        from: "in_task(async move { take_driver_connection!(Driver, pool) }).await",
        to: "async move { take_driver_connection!(Driver, pool) }.await",
        case: "sqlite_file::a_database_in_memory_outlives_dropped_calls",
    },
    Mutant {
        guard: "a dropped look at the version ends no connection that the pool tests",
        file: "crates/core/src/sql/service.rs",
        from: "in_task(async move { pool.query_one_raw(schema::version_query::<D>()).await });",
        to: "pool.query_one_raw(schema::version_query::<D>());",
        case: "sqlite_file::a_database_in_memory_outlives_dropped_calls",
    },
    Mutant {
        guard: "a dropped look at the columns ends no connection that the pool tests",
        file: "crates/core/src/sql/service.rs",
        from: "in_task(async move { columns(&pool).await });",
        to: "columns(&pool);",
        case: "sqlite_file::a_database_in_memory_outlives_dropped_calls",
    },
    Mutant {
        guard: "a connection is closed where no runtime is",
        file: CONNECTIONS,
        from: "            (Err(_), ..) | (Ok(_), false, false) => connection.close(),\n            (Ok(_), true, true) => {}",
        to: "            (_, true, true) => {}\n            (Err(_), ..) | (Ok(_), false, false) => connection.close(),",
        case: "sqlite_file::a_service_may_outlive_its_runtime",
    },
    Mutant {
        guard: "a session moves on only with its event, SQLite",
        file: SQLITE,
        from: "Some(Expr::cust(\"changes() > 0\"))",
        to: "Some(Expr::cust(\"changes() >= 0\"))",
        case: "sqlite_file::a_replay",
    },
    Mutant {
        guard: "keys of a group stay outside, SQLite",
        file: SQLITE,
        from: "JoinType::CrossJoin",
        to: "JoinType::InnerJoin",
        case: "sqlite_file::a_group_looks_each_session_up",
    },
    Mutant {
        guard: "what a group has read of a session is used before it is written",
        file: GROUP,
        from: "let seen = looked.remove(write.key());",
        to: "let is_looked_at = write.append().is_some_and(|new| new.sufficient_revision().is_none());\n        let seen = if is_looked_at { looked.remove(write.key()) } else { None };",
        case: "sqlite_file::writes_of_one_group_to_one_session_see_each_other",
    },
    Mutant {
        guard: "what the server refused is known not to be stored, PostgreSQL",
        file: POSTGRES,
        from: "!matches!(&*code, \"57P01\" | \"57P02\") && !code.starts_with(\"08\")",
        to: "code.is_empty()",
        case: "postgres_18::a_write_that_the_database_refuses_is_not_in_doubt",
    },
    Mutant {
        guard: "what the server refused is known not to be stored, MySQL",
        file: MYSQL,
        from: "!matches!(error.number(), 1053 | 1927)",
        to: "error.number() == 0",
        case: "mariadb::a_write_that_the_database_refuses_is_not_in_doubt",
    },
    Mutant {
        guard: "what the database refused is known not to be stored, SQLite",
        file: SQLITE,
        from: "if error.as_database_error().is_some())",
        to: "if error.as_database_error().is_none())",
        case: "sqlite_file::a_write_that_the_database_refuses_is_not_in_doubt",
    },
    Mutant {
        guard: "limit on closing",
        file: "crates/core/src/sql/service.rs",
        from: "self.inner.patience.wait(self.inner.connection.close_by_ref())",
        to: "Patience(self.inner.patience.0 * 1000).wait(self.inner.connection.close_by_ref())",
        case: "mariadb::closing_does_not_wait_for_ever",
    },
    Mutant {
        guard: "a copy locks the rows that it merges",
        file: STORE,
        from: "        if lock && self.flavor",
        to: "        if false && lock && self.flavor",
        case: "postgres_18::a_target_that_is_being_written_keeps_what_both_sides_write",
    },
    Mutant {
        guard: "a copy that meets writers is repeated",
        file: STORE,
        from: "Err(error) if tries == TRIES =>",
        to: "Err(error) if tries <= TRIES =>",
        case: "postgres_18::a_target_that_is_being_written_keeps_what_both_sides_write",
    },
];

/// Runs the cases of each guard without it, in a copy of what is committed; false when a guard can go unnoticed.
pub(crate) fn run(only: &[String]) -> anyhow::Result<bool> {
    let workspace = servers::workspace()?;
    let folder = workspace.join("target").join("mutants");
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    let cloned = Command::new("git").args(["clone", "--quiet", "--shared"]).arg(workspace).arg(&folder).status()?;
    ensure!(cloned.success(), "git clone failed");
    let mut all_noticed = true;
    println!("| guard | without it fails |\n|---|---|");
    let is_chosen = |mutant: &&Mutant| {
        only.is_empty() || only.iter().any(|only| mutant.guard.contains(only) || mutant.case.contains(only))
    };
    for mutant in MUTANTS.iter().filter(is_chosen) {
        let told = match failing_cases(&folder, mutant) {
            Ok(cases) if !cases.is_empty() => {
                cases.iter().map(|case| format!("`{case}`")).collect::<Vec<_>>().join(", ")
            }
            unnoticed => {
                all_noticed = false;
                let why = unnoticed.err().map_or_else(String::new, |error| format!(": {error:#}"));
                format!("**nothing** of `{}`{why}", mutant.case)
            }
        };
        println!("| {} | {told} |", mutant.guard);
    }
    Ok(all_noticed)
}

fn failing_cases(folder: &Path, mutant: &Mutant) -> anyhow::Result<Vec<String>> {
    let file = folder.join(mutant.file);
    let text = std::fs::read_to_string(&file)?;
    ensure!(text.contains(mutant.from), "{}: {:?} is not in {}", mutant.guard, mutant.from, mutant.file);
    std::fs::write(&file, text.replacen(mutant.from, mutant.to, 1))?;
    let tested = cargo()
        .args(["test", "--package", "seabed-tests", "--test", "suite", "--", mutant.case])
        .current_dir(folder)
        // Beside the copy, so that the next run need not build all again.
        .env("CARGO_TARGET_DIR", folder.with_extension("build"))
        .env("SEABED_REQUIRE", "all")
        .env("RUSTFLAGS", "-A warnings")
        .output()
        .context("cargo cannot be run");
    std::fs::write(&file, text)?;
    let tested = tested?;
    let output = String::from_utf8_lossy(&tested.stdout);
    let ran = output.lines().any(|line| line.starts_with("test result") && !line.contains(" 0 passed; 0 failed"));
    ensure!(ran, "{}: no case ran: {}", mutant.guard, String::from_utf8_lossy(&tested.stderr));
    let failed = output.lines().filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"));
    Ok(failed.map(|name| name.trim().to_owned()).collect())
}
