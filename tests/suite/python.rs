//! The Python package beside google-adk's own service.

use std::process::Stdio;

use anyhow::ensure;
use seabed_tests::{BINDING, Binding, sqlalchemy_url};
use tokio::process::Command;

use crate::fixture::Fixture;

crate::database_cases! {
    InPython: [
        the_tests_of_the_python_package_pass,
    ],
}

async fn the_tests_of_the_python_package_pass(fixture: &Fixture) -> anyhow::Result<()> {
    let python = BINDING.python().await.map_err(|unavailable| anyhow::anyhow!(unavailable.reason))?;
    let tests = Command::new(python)
        .args(["-X", "faulthandler", "-m", "pytest", "--quiet", "--show-capture=no", "-p", "no:cacheprovider"])
        .current_dir(Binding::folder())
        // It creates the tables, which takes an account that may do so.
        .env("SEABED_ADK_TEST_URL", sqlalchemy_url(&fixture.admin_url))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await?;
    let told = |output| String::from_utf8_lossy(output).into_owned();
    ensure!(tests.status.success(), "{}{}", told(&tests.stdout), told(&tests.stderr));
    Ok(())
}
