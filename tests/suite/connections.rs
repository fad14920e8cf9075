//! Connection errors say what to do, and do not contain the password.

use std::path::Path;

use anyhow::{Context as _, ensure};
use futures_util::future::try_join_all;
use seabed::{BackendErrorKind, CreateSession, Error, UserKey};
use seabed_tests::{Family, Kind};
use tokio::net::{TcpStream, UnixListener};
use tokio::task::JoinHandle;
use url::Url;

use crate::fixture::{Fixture, query_text};

crate::database_cases! {
    Everywhere: [
        a_missing_schema_is_told_with_what_to_do,
        an_unknown_schema_version_is_refused_by_name,
        an_unreachable_server_is_unavailable,
        urls_that_cannot_be_understood_are_invalid,
        urls_in_the_forms_of_python_are_read,
        connections_are_set_up_as_promised,
    ],
    Servers: [
        a_wrong_password_is_refused_without_telling_it,
        a_missing_database_is_told_with_what_creates_it,
        the_service_account_may_not_change_tables,
        a_unix_socket_is_an_address,
    ],
    Sqlite: [
        a_missing_file_is_told_with_what_creates_it,
        a_new_file_is_opened_by_many_at_once,
    ],
}

/// Returns the whole chain of an error, in its `Display` and `Debug` forms.
fn told(error: &Error) -> String {
    let first: Option<&dyn std::error::Error> = Some(error);
    let chain = std::iter::successors(first, |error| error.source());
    chain.map(|error| format!("{error} {error:?}")).collect::<Vec<_>>().join(" ")
}

async fn a_missing_schema_is_told_with_what_to_do(fixture: &Fixture) -> anyhow::Result<()> {
    let error = seabed::connect(&fixture.service_url).await.err().context("connected without tables")?;
    ensure!(error.backend_kind() == Some(BackendErrorKind::Schema), "{error:?}");
    ensure!(error.to_string().contains("seabed-migrate up"), "{error}");
    Ok(())
}

async fn an_unknown_schema_version_is_refused_by_name(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    drop(service);
    fixture.execute("UPDATE adk_internal_metadata SET value = '7'").await?;
    let service = seabed::connect(&fixture.service_url).await.err().context("connected to a schema of version 7")?;
    let migration = seabed::migrate(&fixture.admin).await.err().context("migrated a schema of version 7")?;
    for error in [service, migration] {
        ensure!(error.backend_kind() == Some(BackendErrorKind::Schema), "{error:?}");
        ensure!(error.to_string().contains("\"7\""), "{error}");
    }
    Ok(())
}

async fn a_wrong_password_is_refused_without_telling_it(fixture: &Fixture) -> anyhow::Result<()> {
    let database = fixture.database().context("a case for servers")?;
    let mut url = Url::parse(&fixture.service_url)?;
    ensure!(url.set_password(Some("wrong-guess")).is_ok());
    let error = seabed::connect(url.as_str()).await.err().context("connected with a wrong password")?;
    ensure!(error.backend_kind() == Some(BackendErrorKind::Unexpected), "{error:?}");
    ensure!(error.to_string().contains("password"), "{error}");
    ensure!(!told(&error).contains("wrong-guess"), "the error tells the password: {}", told(&error));
    if let Ok(options) = fixture.service_url.parse::<seabed::PostgresOptions>() {
        ensure!(!format!("{options:?}").contains(database.service_password()));
    }
    Ok(())
}

async fn a_missing_database_is_told_with_what_creates_it(fixture: &Fixture) -> anyhow::Result<()> {
    let is_mysql = fixture.kind.map(Kind::family) == Some(Family::MySql);
    for (url, may_know) in [(&fixture.service_url, !is_mysql), (&fixture.admin_url, true)] {
        let mut url = Url::parse(url)?;
        url.set_path("seabed_nowhere");
        let error = seabed::open(url.as_str()).await.err().context("opened a database that does not exist")?;
        let kind = if may_know { BackendErrorKind::Schema } else { BackendErrorKind::Unexpected };
        ensure!(error.backend_kind() == Some(kind) && !error.is_retryable(), "{error:?}");
        let text = error.to_string();
        ensure!(text.contains("CREATE DATABASE") && text.contains("seabed-migrate up"), "{text}");
        ensure!(text.contains("has no rights") != may_know && !text.contains("TLS"), "{text}");
    }
    Ok(())
}

