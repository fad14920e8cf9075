//! The schema: how a database describes and spells it, and whether it can keep the guarantees.

pub(super) mod check;
pub(super) mod columns;
pub(super) mod dialect;
pub(super) mod layout;
pub(super) mod risks;
