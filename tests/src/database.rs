//! A database used only by this test process.

use seabed::sea_orm::{ConnectionTrait, DatabaseConnection};
use url::Url;

use crate::Family;

/// The service account's password. It contains characters that URLs must escape.
const SERVICE_PASSWORD: &str = "p@ss:w/rd?#%";

/// A new database and two accounts: the server's administrator, and one that may only read and write rows.
#[derive(Debug)]
pub struct Database {
    family: Family,
    server_url: String,
    name: String,
}

impl Database {
    /// Creates a database with a unique name, without tables.
    ///
    /// # Errors
    /// Those of the server.
    pub async fn create(family: Family, server_url: &str) -> anyhow::Result<Self> {
        let name = format!("seabed_{:016x}", fastrand::u64(..));
        let database = Self { family, server_url: server_url.to_owned(), name };
        let name = &database.name;
        // FLUSH PRIVILEGES makes the server forget the account, so that caching_sha2_password has to use its full
        // authentication, which needs TLS.
        database
            .administrate(&match family {
                Family::Postgres => vec![
                    format!("CREATE DATABASE {name}"),
                    format!("CREATE ROLE {name} LOGIN PASSWORD '{SERVICE_PASSWORD}'"),
                ],
                Family::MySql => vec![
                    format!("CREATE DATABASE {name}"),
                    format!("CREATE USER '{name}'@'%' IDENTIFIED BY '{SERVICE_PASSWORD}'"),
                    format!("GRANT SELECT, INSERT, UPDATE, DELETE ON {name}.* TO '{name}'@'%'"),
                    "FLUSH PRIVILEGES".to_owned(),
                ],
            })
            .await?;
        Ok(database)
    }

    /// Creates another database on the same server.
    ///
    /// # Errors
    /// Those of the server.
    pub async fn another(&self) -> anyhow::Result<Self> {
        Self::create(self.family, &self.server_url).await
    }

    /// Returns the URL of the administrator, on the database where the server was found.
    pub(crate) fn server_url(&self) -> &str {
        &self.server_url
    }

    /// Returns the URL of the administrator, who may create tables.
    ///
    /// # Errors
    /// If the server's URL is invalid.
    pub fn admin_url(&self) -> anyhow::Result<String> {
        let mut url = Url::parse(&self.server_url)?;
        url.set_path(&self.name);
        Ok(url.into())
    }

    /// Returns the URL of the account that may only read and write rows.
    ///
    /// # Errors
    /// If the server's URL is invalid.
    pub fn service_url(&self) -> anyhow::Result<String> {
        let mut url = Url::parse(&self.admin_url()?)?;
        // `Url` escapes most characters that a password must not contain, but treats a percent sign as an escape.
        let password = SERVICE_PASSWORD.replace('%', "%25");
        let set = url.set_username(&self.name).and_then(|()| url.set_password(Some(&password)));
        set.map_err(|()| anyhow::anyhow!("a URL without host"))?;
        Ok(url.into())
    }

    /// Returns the name of the account in [`service_url`](Self::service_url).
    pub fn account(&self) -> &str {
        &self.name
    }

    /// Returns the password in [`service_url`](Self::service_url), for tests that no error contains it.
    pub fn service_password(&self) -> &'static str {
        SERVICE_PASSWORD
    }

    /// Opens a pool as the administrator.
    ///
    /// # Errors
    /// Those of the server.
    pub async fn admin(&self) -> anyhow::Result<DatabaseConnection> {
        Ok(seabed::open(&self.admin_url()?).await?)
    }

    /// Creates the tables, and lets the service account read and write their rows.
    ///
    /// # Errors
    /// Those of the migration.
    pub async fn migrate(&self) -> anyhow::Result<()> {
        let admin = self.admin().await?;
        seabed::migrate(&admin).await?;
        self.grant(&admin).await?;
        admin.close().await?;
        Ok(())
    }

    /// Lets the service account read and write the rows of the existing tables.
    ///
    /// # Errors
    /// Those of the server.
    pub async fn grant(&self, admin: &DatabaseConnection) -> anyhow::Result<()> {
        if self.family == Family::Postgres {
            let name = &self.name;
            let grant = format!("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {name}");
            admin.execute_unprepared(&grant).await?;
        }
        Ok(())
    }

    /// Drops the database and the service account.
    ///
    /// # Errors
    /// Those of the server.
    pub async fn remove(&self) -> anyhow::Result<()> {
        let name = &self.name;
        self.administrate(&match self.family {
            Family::Postgres => vec![format!("DROP DATABASE {name} WITH (FORCE)"), format!("DROP ROLE {name}")],
            Family::MySql => vec![format!("DROP DATABASE {name}"), format!("DROP USER '{name}'@'%'")],
        })
        .await
    }

    async fn administrate(&self, statements: &[String]) -> anyhow::Result<()> {
        let server = seabed::open(&self.server_url).await?;
        for statement in statements {
            server.execute_unprepared(statement).await?;
        }
        server.close().await?;
        Ok(())
    }
}
