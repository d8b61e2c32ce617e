//! TLS for the HTTP interface, where the program is built with the feature `tls`.
//!
//! Certificate and key are read once, at the start: whoever renews them restarts the server. TLS 1.2 and 1.3 with the
//! suites that rustls holds safe; nothing of that can be configured. Deliberately absent: certificates of clients.

use crate::config::HttpConfig;
use std::{io, path::Path};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

/// A connection, whatever it is made of.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// The files of a configuration that wants TLS.
fn files(http: &HttpConfig) -> anyhow::Result<Option<(&Path, &Path)>> {
    match (&http.tls_certificate, &http.tls_key) {
        (Some(certificate), Some(key)) => Ok(Some((Path::new(certificate), Path::new(key)))),
        (None, None) => Ok(None),
        _ => anyhow::bail!("http.tls_certificate and http.tls_key belong together: one of them is not set"),
    }
}

#[cfg(feature = "tls")]
mod with {
    use super::{HttpConfig, Stream, TcpStream, files, io};
    use anyhow::Context as _;
    use std::sync::Arc;
    use tokio_rustls::{
        TlsAcceptor,
        rustls::{
            ServerConfig,
            pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
        },
    };

    /// How connections are encrypted.
    #[derive(Clone)]
    pub struct Tls(TlsAcceptor);

    impl Tls {
        /// As configured; none where it is not.
        ///
        /// # Errors
        /// When the files cannot be read, or do not fit each other.
        pub fn load(http: &HttpConfig) -> anyhow::Result<Option<Self>> {
            let Some((certificate, key)) = files(http)? else { return Ok(None) };
            let unreadable = |what: &str, path: &std::path::Path| {
                format!("could not read the {what} of http.tls_{what}, \"{}\"", path.display())
            };
            let chain = CertificateDer::pem_file_iter(certificate)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .with_context(|| unreadable("certificate", certificate))?;
            let secret = PrivateKeyDer::from_pem_file(key).with_context(|| unreadable("key", key))?;
            let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
            let config = ServerConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .context("no version of TLS")?
                .with_no_client_auth()
                .with_single_cert(chain, secret)
                .context("http.tls_certificate and http.tls_key do not fit")?;
            Ok(Some(Self(TlsAcceptor::from(Arc::new(config)))))
        }

        pub(crate) async fn accept(&self, stream: TcpStream) -> io::Result<Box<dyn Stream>> {
            let stream = self.0.accept(stream).await?;
            Ok(Box::new(stream))
        }
    }
}

#[cfg(not(feature = "tls"))]
mod without {
    use super::{HttpConfig, Stream, TcpStream, files, io};

    /// Never made by this build.
    #[derive(Clone)]
    pub enum Tls {}

    impl Tls {
        /// As configured; never with TLS.
        ///
        /// # Errors
        /// When it is configured.
        pub fn load(http: &HttpConfig) -> anyhow::Result<Option<Self>> {
            match files(http)? {
                None => Ok(None),
                Some(_) => anyhow::bail!(
                    "http.tls_certificate is set, but this build has no TLS: build with --features tls"
                ),
            }
        }

        #[expect(clippy::unused_async, reason = "as the other variant")]
        pub(crate) async fn accept(&self, _: TcpStream) -> io::Result<Box<dyn Stream>> {
            match *self {}
        }
    }
}

#[cfg(feature = "tls")]
pub use with::Tls;
#[cfg(not(feature = "tls"))]
pub use without::Tls;
