//! HTTP to PostgREST and to the relay.

use reqwest::ClientBuilder;

/// A client yet to be built.
pub fn client() -> ClientBuilder {
    // the relay's reqwest has TLS, and wants this and authorities also where nothing is encrypted
    let _installed_before = rustls::crypto::ring::default_provider().install_default();
    ClientBuilder::new().tls_certs_only([])
}

/// As a part of a URL.
pub fn percent(text: &str) -> String {
    text.bytes()
        .map(
            |byte| match byte.is_ascii_alphanumeric() || b"-_.~*".contains(&byte) {
                true => char::from(byte).to_string(),
                false => format!("%{byte:02X}"),
            },
        )
        .collect()
}
