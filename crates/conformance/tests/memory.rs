//! The reference model keeps the guarantees: also the shortest example of how to run the suite.

use std::sync::Arc;

use seabed_conformance::{Opened, Services, Target};
use seabed_core::MemorySessionService;

fn main() -> std::process::ExitCode {
    let service = MemorySessionService::new();
    seabed_conformance::run([Target::new("memory", move || {
        let service = service.clone();
        async move {
            let service = Arc::new(service);
            Ok(Opened::Service(
                Services::with_state(service.clone())
                    .and_directory(service.clone())
                    .and_history(service.clone())
                    .and_retention(service),
            ))
        }
    })])
}