async fn an_unreachable_server_is_unavailable(fixture: &Fixture) -> anyhow::Result<()> {
    let url = if fixture.kind.is_some() {
        let closed = std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let mut url = Url::parse(&fixture.service_url)?;
        ensure!(url.set_port(Some(closed)).is_ok());
        url.to_string()
    } else {
        "sqlite:///no/such/folder/seabed.db".to_owned()
    };
    let error = seabed::connect(&url).await.err().context("connected to nothing")?;
    ensure!(error.backend_kind() == Some(BackendErrorKind::Unavailable) && error.is_retryable(), "{error:?}");
    if let Some(database) = fixture.database() {
        ensure!(!told(&error).contains(database.service_password()));
    }
    Ok(())
}

async fn a_new_file_is_opened_by_many_at_once(_: &Fixture) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    for number in 0..80 {
        let url = format!("sqlite://{}?mode=rwc", folder.path().join(format!("{number}.db")).display());
        let opening = (0..8).map(|_| {
            tokio::spawn({
                let url = url.clone();
                async move { seabed::open(&url).await }
            })
        });
        for opened in try_join_all(opening).await? {
            opened?.close().await?;
        }
    }
    Ok(())
}

async fn a_missing_file_is_told_with_what_creates_it(_: &Fixture) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("agents.db");
    let url = format!("sqlite://{}", file.display());
    for outcome in [seabed::connect(&url).await.map(drop), seabed::open(&url).await.map(drop)] {
        let error = outcome.err().context("opened a file that does not exist")?;
        ensure!(error.backend_kind() == Some(BackendErrorKind::Schema) && !error.is_retryable(), "{error:?}");
        for part in [&*file.display().to_string(), "does not exist", "seabed-migrate up", "mode=rwc"] {
            ensure!(error.to_string().contains(part), "{error}");
        }
    }
    ensure!(!file.exists(), "a service made a file");
    // What the error says.
    let database = seabed::open(&format!("{url}?mode=rwc")).await?;
    seabed::migrate(&database).await?;
    seabed::connect(&url).await?.check_health().await?;
    database.close().await?;
    for (url, path) in [
        ("sqlite://a.db", "a.db"),
        ("sqlite:a.db", "a.db"),
        ("sqlite:///a.db", "/a.db"),
        ("sqlite:////srv/a.db", "//srv/a.db"),
        ("sqlite:///./a.db", "./a.db"),
        ("sqlite:///../a.db", "../a.db"),
        ("sqlite+aiosqlite:///a.db", "a.db"),
        ("sqlite+aiosqlite:////srv/a.db", "/srv/a.db"),
    ] {
        let options: seabed::SqliteOptions = url.parse()?;
        ensure!(
            options.driver.get_filename().as_os_str() == path,
            "{url} is {}",
            options.driver.get_filename().display()
        );
    }
    let error = seabed::connect("sqlite:///no-such-agents.db").await.err().context("a file in the root")?;
    ensure!(error.to_string().contains("sqlite://NAME"), "{error}");
    Ok(())
}

