//! Finds the contract that adk-session publishes for session services: it is compiled from the package, not copied.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=../Cargo.lock");
    let contract = contract().unwrap_or_else(|reason| panic!("the contract of adk-session: {reason}"));
    println!("cargo::rustc-env=ADK_SESSION_CONTRACT={contract}");
}

fn contract() -> Result<String, String> {
    let variable = |name| std::env::var(name).map_err(|_| format!("{name} is not set"));
    let output = Command::new(variable("CARGO")?)
        .args(["metadata", "--format-version", "1", "--locked", "--filter-platform"])
        .arg(variable("TARGET")?)
        .output()
        .map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let metadata: Value = serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let manifest = packages.into_iter().find(|package| package["name"] == "adk-session");
    let manifest = manifest.and_then(|package| package["manifest_path"].as_str()).ok_or("no such package")?;
    let contract = Path::new(manifest).with_file_name("tests").join("common").join("session_contract.rs");
    if !contract.is_file() {
        return Err(format!("{} is missing", contract.display()));
    }
    contract.into_os_string().into_string().map_err(|path| format!("{} is not UTF-8", path.display()))
}
