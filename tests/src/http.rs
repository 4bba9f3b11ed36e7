//! HTTP to PostgREST and to the relay.

use reqwest::ClientBuilder;

/// A client yet to be built.
pub fn client() -> ClientBuilder {
    // the relay's reqwest has TLS, and wants this and authorities also where nothing is encrypted
    let _installed_before = rustls::crypto::ring::default_provider().install_default();
    ClientBuilder::new().tls_certs_only([])
}
