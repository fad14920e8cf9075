//! A driver whose connections do as they are told, and log what happens to them.

use std::cell::RefCell;
use std::future::pending;
use std::time::Duration;

use async_trait::async_trait;
use sea_orm::sea_query::{DynIden, Expr, InsertStatement};
use sea_orm::{ColIdx, DatabaseConnection, DbBackend, DbErr, QueryResult, RuntimeErr, Statement};

use crate::sql::{
    Column, ColumnProblem, ColumnRole, Dialect, Driver, DriverConnection, PoolLimits, SchemaDialect, UrlOptions,
};
use crate::{BackendErrorKind, Result};

/// The server of a test, and the driver's pool.
pub(super) struct Server {
    pub(super) max_connections: u32,
    pub(super) opened: usize,
    /// What happened to which connection.
    log: Vec<String>,
    /// Whether a ping gets no answer.
    pub(super) is_silent: bool,
    /// Whether the driver's pool has no connection.
    pub(super) is_exhausted: bool,
    /// What the server answers to each new connection, the first first: an error, or "ok", as when there is no answer.
    pub(super) connects: Vec<&'static str>,
    /// What the next BEGIN does, as a statement does.
    pub(super) begin: &'static str,
}

thread_local! {
    /// Each test runs in a thread of its own.
    static SERVER: RefCell<Server> = const {
        RefCell::new(Server {
            max_connections: 3,
            opened: 0,
            log: Vec::new(),
            is_silent: false,
            is_exhausted: false,
            connects: Vec::new(),
            begin: "ok",
        })
    };
}

pub(super) fn server<T>(change: impl FnOnce(&mut Server) -> T) -> T {
    SERVER.with_borrow_mut(change)
}

fn log(connection: usize, event: &str) {
    server(|server| server.log.push(format!("{connection} {event}")));
}

/// What happened since the last call.
pub(super) fn events() -> Vec<String> {
    server(|server| std::mem::take(&mut server.log))
}

/// A dialect and its driver, which says whether statements may be dropped.
#[derive(Debug)]
pub(super) struct Fake<const CANCEL_SAFE: bool>;

pub(super) type Networked = Fake<false>;
pub(super) type Embedded = Fake<true>;

impl<const CANCEL_SAFE: bool> Dialect for Fake<CANCEL_SAFE> {
    type Driver = Self;

    const BACKEND: DbBackend = DbBackend::Sqlite;
    const SCHEMA: &'static dyn SchemaDialect = &Fake::<CANCEL_SAFE>;
    const MAX_CONCURRENT_BATCHES: usize = 1;

    fn insert_or_ignore(_insert: &mut InsertStatement, _key: Vec<DynIden>) {}
}

impl<const CANCEL_SAFE: bool> SchemaDialect for Fake<CANCEL_SAFE> {
    fn backend(&self) -> DbBackend {
        DbBackend::Sqlite
    }

    fn json_type(&self) -> &'static str {
        "json"
    }

    fn current_time(&self) -> Expr {
        Expr::current_timestamp()
    }

    fn timestamp_type(&self) -> &'static str {
        "timestamp"
    }

    fn columns_query(&self, _schema: Option<&str>, _names: &[String]) -> String {
        String::new()
    }

    fn column_problem(&self, _found: &Column, _role: ColumnRole) -> Option<ColumnProblem> {
        None
    }
}

#[async_trait]
impl<const IS_CANCEL_SAFE: bool> Driver for Fake<IS_CANCEL_SAFE> {
    type Options = ();

