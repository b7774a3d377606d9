//! Where agents connect: the socket and its TLS, as the configuration names them.

use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::cli::Failure;
use crate::config::{Config, Fault, Listen};
use crate::listen::ALPN_HTTP2;

/// The listener of the configured address.
pub(super) async fn bind(config: &Config) -> Result<TcpListener, Failure> {
    let address = config.listen.http;
    TcpListener::bind(address).await.map_err(|error| {
        let help = match error.kind() {
            std::io::ErrorKind::AddrInUse => "; another gateway may run already, or take a free port with `listen: { http: 127.0.0.1:0 }`",
            _ => "",
        };
        Failure::Other(format!("listen.http {address}: {error}{help}"))
    })
}

/// The listener's TLS, from the files that the configuration names.
pub(in crate::cli) fn tls(listen: &Listen) -> Result<Option<TlsAcceptor>, Failure> {
    use rustls_pki_types::pem::PemObject;
    use rustls_pki_types::{CertificateDer, PrivateKeyDer};
    let Some(files) = &listen.tls else { return Ok(None) };
    let fault = |file: &std::path::Path, error: &dyn std::fmt::Display| Fault::file(file, format!("cannot be used for TLS: {error}"));
    let chain = CertificateDer::pem_file_iter(&files.certificate).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.map_err(|error| fault(&files.certificate, &error))?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| fault(&files.key, &error))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = versions.and_then(|config| config.with_no_client_auth().with_single_cert(chain, key));
    let mut config = config.map_err(|error| fault(&files.certificate, &error))?;
    config.alpn_protocols = listen.http2.serve.then(|| ALPN_HTTP2.to_vec()).into_iter().chain([b"http/1.1".to_vec()]).collect();
    Ok(Some(TlsAcceptor::from(Arc::new(config))))
}
