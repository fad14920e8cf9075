//! Database URLs, read such that neither an error nor a trace of the driver's repeats a part of one: what looks like a
//! parameter may be a piece of a password with an unescaped `?`.

use std::str::FromStr;

use sea_orm::sqlx;
use seabed_core::sql::{Address, TargetServer, UrlOptions};
use seabed_core::{Error, Result};
use url::form_urlencoded;

use super::{ConnectOptionsOf, SqlxBackend};

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

/// Reads the URL of one or several servers.
pub(crate) fn server_options<B: SqlxBackend>(url: &str) -> Result<UrlOptions<ConnectOptionsOf<B::Database>>> {
    let (urls, target) = one_by_one(url)?;
    let mut options = urls.iter().map(|url| B::options(url)).collect::<Result<Vec<_>>>()?;
    let others = options.drain(1..).map(|options| B::place(&options)).collect::<Option<Vec<Address>>>();
    let first = options.pop().ok_or_else(|| invalid("has no host"))?;
    match others {
        Some(others) if others.is_empty() || B::place(&first).is_some() => {
            Ok(UrlOptions { options: first, others, target })
        }
        _ => Err(invalid("a socket is not one of several addresses")),
    }
}

/// A URL for each server of a URL, and which of the servers is wanted. As for libpq, hosts and ports are lists with
/// commas, before the path or in the query; a list of one counts for all servers.
fn one_by_one(url: &str) -> Result<(Vec<String>, TargetServer)> {
    let (before_query, query) = url.split_once('?').map_or((url, None), |(before, query)| (before, Some(query)));
    let (scheme, rest) = before_query.find("://").map_or((before_query, ""), |end| before_query.split_at(end + 3));
    let (authority, path) = rest.split_at(rest.find(['/', '#']).unwrap_or(rest.len()));
    let (account, hosts) = authority.split_at(authority.rfind('@').map_or(0, |at| at + 1));
    let mut target = None;
    // The name and the values of a list; another parameter as it is.
    let mut parameters: Vec<(&str, Vec<String>)> = Vec::new();
    for parameter in query.into_iter().flat_map(|query| query.split('&')) {
        let pair = form_urlencoded::parse(parameter.as_bytes()).next();
        match pair.as_ref().map_or(("", ""), |(name, value)| (&**name, &**value)) {
            (TargetServer::PARAMETER, value) => target = Some(parse_target(value)?),
            (name @ ("host" | "hostaddr" | "port"), value) if value.contains(',') => {
                let name = ["host", "hostaddr", "port"].into_iter().find(|known| *known == name).unwrap_or_default();
                parameters.push((name, value.split(',').map(str::to_owned).collect()));
            }
            _ => parameters.push((parameter, Vec::new())),
        }
    }
    let hosts: Vec<&str> = hosts.split(',').collect();
    let lengths = || parameters.iter().map(|(_, values)| values.len().max(1)).chain([hosts.len()]);
    let servers = lengths().max().unwrap_or(1);
    let is_empty = parameters.iter().any(|(_, values)| values.iter().any(String::is_empty));
    if servers > 1 && (is_empty || hosts.len() > 1 && hosts.contains(&"")) {
        return Err(invalid("has an empty host or port in a list"));
    }
    if lengths().any(|length| length != 1 && length != servers) {
        return Err(invalid("has lists of hosts and ports that are not equally long"));
    }
    let of_server = |number: usize| {
        let host = hosts.get(number).or(hosts.first()).copied().unwrap_or_default();
        let parameters = parameters.iter().map(|(name, values)| match values.get(number) {
            Some(value) => form_urlencoded::Serializer::new(String::new()).append_pair(name, value).finish(),
            None => (*name).to_owned(),
        });
        let query = parameters.collect::<Vec<_>>().join("&");
        let query = if query.is_empty() { query } else { format!("?{query}") };
        format!("{scheme}{account}{host}{path}{query}")
    };
    let default = if servers > 1 { TargetServer::ReadWrite } else { TargetServer::Any };
    Ok(((0..servers).map(of_server).collect(), target.unwrap_or(default)))
}

fn parse_target(value: &str) -> Result<TargetServer> {
    TargetServer::VALUES.into_iter().find(|(name, _)| *name == value).map(|(_, target)| target).ok_or_else(|| {
        let names = TargetServer::VALUES.map(|(name, _)| name).join(", ");
        invalid(format!("{} is none of {names}", TargetServer::PARAMETER))
    })
}

/// A host without the brackets that a URL puts around an IPv6 address.
pub fn bare_host(host: &str) -> Option<&str> {
    host.strip_prefix('[')?.strip_suffix(']')
}

fn invalid(reason: impl Into<String>) -> Error {
    Error::Invalid { field: "url", reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use seabed_core::sql::TargetServer;

    use super::one_by_one;

    fn read(url: &str) -> Option<(Vec<String>, TargetServer)> {
        one_by_one(url).ok()
    }

    #[test]
    fn a_url_of_several_servers_is_one_of_each() {
        for (url, servers) in [
            ("postgres://u:p,w@a:1,b:2/d?sslmode=require", ["postgres://u:p,w@a:1/d", "postgres://u:p,w@b:2/d"]),
            ("postgres://u@[::1],[::2]:2/d?sslmode=require", ["postgres://u@[::1]/d", "postgres://u@[::2]:2/d"]),
            ("mysql://a,b?sslmode=require", ["mysql://a", "mysql://b"]),
        ] {
            let expected = servers.map(|server| format!("{server}?sslmode=require")).to_vec();
            assert_eq!(read(url), Some((expected, TargetServer::ReadWrite)), "{url}");
        }
        let lists = read("postgres://u@/d?host=a,b&port=1%2C2&target_session_attrs=any");
        let expected = ["postgres://u@/d?host=a&port=1", "postgres://u@/d?host=b&port=2"].map(str::to_owned).to_vec();
        assert_eq!(lists, Some((expected, TargetServer::Any)));
        let one_port = read("postgres:///d?host=a,b&port=1");
        let expected = ["postgres:///d?host=a&port=1", "postgres:///d?host=b&port=1"].map(str::to_owned).to_vec();
        assert_eq!(one_port, Some((expected, TargetServer::ReadWrite)));
    }

    #[test]
    fn a_url_of_one_server_stays_as_it_is() {
        for url in ["postgres://u:p@h:1/d?a=b&c=%2C", "mysql://h", "postgres:u", "postgres://u:1,2@h/d#e", ""] {
            assert_eq!(read(url), Some((vec![url.to_owned()], TargetServer::Any)), "{url}");
        }
        let primary = Some((vec!["postgres://h/d?a=b".to_owned()], TargetServer::Primary));
        assert_eq!(read("postgres://h/d?target_session_attrs=primary&a=b"), primary);
    }

    #[test]
    fn lists_that_do_not_fit_are_refused() {
        for url in [
            "postgres://a,b,c/d?port=1,2",
            "postgres://a,/d",
            "postgres://u@/d?host=a,b,",
            "postgres://h/d?target_session_attrs=master",
            "postgres://h/d?target_session_attrs=",
        ] {
            assert_eq!(read(url), None, "{url}");
        }
    }
}
