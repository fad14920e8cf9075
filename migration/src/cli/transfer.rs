//! `copy`, `export`, `import` and `upgrade`.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use sea_orm::ConnectionTrait as _;
use sea_orm::sea_query::{Expr, Query};
use seabed_core::entity::sessions;
use seabed_migration::{Selection, SessionTables, Summary, Tables, UpgradeOptions};
use tempfile::{NamedTempFile, PersistError};

use super::open::{MissingFile, open};
use super::output::{Output, message};
use crate::FOUND_WRONG;

/// How often a line is printed when there is no terminal.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);
/// How many of the skipped rows are named.
const NAMED: usize = 20;

pub(crate) async fn copy(
    (from, from_tables): (&str, Tables),
    (to, to_tables): (&str, Tables),
    selection: Selection,
    resume: bool,
) -> anyhow::Result<ExitCode> {
    if from == to && from_tables == to_tables {
        anyhow::bail!("source and target are the same tables of the same database");
    }
    let source = open(from, from_tables, MissingFile::Refuse).await.context("the source")?;
    let target = open(to, to_tables, MissingFile::Refuse).await.context("the target")?;
    let copied = async {
        check_target(&target.tables(), resume).await?;
        let mut report = Report::new();
        let mut progress = |summary: &Summary| report.show(summary);
        let summary = seabed_migration::copy(source.tables(), target.tables(), selection, &mut progress).await?;
        Ok(report.end(&summary))
    };
    let copied = copied.await;
    source.close(target.close(copied).await).await
}

pub(crate) async fn export(
    tables: SessionTables<'_>,
    file: Option<PathBuf>,
    selection: Selection,
) -> anyhow::Result<ExitCode> {
    let mut report = Report::new();
    let mut progress = |summary: &Summary| report.show(summary);
    let summary = match &file {
        None => {
            let output = BufWriter::new(Output);
            seabed_migration::export(tables, selection, output, &mut progress).await?
        }
        Some(path) => {
            let cannot = || format!("cannot write {}", path.display());
            refuse_existing(path)?;
            let mut file = partial_file(path).with_context(cannot)?;
            let mut output = BufWriter::new(&mut file);
            let summary = seabed_migration::export(tables, selection, &mut output, &mut progress).await?;
            output.flush().with_context(cannot)?;
            drop(output);
            file.as_file().sync_all().with_context(cannot)?;
            file.persist_noclobber(path).map_err(kept).with_context(cannot)?;
            summary
        }
    };
    Ok(report.end(&summary))
}

/// Refuses a name that is taken, also by a symbolic link to a file that does not exist.
fn refuse_existing(path: &Path) -> anyhow::Result<()> {
    match path.symlink_metadata() {
        Ok(_) => anyhow::bail!("{} already exists", path.display()),
        Err(_) => Ok(()),
    }
}

/// Creates the file that gets the name `path` once it is complete. Only its owner can read it. Its name until then is
/// new and random, so nobody can have put a symbolic link there.
fn partial_file(path: &Path) -> io::Result<NamedTempFile> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut prefix = path.file_name().unwrap_or_default().to_owned();
    prefix.push(".");
    tempfile::Builder::new().prefix(&prefix).suffix(".partial").tempfile_in(folder)
}

/// The error of a complete file that did not get its name. The file stays, and the error says where.
fn kept(PersistError { error, file }: PersistError) -> anyhow::Error {
    match file.keep() {
        Ok((_, path)) => anyhow::Error::new(error).context(format!("the complete export is in {}", path.display())),
        Err(failed) => failed.error.into(),
    }
}

pub(crate) async fn import(file: Option<PathBuf>, tables: SessionTables<'_>, resume: bool) -> anyhow::Result<ExitCode> {
    check_target(&tables, resume).await?;
    let mut report = Report::new();
    let mut progress = |summary: &Summary| report.show(summary);
    let summary = match file {
        None => seabed_migration::import(BufReader::new(io::stdin()), tables, &mut progress).await?,
        Some(path) => {
            let input = File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
            seabed_migration::import(BufReader::new(input), tables, &mut progress).await?
        }
    };
    Ok(report.end(&summary))
}

pub(crate) async fn upgrade_into(
    source: SessionTables<'_>,
    (to, to_tables): (&str, Tables),
    options: UpgradeOptions,
    resume: bool,
) -> anyhow::Result<ExitCode> {
    let target = open(to, to_tables, MissingFile::Refuse).await.context("the target")?;
    let upgraded = async {
        check_target(&target.tables(), resume).await?;
        let mut report = Report::new();
        let mut progress = |summary: &Summary| report.show(summary);
        let summary = seabed_migration::upgrade_into(source, target.tables(), options, &mut progress).await?;
        Ok(report.end(&summary))
    };
    let upgraded = upgraded.await;
    target.close(upgraded).await
}

pub(crate) async fn upgrade_in_place(tables: SessionTables<'_>, options: UpgradeOptions) -> anyhow::Result<ExitCode> {
    let mut report = Report::new();
    let kept = tables.tables().name("seabed_v0_");
    let summary = seabed_migration::upgrade_in_place(tables, options, &mut |summary| report.show(summary)).await;
    let exit = report.end(&summary?);
    message(format_args!("the tables of schema v0 are kept as {kept}…; `seabed-migrate upgrade --finish` drops them"));
    Ok(exit)
}