    const URL_SCHEMES: &'static [&'static str] = &["fake"];
    const CANCEL_SAFE: bool = IS_CANCEL_SAFE;

    fn classify(error: &RuntimeErr) -> BackendErrorKind {
        match error {
            RuntimeErr::Internal(text) if text == "contention" => BackendErrorKind::Contention,
            RuntimeErr::Internal(text) if text == "broken" || text == "full" => BackendErrorKind::Unavailable,
            _ => BackendErrorKind::Unexpected,
        }
    }

    fn has_too_many_clients(error: &RuntimeErr) -> bool {
        matches!(error, RuntimeErr::Internal(text) if text == "full")
    }

    fn was_rejected(error: &RuntimeErr) -> bool {
        !matches!(error, RuntimeErr::Internal(text) if text == "broken")
    }

    fn options(_url: &str) -> Result<UrlOptions<()>> {
        Ok(UrlOptions::single(()))
    }

    fn address((): &()) -> String {
        String::new()
    }

    async fn connect((): &(), _settings: &str) -> Result<Box<dyn DriverConnection>, DbErr> {
        let answer = server(|server| if server.connects.is_empty() { "ok" } else { server.connects.remove(0) });
        match answer {
            "ok" => Ok(FakeConnection::open()),
            error => Err(DbErr::Conn(RuntimeErr::Internal(error.to_owned()))),
        }
    }

    fn open_pool((): (), _pool: sea_orm::ConnectOptions, _settings: String) -> DatabaseConnection {
        DatabaseConnection::default()
    }

    fn redirect(_pool: &DatabaseConnection, (): ()) {}

    fn pool_options(_pool: &DatabaseConnection) {}

    fn owns(_pool: &DatabaseConnection) -> bool {
        true
    }

    fn sibling_pool(_pool: &DatabaseConnection) -> Option<DatabaseConnection> {
        None
    }

    fn pool_limits(_pool: &DatabaseConnection) -> PoolLimits {
        let max_connections = server(|server| server.max_connections);
        PoolLimits {
            max_connections,
            acquire_timeout: Duration::from_secs(8),
            idle_timeout: Some(Duration::from_mins(10)),
            max_lifetime: Some(Duration::from_mins(30)),
        }
    }

    async fn acquire(_pool: &DatabaseConnection) -> Result<Box<dyn DriverConnection>, DbErr> {
        if server(|server| server.is_exhausted) {
            pending::<()>().await;
        }
        Ok(FakeConnection::open())
    }

    fn text(_row: &QueryResult, _index: impl ColIdx) -> Result<Option<&str>, DbErr> {
        Ok(None)
    }
}

struct FakeConnection {
    id: usize,
    /// What happens to it when it is dropped.
    fate: &'static str,
}

impl FakeConnection {
    fn open() -> Box<dyn DriverConnection> {
        let id = server(|server| {
            server.opened += 1;
            server.opened
        });
        Box::new(Self { id, fate: "returned" })
    }

    /// Logs a statement. One that is named so fails or hangs.
    async fn execute(&self, sql: &str, does: &str) -> Result<(), DbErr> {
        log(self.id, sql);
        match does {
            "contention" | "failure" | "broken" => Err(DbErr::Exec(RuntimeErr::Internal(does.to_owned()))),
            "hang" => pending().await,
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl DriverConnection for FakeConnection {
    async fn run(&mut self, statement: Statement, _on_row: &mut (dyn FnMut(QueryResult) + Send)) -> Result<u64, DbErr> {
        self.execute(&statement.sql, &statement.sql).await.map(|()| 1)
    }

    async fn simple_query(&mut self, sql: &'static str) -> Result<(), DbErr> {
        let does = if sql == "BEGIN" { server(|server| server.begin) } else { "ok" };
        self.execute(sql, does).await
    }

    async fn ping(&mut self) -> Result<(), DbErr> {
        let does = if server(|server| server.is_silent) { "hang" } else { "ok" };
        self.execute("ping", does).await
    }

    fn detach(mut self: Box<Self>) -> Box<dyn DriverConnection> {
        self.fate = "dropped";
        self
    }

    async fn end(mut self: Box<Self>) -> Result<(), DbErr> {
        self.fate = "ended";
        Ok(())
    }

    fn close(mut self: Box<Self>) {
        self.fate = "closed";
    }
}

impl Drop for FakeConnection {
    fn drop(&mut self) {
        log(self.id, self.fate);
    }
}
