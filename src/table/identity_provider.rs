//! `loyalty.identity_provider`: outside identity providers.

use crate::error::Result;
use crate::pg::index_scan::{Index, IndexScan};
use crate::pg::snapshot::Snapshot;
use crate::pg::table::table;

table! {
    /// As sql/60_identity/provider.sql creates it.
    IdentityProvider = c"identity_provider", IDENTITY_PROVIDER {
        issuer: Text [not_null],
        audience: Text [not_null],
        program_id: Int4 [not_null],
        created_at: Timestamptz [not_null],
    }
}

/// Any row, by none of its keys.
static ALL: Index<IdentityProvider, 0> = Index::new(c"identity_provider_pkey", []);

/// Whether any outside identity provider is registered.
pub fn has_identity_provider() -> Result<bool> {
    let snapshot = Snapshot::Active.register();
    let mut scan = IndexScan::open(&ALL, &snapshot)?;
    Ok(scan.find([]).is_some())
}
