//! Services with settings that the tests choose.

use std::sync::Arc;
use std::time::Duration;

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
}

async fn connect<D: Dialect>(
    url: &str,
    connections: u32,
    acquire_timeout: Duration,
) -> seabed::Result<DynSessionService> {
    let options: ConnectOptions<D> = url.parse()?;
    let options = options.with_max_connections(connections).with_acquire_timeout(acquire_timeout);
    Ok(Arc::new(SqlSessionService::connect_with(options).await?))
}
