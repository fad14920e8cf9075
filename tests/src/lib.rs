//! Finds, starts and stops the database servers that the tests run on.
//!
//! For each kind of server, these are tried in order:
//!
//! 1. a URL in the environment, for an account that may create databases and users (`SEABED_TEST_POSTGRES_15_URL`, …);
//! 2. Docker, through testcontainers and the official images;
//! 3. server programs on this machine, started on their own data directory and loopback port;
//! 4. otherwise its cases are reported as ignored, with what to install, or as failed if `SEABED_REQUIRE` names it.
//!
//! `SEABED_SERVERS=docker` leaves out the third source, `SEABED_SERVERS=installed` the second.
//!
//! google-adk, which shares the tables, is installed with pip if there is Python. Otherwise its cases are ignored or
//! fail in the same way, and so do those that need PgBouncer, where it is not installed, and a Galera cluster, whose
//! nodes run in containers.
//!
//! One server of each kind serves a whole run. Each test process creates its own database on it, and an account that
//! may only SELECT, INSERT, UPDATE and DELETE. The service under test uses that account.

#![allow(clippy::disallowed_methods, reason = "tests measure time, and choose names and faults at random")]

mod adk;
mod cluster;
mod connect;
mod container;
mod database;
mod installed;
mod kind;
mod pgbouncer;
mod program;
mod proxy;
mod python;
mod report;
mod server;
mod source;
pub mod torture;

pub use adk::{
    ADK_1_26, ADK_2_13, Acknowledged, Adk, AdkEffective, AdkError, AdkSession, AdkUsed, Hammered, Peer, sqlalchemy_url,
};
pub use cluster::Setup;
pub use database::Database;
pub use kind::{Family, Kind};
pub use pgbouncer::PgBouncer;
pub use proxy::{Cut, Proxy, Traffic};
pub use python::{BINDING, Binding};
pub use report::Report;
pub use server::{Server, Servers, Unavailable};
pub use source::Source;
