//! Which server to connect to, where a URL names several.

/// A server's place on the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Its name or its IP address, without brackets.
    pub host: String,
    /// Its TCP port.
    pub port: u16,
}

/// What a URL says.
#[derive(Debug, Clone)]
pub struct UrlOptions<O> {
    /// The driver's options, for the first address.
    pub options: O,
    /// The other addresses, in the order in which they are tried.
    pub others: Vec<Address>,
    /// Which of the servers is wanted.
    pub target: TargetServer,
}

impl<O> UrlOptions<O> {
    /// One server, whatever it is.
    pub fn single(options: O) -> Self {
        Self { options, others: Vec::new(), target: TargetServer::Any }
    }
}

/// Which server is wanted: the values of libpq's `target_session_attrs`. MySQL and MariaDB cannot tell a standby from a
/// read-only server: there `primary` means `read-write`, and `standby` means `read-only`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TargetServer {
    /// `any`: the first that answers. The default for one address.
    #[default]
    Any,
    /// `read-write`: one that accepts writes. The default for several addresses.
    ReadWrite,
    /// `read-only`: one that accepts no writes.
    ReadOnly,
    /// `primary`: one that is no standby.
    Primary,
    /// `standby`: one that is a standby.
    Standby,
    /// `prefer-standby`: a standby, or else any.
    PreferStandby,
}

impl TargetServer {
    /// The parameter of a URL.
    pub const PARAMETER: &'static str = "target_session_attrs";
    /// The values of the parameter.
    pub const VALUES: [(&'static str, Self); 6] = [
        ("any", Self::Any),
        ("read-write", Self::ReadWrite),
        ("read-only", Self::ReadOnly),
        ("primary", Self::Primary),
        ("standby", Self::Standby),
        ("prefer-standby", Self::PreferStandby),
    ];

    /// The value as the parameter spells it.
    pub fn name(self) -> &'static str {
        Self::VALUES.into_iter().find(|(_, value)| *value == self).map_or("", |(name, _)| name)
    }

    /// The targets to look for, one after the other.
    pub(crate) fn in_order(self) -> &'static [Self] {
        match self {
            Self::Any => &[Self::Any],
            Self::ReadWrite => &[Self::ReadWrite],
            Self::ReadOnly => &[Self::ReadOnly],
            Self::Primary => &[Self::Primary],
            Self::Standby => &[Self::Standby],
            Self::PreferStandby => &[Self::Standby, Self::Any],
        }
    }

    /// Whether a server is wanted whatever it is.
    pub(crate) fn is_any(self) -> bool {
        matches!(self, Self::Any | Self::PreferStandby)
    }

    /// Whether a server of `role` is wanted; see [`Dialect::ROLE_QUERY`](super::Dialect::ROLE_QUERY).
    pub(crate) fn accepts(self, role: &str) -> bool {
        match self {
            Self::Any | Self::PreferStandby => true,
            Self::ReadWrite => role == PRIMARY,
            Self::ReadOnly => role != PRIMARY,
            Self::Primary => role != STANDBY,
            Self::Standby => role == STANDBY,
        }
    }
}

/// The role of a server that accepts writes.
pub const PRIMARY: &str = "primary";
/// The role of a server that receives its data from another one, and accepts no writes.
pub const STANDBY: &str = "standby";
/// The role of a server that is no standby, and accepts no writes all the same.
pub const READ_ONLY: &str = "read-only";
