//! Ids: exact bytes, validated once, when they are constructed.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The width of google-adk's key columns, in characters.
const MAX_ID_CHARS: usize = 128;

/// Checks an id against the key columns of google-adk's schema: `VARCHAR(128)`, and no NUL, which PostgreSQL rejects.
pub(crate) fn check_id(field: &'static str, id: &str) -> Result<()> {
    if id.is_empty() {
        return Err(Error::invalid(field, "empty"));
    }
    check_text(field, id, MAX_ID_CHARS)
}

/// Checks a text that may be empty.
pub(crate) fn check_text(field: &'static str, text: &str, max_chars: usize) -> Result<()> {
    let chars = text.chars().count();
    if chars > max_chars {
        return Err(Error::invalid(field, format!("{chars} characters long; at most {max_chars} fit")));
    }
    if text.contains('\0') {
        return Err(Error::invalid(field, "contains a NUL character"));
    }
    Ok(())
}

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident, $field:literal) => {
        $(#[$doc])*
        ///
        /// 1 to 128 characters without NUL, compared byte for byte: `Alice` is not `alice`, and `bob` is not `bob␠`.
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Validates `id`.
            ///
            /// # Errors
            #[doc = concat!("[`Error::Invalid`] naming `", $field, "` when empty, longer than 128 characters, or with a NUL.")]
            pub fn try_new(id: impl Into<String>) -> Result<Self> {
                let id = id.into();
                check_id($field, &id)?;
                Ok(Self(id))
            }

            /// Returns the id as a string slice.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Creates an id from a stored row without validating it: whoever wrote the row has validated it, or
            /// accepts it as it is.
            #[allow(dead_code, reason = "not every kind of id is read back from rows")]
            pub(crate) fn from_row(id: String) -> Self {
                Self(id)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(id: &str) -> Result<Self> {
                Self::try_new(id)
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;

            fn try_from(id: String) -> Result<Self> {
                Self::try_new(id)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

id_type!(
    /// The name of an agent application: the widest scope of state.
    AppName,
    "app_name"
);
id_type!(
    /// A user of one application.
    UserId,
    "user_id"
);
id_type!(
    /// One conversation of one user with one application.
    SessionId,
    "session_id"
);

/// A user of an application: the owner of user state.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct UserKey {
    /// The application.
    pub app_name: AppName,
    /// The user.
    pub user_id: UserId,
}

impl UserKey {
    /// Combines two validated parts.
    pub fn new(app_name: AppName, user_id: UserId) -> Self {
        Self { app_name, user_id }
    }

    /// Validates both parts.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the invalid part.
    pub fn try_new(app_name: impl Into<String>, user_id: impl Into<String>) -> Result<Self> {
        Ok(Self::new(AppName::try_new(app_name)?, UserId::try_new(user_id)?))
    }

    /// Returns the key of this user's session `session_id`.
    pub fn session(&self, session_id: SessionId) -> SessionKey {
        SessionKey { app_name: self.app_name.clone(), user_id: self.user_id.clone(), session_id }
    }
}

impl fmt::Display for UserKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "user {:?} of app {:?}", self.user_id.as_str(), self.app_name.as_str())
    }
}

/// The full key of a session: application, user and session id, all compared byte for byte.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionKey {
    /// The application.
    pub app_name: AppName,
    /// The user.
    pub user_id: UserId,
    /// The session.
    pub session_id: SessionId,
}

impl SessionKey {
    /// Combines three validated parts.
    pub fn new(app_name: AppName, user_id: UserId, session_id: SessionId) -> Self {
        Self { app_name, user_id, session_id }
    }

    /// Validates all three parts.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the invalid part.
    pub fn try_new(
        app_name: impl Into<String>,
        user_id: impl Into<String>,
        session_id: impl Into<String>,
    ) -> Result<Self> {
        Ok(UserKey::try_new(app_name, user_id)?.session(SessionId::try_new(session_id)?))
    }

    /// Returns the user that the session belongs to.
    pub fn user(&self) -> UserKey {
        UserKey::new(self.app_name.clone(), self.user_id.clone())
    }
}

impl fmt::Display for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "session {:?} of user {:?} of app {:?}",
            self.session_id.as_str(),
            self.user_id.as_str(),
            self.app_name.as_str()
        )
    }
}
