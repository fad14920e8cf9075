//! Database URLs as google-adk takes them.

use std::borrow::Cow;

/// The prefix of schemes that google-adk's service registry does not already know.
const REGISTERED: &str = "seabed+";

/// Converts a URL of SQLAlchemy's to one of Seabed's with the same meaning.
pub(crate) fn to_seabed_url(url: &str) -> Cow<'_, str> {
    let url = url.trim();
    let url = url.strip_prefix(REGISTERED).unwrap_or(url);
    // Without the name of a driver, Seabed reads `sqlite:///agents.db` as an absolute path.
    if let Some(path) = url.strip_prefix("sqlite://") {
        return Cow::Owned(format!("sqlite+aiosqlite://{path}"));
    }
    match url.split_once('?') {
        // asyncpg has libpq's modes under a name of its own.
        Some((address, query)) if address.starts_with("postgres") => {
            let parameter = |parameter: &str| match parameter.strip_prefix("ssl=") {
                Some(mode) => format!("sslmode={mode}"),
                None => parameter.to_owned(),
            };
            let query: Vec<String> = query.split('&').map(parameter).collect();
            Cow::Owned(format!("{address}?{}", query.join("&")))
        }
        _ => Cow::Borrowed(url),
    }
}
