//! The kinds of database servers.

/// A server that the tests run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// PostgreSQL 15, the oldest version tested.
    Postgres15,
    /// PostgreSQL 18, the newest version.
    Postgres18,
    /// MySQL 9.
    MySql9,
    /// MariaDB.
    MariaDb,
}

/// Servers that use the same protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// PostgreSQL's.
    Postgres,
    /// MySQL's.
    MySql,
}

impl Family {
    /// Returns the port that its servers use by default.
    pub fn port(self) -> u16 {
        match self {
            Self::Postgres => 5432,
            Self::MySql => 3306,
        }
    }
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Postgres15, Self::Postgres18, Self::MySql9, Self::MariaDb];

    /// Returns the name of the target in tests and in `SEABED_REQUIRE`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Postgres15 => "postgres_15",
            Self::Postgres18 => "postgres_18",
            Self::MySql9 => "mysql_9",
            Self::MariaDb => "mariadb",
        }
    }

    /// Returns the environment variable that may contain the URL of such a server.
    pub fn variable(self) -> String {
        format!("SEABED_TEST_{}_URL", self.name().to_uppercase())
    }

    /// Returns the protocol family.
    pub fn family(self) -> Family {
        match self {
            Self::Postgres15 | Self::Postgres18 => Family::Postgres,
            Self::MySql9 | Self::MariaDb => Family::MySql,
        }
    }

    /// Returns the name and tag of the official image.
    pub fn image(self) -> (&'static str, &'static str) {
        match self {
            Self::Postgres15 => ("postgres", "15"),
            Self::Postgres18 => ("postgres", "18"),
            Self::MySql9 => ("mysql", "9"),
            Self::MariaDb => ("mariadb", "10.11"),
        }
    }

    /// Returns the package to install if there is no Docker.
    pub fn package(self) -> &'static str {
        match self {
            Self::Postgres15 => "postgresql (15 to 17)",
            Self::Postgres18 => "postgresql-18",
            Self::MySql9 => "mysql-server 9",
            Self::MariaDb => "mariadb-server",
        }
    }
}
