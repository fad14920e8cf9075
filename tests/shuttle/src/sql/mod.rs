//! The modules of seabed-core that the write path names.

pub(crate) mod executor;
#[allow(dead_code, reason = "all of seabed-core writes; the scenarios use a part")]
pub(crate) mod write;
