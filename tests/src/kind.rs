//! The kinds of servers.

/// A server that the tests run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// PostgreSQL 15: the oldest that is tested.
    Postgres15,
    /// PostgreSQL 18: the newest.
    Postgres18,
    /// MySQL 9.
    MySql9,
    /// MariaDB.
    MariaDb,
}

/// Servers that speak one protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// PostgreSQL's.
    Postgres,
    /// MySQL's.
    MySql,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Postgres15, Self::Postgres18, Self::MySql9, Self::MariaDb];

    /// The name of the target in tests, and in `SEABED_REQUIRE`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Postgres15 => "postgres_15",
            Self::Postgres18 => "postgres_18",
            Self::MySql9 => "mysql_9",
            Self::MariaDb => "mariadb",
        }
    }

    /// The variable of the environment that may hold the URL of such a server.
    pub fn variable(self) -> String {
        format!("SEABED_TEST_{}_URL", self.name().to_uppercase())
    }

    /// Which protocol it speaks.
    pub fn family(self) -> Family {
        match self {
            Self::Postgres15 | Self::Postgres18 => Family::Postgres,
            Self::MySql9 | Self::MariaDb => Family::MySql,
        }
    }

    /// Name and tag of the official image.
    pub fn image(self) -> (&'static str, &'static str) {
        match self {
            Self::Postgres15 => ("postgres", "15"),
            Self::Postgres18 => ("postgres", "18"),
            Self::MySql9 => ("mysql", "9"),
            Self::MariaDb => ("mariadb", "10.11"),
        }
    }

    /// What to install where there is no Docker.
    pub fn package(self) -> &'static str {
        match self {
            Self::Postgres15 => "postgresql (15 to 17)",
            Self::Postgres18 => "postgresql-18",
            Self::MySql9 => "mysql-server 9",
            Self::MariaDb => "mariadb-server",
        }
    }
}
