//! Whom to trust: the machine's certificate authorities, and those of a file beside them.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tokio_postgres_rustls::MakeRustlsConnect;

/// One implementation of the algorithms for the whole process.
pub fn install() -> Result<()> {
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("TLS was set up twice"))
}

/// The certificates of a PEM file, in DER.
pub fn authorities(file: Option<&Path>) -> Result<Vec<Vec<u8>>> {
    let Some(file) = file else {
        return Ok(Vec::new());
    };
    let place = || format!("--ca-file {}", file.display());
    let mut found = Vec::new();
    for certificate in CertificateDer::pem_file_iter(file).with_context(place)? {
        found.push(certificate.with_context(place)?.to_vec());
    }
    ensure!(!found.is_empty(), "{} holds no certificate", place());
    Ok(found)
}

/// For the database: certificates are always verified where TLS is used.
pub fn database(authorities: &[Vec<u8>]) -> Result<MakeRustlsConnect> {
    let mut roots = RootCertStore::empty();
    // A machine without authorities can still use a socket, or those of --ca-file.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    for der in authorities {
        roots
            .add(der.clone().into())
            .context("a certificate authority cannot be used")?;
    }
    let config =
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .context("TLS cannot be set up")?
            .with_root_certificates(roots)
            .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}
