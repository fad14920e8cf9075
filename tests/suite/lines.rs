//! `seabed-migrate export` and `import`: a database as a file of lines.

use std::io::{BufReader, Cursor, Read as _};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, ensure};
use seabed::migration::{Selection, export, import};

use crate::fixture::Fixture;
use crate::transfer::{Other, expect_equal, fill};

crate::database_cases! {
    Everywhere: [
        a_file_of_lines_is_equal_there_and_back,
        a_file_that_was_cut_off_is_told,
    ],
    Sqlite: [
        a_line_without_an_end_is_told,
    ],
}

/// A file in memory, shared with its writer.
#[derive(Clone, Default)]
pub(crate) struct File(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for File {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl File {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn a_file_of_lines_is_equal_there_and_back(fixture: &Fixture) -> anyhow::Result<()> {
    let (here, there) = (fixture.migrated().await?, Other::new().await?);
    let source = there.service().await?;
    fill(&source, 20).await?;
    let file = File::default();
    let written = export(&there.pool, Selection::default(), file.clone(), &mut |_| {}).await?;
    let read = import(Cursor::new(file.bytes()), &fixture.admin, &mut |_| {}).await?;
    ensure!(read.is_complete() && read.content == written.content && read.stored_content == read.content, "{read:?}");
    expect_equal(&source, &here).await?;
    let again = File::default();
    let rewritten = export(&fixture.admin, Selection::default(), again, &mut |_| {}).await?;
    ensure!(rewritten.content == written.content, "{rewritten:?} is not {written:?}");
    Ok(())
}

async fn a_file_that_was_cut_off_is_told(fixture: &Fixture) -> anyhow::Result<()> {
    let (here, there) = (fixture.migrated().await?, Other::new().await?);
    let source = there.service().await?;
    fill(&source, 20).await?;
    let file = File::default();
    export(&there.pool, Selection::default(), file.clone(), &mut |_| {}).await?;
    let (bytes, admin) = (file.bytes(), &fixture.admin);
    let tell = |bytes: Vec<u8>| async move {
        let told = import(Cursor::new(bytes), admin, &mut |_| {}).await.err();
        told.map(|error| error.to_string()).unwrap_or_default()
    };
    let lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
    let told = tell(b"{\"users\": []}\n".to_vec()).await;
    ensure!(told.contains("seabed-migrate export"), "{told}");
    let told = tell(bytes[..bytes.len() / 2].to_vec()).await;
    ensure!(told.contains("cut off"), "{told}");
    let mut without_one = lines.clone();
    without_one.remove(lines.len() / 2);
    let told = tell(without_one.concat()).await;
    ensure!(told.contains("changed after the export"), "{told}");
    let told = tell([b"{\"header\":{\"format\":\"seabed-sessions\",\"version\":9}}\n", lines[1]].concat()).await;
    ensure!(told.contains("version 9"), "{told}");
    // With the complete file, the rest is imported.
    let summary = import(Cursor::new(bytes.clone()), &fixture.admin, &mut |_| {}).await?;
    ensure!(summary.is_complete(), "{summary:?}");
    expect_equal(&source, &here).await
}

async fn a_line_without_an_end_is_told(fixture: &Fixture) -> anyhow::Result<()> {
    let (_, there) = (fixture.migrated().await?, Other::new().await?);
    fill(&there.service().await?, 4).await?;
    let file = File::default();
    export(&there.pool, Selection::default(), file.clone(), &mut |_| {}).await?;
    let bytes = file.bytes();
    let header = bytes.split_inclusive(|byte| *byte == b'\n').next().unwrap_or_default().to_vec();
    let (endless, blank) = (std::io::repeat(b'x'), std::io::repeat(b' ').take(1 << 24));
    let line = BufReader::new(Cursor::new(header).chain(endless));
    let error = import(line, &fixture.admin, &mut |_| {}).await.err().context("an endless line was imported")?;
    ensure!(error.to_string().contains("line 2 is longer than"), "{error}");
    // Blanks behind the last line do not count, however many.
    let summary = import(BufReader::new(Cursor::new(bytes).chain(blank)), &fixture.admin, &mut |_| {}).await?;
    ensure!(summary.is_complete(), "{summary:?}");
    Ok(())
}