async fn urls_that_cannot_be_understood_are_invalid(_: &Fixture) -> anyhow::Result<()> {
    for url in [
        "",
        "secret",
        "oracle://u:secret@h/d",
        "postgres://u:secret@h:port/d",
        "mysql://u:secret@[/d",
        "sqlite:x?secret=1",
        "sqlite://x?mode=secret",
        "sqlite://x?cache=secret",
        "postgres://u:p@h/d?sslmode=secret",
        "postgres://u:p@h/d?secret=1",
        "postgres://u:p@h/d?port=secret",
        "postgres://u:p@h/d?hostaddr=secret",
        "postgres://u:p@h/d?statement-cache-capacity=secret",
        "postgres://u:12/secret@h/d",
        "postgres://u:12?secret@h/d",
        "postgres://u:12#secret@h/d",
        "postgres://u:secret/x@h/d",
        "postgres:u:secret@h/d",
        "postgres://u:1,secret/x@h/d",
        "postgres://u:p@h:secret,i/d",
        "mysql://u:p@h,i:secret/d",
        "mysql://u:p@h/d?ssl-mode=secret",
        "mysql://u:p@h/d?charset=secret",
        "mysql://u:12/secret@h/d",
    ] {
        let error = seabed::connect(url).await.err().with_context(|| format!("connected to {url:?}"))?;
        ensure!(matches!(error, Error::Invalid { field: "url", .. }), "{url}: {error:?}");
        ensure!(!told(&error).contains("secret"), "{}", told(&error));
    }
    for (url, named) in [
        ("postgres://u:p@h/d?target_session_attrs=leader", "target_session_attrs is none of any, read-write"),
        ("mysql://u:p@h/d?target_session_attrs=leader", "target_session_attrs is none of any, read-write"),
        ("sqlite://d.db?target_session_attrs=any", "target_session_attrs is not supported"),
        ("postgres://u:p@h,/d", "an empty host"),
        ("postgres://u:p@h,i,j/d?port=1,2", "not equally long"),
        ("postgres://u:p@h,%2Ftmp/d", "a socket"),
        ("mysql://u:p@h,i/d?socket=%2Ftmp%2Fs", "a socket"),
        ("postgres://u:p@h/d?statement-cache-capacity=0", "statement-cache-capacity of 0"),
        ("postgres://u:p@h/d?sslmode=on", "the value of the parameter sslmode"),
        ("mysql://u:p@h/d?charset=latin1", "charset is not supported"),
    ] {
        let error = seabed::connect(url).await.err().with_context(|| format!("connected to {url:?}"))?;
        ensure!(error.to_string().contains(named), "{url}: {error}");
    }
    Ok(())
}

/// As google-adk takes them, and as they come out of files and environments.
async fn urls_in_the_forms_of_python_are_read(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.migrated().await?;
    let (scheme, rest) = fixture.service_url.split_once("://").context("no scheme")?;
    let url = match fixture.kind.map(Kind::family) {
        Some(Family::Postgres) => format!("postgresql+asyncpg://{rest}"),
        Some(Family::MySql) => format!("mysql+aiomysql://{rest}"),
        None => format!("sqlite+aiosqlite:///{rest}"),
    };
    for url in [url, format!(" {scheme}://{rest}\n")] {
        seabed::connect(&url).await?.check_health().await?;
    }
    let options: seabed::PostgresOptions = "postgres://u:p@[::1]:5432/d".parse()?;
    ensure!(options.driver.get_host() == "::1", "{}", options.driver.get_host());
    let options: seabed::MySqlOptions = "mysql://u:p@[::1]:3306/d?charset=utf8mb4".parse()?;
    ensure!(options.driver.get_host() == "::1", "{}", options.driver.get_host());
    Ok(())
}

/// Makes a socket at `path`, and forwards its connections to the server at `url`.
fn forward(path: &Path, url: &Url) -> anyhow::Result<JoinHandle<std::io::Result<()>>> {
    let server = (url.host_str().context("no host")?.to_owned(), url.port().context("no port")?);
    let socket = UnixListener::bind(path)?;
    Ok(tokio::spawn(async move {
        loop {
            let (mut client, _) = socket.accept().await?;
            let mut server = TcpStream::connect((&*server.0, server.1)).await?;
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut server).await });
        }
    }))
}