pub(crate) async fn finish_upgrade(
    tables: SessionTables<'_>,
    options: UpgradeOptions,
    leave_rows: bool,
) -> anyhow::Result<ExitCode> {
    let mut report = Report::new();
    let mut progress = |summary: &Summary| report.show(summary);
    let summary = seabed_migration::finish_upgrade(tables, options, leave_rows, &mut progress).await?;
    let is_dropped = summary.is_complete() || leave_rows;
    let exit = report.end(&summary);
    message(format_args!(
        "the tables of schema v0 are {}",
        if is_dropped { "dropped" } else { "kept: the tables of v1 do not contain all of their rows" }
    ));
    Ok(exit)
}

/// Rejects a target that already has sessions, unless resuming: rows are merged into the existing ones, which the user
/// of a mistyped target would regret.
async fn check_target(target: &SessionTables<'_>, resume: bool) -> anyhow::Result<()> {
    let any = Query::select().expr(Expr::val(1)).from(target.tables().table(sessions::Entity)).limit(1).take();
    // Missing tables are reported by name later.
    let has_sessions = target.connection().query_one(&any).await.is_ok_and(|row| row.is_some());
    if has_sessions && !resume {
        anyhow::bail!(
            "the target already has sessions, and nothing was written; --resume adds missing rows and keeps existing \
             ones"
        );
    }
    Ok(())
}

/// Reports the progress of a transfer: a bar on a terminal, a line from time to time elsewhere.
pub(crate) struct Report {
    bar: Option<ProgressBar>,
    started: Instant,
    reported: Instant,
}

impl Report {
    #[allow(clippy::disallowed_methods, reason = "how long the user waits")]
    pub(crate) fn new() -> Self {
        let style = ProgressStyle::with_template("{bar:40} {pos}/{len} events, {elapsed}, {eta} left");
        let bar = style.ok().filter(|_| io::stderr().is_terminal());
        let bar = bar.map(|style| ProgressBar::new(0).with_style(style));
        Self { bar, started: Instant::now(), reported: Instant::now() }
    }

    #[allow(clippy::disallowed_methods, reason = "how long the user waits")]
    pub(crate) fn show(&mut self, summary: &Summary) {
        if let Some(bar) = &self.bar {
            bar.set_length(summary.expected_events.unwrap_or(summary.events));
            bar.set_position(summary.events);
        } else if self.reported.elapsed() > REPORT_INTERVAL {
            self.reported = Instant::now();
            let of = summary.expected_events.map(|all| format!(" of {all}")).unwrap_or_default();
            message(format_args!("{} sessions, {}{of} events", summary.sessions, summary.events));
        }
    }

    pub(crate) fn end(self, summary: &Summary) -> ExitCode {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
        let Summary { app_states, user_states, sessions, events, annotations, .. } = summary;
        message(format_args!(
            "read: {sessions} sessions, {events} events, {user_states} user states, {app_states} app states, {annotations} \
             rows of titles and labels in {:.1} s",
            self.started.elapsed().as_secs_f64()
        ));
        message(format_args!(
            "new in the target: {} sessions, {} events; states added or changed: {}",
            summary.new_sessions, summary.new_events, summary.changed_states
        ));
        message(format_args!("content read:   {}", summary.content));
        message(format_args!("content stored: {}", summary.stored_content));
        if summary.is_complete() && summary.content != summary.stored_content {
            message("some of these rows have other keys or times in the target, which was also written to");
        }
        let named = |title: &str, rows: Vec<String>| {
            if !rows.is_empty() {
                message(format_args!("{} rows {title}:", rows.len()));
            }
            rows.iter().take(NAMED).for_each(|row| message(format_args!("  {row}")));
            if rows.len() > NAMED {
                message(format_args!("  and {} more", rows.len() - NAMED));
            }
        };
        named("were skipped", summary.refused.iter().map(ToString::to_string).collect());
        named("differ from the source", summary.different.clone());
        if summary.is_complete() { ExitCode::SUCCESS } else { ExitCode::from(FOUND_WRONG) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complete_export_whose_name_was_taken_meanwhile_is_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("sessions.jsonl");
        let mut file = partial_file(&path).expect("a file");
        file.write_all(b"rows").expect("a file");
        std::fs::write(&path, "of others").expect("a file");
        let told = format!("{:#}", file.persist_noclobber(&path).map_err(kept).expect_err("the name is taken"));
        let files = std::fs::read_dir(folder.path()).expect("a folder").map(|file| file.expect("a file").path());
        let others: Vec<_> = files.filter(|file| *file != path).collect();
        assert_eq!(others.len(), 1, "{told}");
        assert_eq!(std::fs::read_to_string(&others[0]).expect("a file"), "rows");
        assert!(told.starts_with(&format!("the complete export is in {}", others[0].display())), "{told}");
        assert_eq!(std::fs::read_to_string(&path).expect("a file"), "of others");
    }
}
