//! Database URLs, read such that neither an error nor a trace of the driver's repeats a part of one: what looks like a
//! parameter may be a piece of a password with an unescaped `?`.

use std::str::FromStr;

use sea_orm::sqlx;
use seabed_core::{Error, Result};
use url::form_urlencoded;

/// Parameters that other programs know. Their names give nothing away.
const OF_OTHERS: [&str; 14] = [
    "channel_binding",
    "charset",
    "connect_timeout",
    "gssencmode",
    "keepalives",
    "load_balance_hosts",
    "passfile",
    "pool_size",
    "prepared_statement_cache_size",
    "service",
    "ssl",
    "sslcrl",
    "sslpassword",
    "target_session_attrs",
];

/// Reads a URL with the driver's own parser, after a check that all its parameters are among `known`.
///
/// # Errors
/// [`Error::Invalid`] that names at most a well-known parameter.
pub fn parse_url<O: FromStr<Err = sqlx::Error>>(url: &str, known: &[&str]) -> Result<O> {
    let (address, query) = url.split_once('?').unwrap_or((url, ""));
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let is_known = known.iter().any(|known| name == *known || name.starts_with(&format!("{known}[")));
        if !is_known && OF_OTHERS.contains(&&*name) {
            return Err(invalid(format!("the parameter {name} is not supported")));
        }
        if !is_known {
            return Err(invalid(format!("has an unknown parameter; known are {}", known.join(", "))));
        }
        if name == "statement-cache-capacity" && value == "0" {
            let advice = "of 0 makes the server's memory grow without end; PgBouncer 1.21 and later pools prepared \
                          statements (max_prepared_statements)";
            return Err(invalid(format!("{name} {advice}")));
        }
        let alone = form_urlencoded::Serializer::new(format!("{address}?")).append_pair(&name, &value).finish();
        if alone.parse::<O>().is_err() && address.parse::<O>().is_ok() {
            return Err(invalid(format!("the value of the parameter {name} is not one that it takes")));
        }
    }
    url.parse().map_err(|_| {
        invalid(
            "cannot be read: check its host and port, and write special characters of a password as %40 and the like",
        )
    })
}

/// Like [`parse_url`], for the URL of a server. A scheme like `postgresql+asyncpg`, as in Python, is read without the
/// name of Python's driver.
///
/// # Errors
/// Those of [`parse_url`]; also for a password with characters that end the host, because a part of it would be taken
/// for a host, and told.
pub fn parse_server_url<O: FromStr<Err = sqlx::Error>>(url: &str, known: &[&str]) -> Result<O> {
    let (scheme, rest) = url.split_once("://").ok_or_else(|| invalid("has no // behind its scheme"))?;
    let scheme = scheme.split_once('+').map_or(scheme, |(scheme, _)| scheme);
    let (before_query, _) = rest.split_once('?').unwrap_or((rest, ""));
    if before_query.find(['/', '#']).is_some_and(|end| before_query[end..].contains('@')) {
        return Err(invalid("has an @ behind its host: write the characters / ? # @ of a password as %2F %3F %23 %40"));
    }
    parse_url(&format!("{scheme}://{rest}"), known)
}

/// A host without the brackets that a URL puts around an IPv6 address.
pub fn bare_host(host: &str) -> Option<&str> {
    host.strip_prefix('[')?.strip_suffix(']')
}

fn invalid(reason: impl Into<String>) -> Error {
    Error::Invalid { field: "url", reason: reason.into() }
}