async fn a_unix_socket_is_an_address(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.migrated().await?;
    let family = fixture.kind.map(Kind::family).context("a case for servers")?;
    let folder = tempfile::tempdir()?;
    let mut url = Url::parse(&fixture.service_url)?;
    let port = url.port().context("no port")?;
    let socket = folder.path().join(match family {
        Family::Postgres => format!(".s.PGSQL.{port}"),
        Family::MySql => "mysql.sock".to_owned(),
    });
    let forwarding = forward(&socket, &url)?;
    let path = |path: &Path| path.display().to_string();
    let urls = match family {
        Family::Postgres => {
            let folder = path(folder.path());
            let (account, database) = (format!("{}:{}", url.username(), url.password().unwrap_or("")), url.path());
            let in_host = format!("postgres://{account}@{}:{port}{database}", folder.replace('/', "%2F"));
            url.query_pairs_mut().append_pair("host", &folder);
            vec![url.to_string(), in_host]
        }
        Family::MySql => {
            url.query_pairs_mut().append_pair("socket", &path(&socket));
            vec![url.to_string()]
        }
    };
    for url in &urls {
        seabed::connect(url).await.with_context(|| url.clone())?.check_health().await?;
    }
    forwarding.abort();
    std::fs::remove_file(&socket)?;
    for url in &urls {
        let error = seabed::connect(url).await.err().context("connected to no socket")?;
        ensure!(error.backend_kind() == Some(BackendErrorKind::Unavailable), "{error:?}");
        ensure!(error.to_string().contains(&path(folder.path())), "{error}");
        ensure!(!told(&error).contains(fixture.database().context("no database")?.service_password()));
    }
    Ok(())
}

/// Law 8: the suite runs with an account that could not issue DDL if the service tried.
async fn the_service_account_may_not_change_tables(fixture: &Fixture) -> anyhow::Result<()> {
    use seabed::sea_orm::ConnectionTrait;
    let service = fixture.migrated().await?;
    service.create_session(CreateSession::new(UserKey::try_new("app", "alice")?)).await?;
    let pool = seabed::open(&fixture.service_url).await?;
    for ddl in ["CREATE TABLE t (a int)", "DROP TABLE events", "ALTER TABLE events ADD COLUMN a int"] {
        ensure!(pool.execute_unprepared(ddl).await.is_err(), "the account may {ddl}");
    }
    Ok(())
}

async fn connections_are_set_up_as_promised(fixture: &Fixture) -> anyhow::Result<()> {
    let pool = seabed::open(&fixture.service_url).await?;
    let promised: &[(&str, &str)] = match fixture.kind {
        Some(Kind::Postgres15 | Kind::Postgres18) => &[
            ("current_setting('default_transaction_isolation')", "read committed"),
            ("current_setting('application_name')", "seabed"),
        ],
        Some(Kind::MySql9) => &[
            ("@@session.transaction_isolation", "READ-COMMITTED"),
            ("@@session.time_zone", "+00:00"),
            ("CAST(@@session.autocommit = 1 AS CHAR)", "1"),
            // caching_sha2_password sends the password over TLS.
            (
                "(SELECT CAST(variable_value <> '' AS CHAR) FROM performance_schema.session_status \
                 WHERE variable_name = 'Ssl_cipher')",
                "1",
            ),
            ("CAST(@@session.sql_mode LIKE '%STRICT_TRANS_TABLES%' AS CHAR)", "1"),
        ],
        Some(Kind::MariaDb) => &[
            ("@@session.tx_isolation", "READ-COMMITTED"),
            ("@@session.time_zone", "+00:00"),
            ("CAST(@@session.autocommit = 1 AS CHAR)", "1"),
            ("CAST(@@session.sql_mode LIKE '%STRICT_TRANS_TABLES%' AS CHAR)", "1"),
        ],
        None => &[
            ("(SELECT journal_mode FROM pragma_journal_mode)", "wal"),
            ("(SELECT CAST(synchronous AS TEXT) FROM pragma_synchronous)", "2"),
            ("(SELECT CAST(foreign_keys AS TEXT) FROM pragma_foreign_keys)", "1"),
            ("(SELECT CAST(timeout AS TEXT) FROM pragma_busy_timeout)", "30000"),
        ],
    };
    for (setting, expected) in promised {
        let actual = query_text(&pool, &format!("SELECT {setting} AS text")).await?;
        ensure!(actual == *expected, "{setting} is {actual}, not {expected}");
    }
    pool.close().await?;
    Ok(())
}
