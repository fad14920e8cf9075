//! Finds, starts and stops the database servers that the tests run on.
//!
//! Each kind of server is looked for in this order:
//!
//! 1. a URL in the environment, of an account that may make databases and users (`SEABED_TEST_POSTGRES_15_URL`, …);
//! 2. Docker, through testcontainers and the official images;
//! 3. server programs on this machine, started on a data directory and a loopback port of their own;
//! 4. otherwise its cases are reported as ignored, with what to install, or as failed if `SEABED_REQUIRE` asks for it.
//!
//! `SEABED_SERVERS=docker` leaves out the third place, `SEABED_SERVERS=installed` the second.
//!
//! google-adk, which shares the tables, is installed with pip where there is Python, and its cases are ignored or failed in the
//! same way otherwise.
//!
//! One server of a kind serves a whole run. Each test process makes a database of its own on it, and an account that may
//! only SELECT, INSERT, UPDATE and DELETE, which is the one that the service under test uses.

mod adk;
mod container;
mod database;
mod installed;
mod kind;
mod program;
mod proxy;
mod report;
mod server;
mod source;
pub mod torture;

pub use adk::{ADK_1_26, ADK_2_13, Acknowledged, Adk, AdkError, AdkSession, Hammered, Peer};
pub use database::Database;
pub use kind::{Family, Kind};
pub use proxy::{Cut, Proxy, Traffic};
pub use report::Report;
pub use server::{Server, Servers, Unavailable};
pub use source::Source;
