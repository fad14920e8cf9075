//! `up`, `down`, `refresh`, `status` and `grants`.

use std::io::{self, Write as _};

use seabed_migration::{Layout, MigrationStatus, SessionTables, StoredData, UpOptions};

use super::output::Output;

pub(crate) async fn up(tables: SessionTables<'_>, update_time_index: bool, dry_run: bool) -> anyhow::Result<()> {
    let mut options = UpOptions::default();
    options.update_time_index = update_time_index;
    if dry_run {
        print(&seabed_migration::up_sql(tables, options).await?)?;
    } else {
        seabed_migration::up(tables, options).await?;
        writeln!(Output, "The tables are up to date.")?;
    }
    Ok(())
}

pub(crate) async fn down(tables: SessionTables<'_>, stored_data: StoredData, dry_run: bool) -> anyhow::Result<()> {
    if dry_run {
        print(&seabed_migration::down_sql(tables).await?)?;
    } else {
        seabed_migration::down(tables, stored_data).await.map_err(explain_drop)?;
        writeln!(Output, "The tables are dropped.")?;
    }
    Ok(())
}

pub(crate) async fn refresh(tables: SessionTables<'_>, stored_data: StoredData, dry_run: bool) -> anyhow::Result<()> {
    if dry_run {
        print(&seabed_migration::refresh_sql(tables).await?)?;
    } else {
        seabed_migration::refresh(tables, stored_data).await.map_err(explain_drop)?;
        writeln!(Output, "The tables are new and empty.")?;
    }
    Ok(())
}

pub(crate) async fn status(tables: SessionTables<'_>) -> anyhow::Result<()> {
    let layout = seabed_migration::layout(tables.clone()).await?;
    for (name, status) in seabed_migration::status(tables).await? {
        let status = if status == MigrationStatus::Applied { "applied" } else { "pending" };
        writeln!(Output, "{status}  {name}")?;
    }
    // No migration changes these.
    if matches!(layout, Layout::Other(_) | Layout::Unknown(_)) {
        writeln!(Output, "{}", layout.describe())?;
    }
    Ok(())
}

pub(crate) async fn grants(tables: SessionTables<'_>, account: &str) -> anyhow::Result<()> {
    Ok(print(&seabed_migration::grants(tables, account).await?)?)
}

fn explain_drop(error: seabed_core::Error) -> anyhow::Error {
    let refused = matches!(error, seabed_core::Error::Invalid { field: "stored_data", .. });
    let error = anyhow::Error::new(error);
    if refused { error.context("nothing was dropped; --drop-data drops the tables with their data") } else { error }
}

fn print(statements: &[String]) -> io::Result<()> {
    if statements.is_empty() {
        writeln!(Output, "-- nothing to do")?;
    }
    statements.iter().try_for_each(|statement| writeln!(Output, "{statement};"))
}
