//! Services with settings that the tests choose.

use std::sync::Arc;
use std::time::Duration;

use seabed::sea_orm::DatabaseConnection;
use seabed::{DynSessionService, SqlSessionService};
use seabed_core::sql::{ConnectOptions, Dialect};
use seabed_mysql::MySql;
use seabed_postgres::Postgres;

use crate::kind::Family;

impl Family {
    /// Connects a service that uses at most `connections` connections, and whose callers wait for one as long as
    /// `acquire_timeout`.
    ///
    /// # Errors
    /// Those of [`connect_with`](SqlSessionService::connect_with).
    pub async fn connect(
        self,
        url: &str,
        connections: u32,
        acquire_timeout: Duration,
    ) -> seabed::Result<DynSessionService> {
        match self {
            Self::Postgres => connect::<Postgres>(url, connections, acquire_timeout).await,
            Self::MySql => connect::<MySql>(url, connections, acquire_timeout).await,
        }
    }

    /// Opens a pool with the same settings.
    ///
    /// # Errors
    /// Those of [`open`](ConnectOptions::open).
    pub async fn open(
        self,
        url: &str,
        connections: u32,
        acquire_timeout: Duration,
    ) -> seabed::Result<DatabaseConnection> {
        match self {
            Self::Postgres => options::<Postgres>(url, connections, acquire_timeout)?.open().await,
            Self::MySql => options::<MySql>(url, connections, acquire_timeout)?.open().await,
        }
    }
}

async fn connect<D: Dialect>(
    url: &str,
    connections: u32,
    acquire_timeout: Duration,
) -> seabed::Result<DynSessionService> {
    let options = options::<D>(url, connections, acquire_timeout)?;
    Ok(Arc::new(SqlSessionService::connect_with(options).await?))
}

fn options<D: Dialect>(url: &str, connections: u32, acquire_timeout: Duration) -> seabed::Result<ConnectOptions<D>> {
    let options: ConnectOptions<D> = url.parse()?;
    Ok(options.with_max_connections(connections).with_acquire_timeout(acquire_timeout))
}
