//! Prints the public API of the crate whose documentation is in the JSON file of the first argument, one item a line.

use anyhow::Context as _;

fn main() -> anyhow::Result<()> {
    let json = std::env::args_os().nth(1).context("which file?")?;
    // Blanket implementations come from other crates, and auto traits follow from private fields. Listing them would
    // bury what was written by hand.
    let builder = public_api::Builder::from_rustdoc_json(json).omit_blanket_impls(true).omit_auto_trait_impls(true);
    for item in builder.build()?.items() {
        println!("{item}");
    }
    Ok(())
}
