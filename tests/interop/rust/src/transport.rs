//! TCP, with TLS or without.

use std::net::Ipv6Addr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::Failure;

/// What all libraries get. TLS holds back what TCP does not take at once until somebody flushes, which fastwebsockets'
/// collector of fragments has no call for: whoever reads flushes first.
pub struct Stream(Box<dyn Duplex>);

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Where a client connects to.
pub struct Target {
    pub url: hyper::Uri,
    /// Sizes of messages up to this.
    pub most: usize,
    tls: Option<TlsConnector>,
}

impl Target {
    pub fn parse(url: &str, options: &[&str]) -> Result<Self, Failure> {
        let mut target = Target { url: url.parse()?, most: usize::MAX, tls: None };
        for pair in options.chunks(2) {
            match pair {
                ["ca", file] => {
                    let mut roots = RootCertStore::empty();
                    for certificate in CertificateDer::pem_file_iter(file)? {
                        roots.add(certificate?)?;
                    }
                    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
                    target.tls = Some(Arc::new(config).into());
                }
                ["most", bytes] => target.most = bytes.parse()?,
                _ => return Err(format!("{pair:?}: expected ca FILE or most BYTES").into()),
            }
        }
        Ok(target)
    }

    pub async fn open(&self) -> Result<Stream, Failure> {
        let host = self.url.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let secure = self.url.scheme_str() == Some("wss");
        let port = self.url.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let tcp = TcpStream::connect((host.as_str(), port)).await?;
        tcp.set_nodelay(true)?;
        let Some(tls) = self.tls.as_ref().filter(|_| secure) else { return Ok(Stream(Box::new(tcp))) };
        Ok(Stream(Box::new(tls.connect(ServerName::try_from(host)?, tcp).await?)))
    }
}

/// Listens on every address, of both families; with a certificate and its key it is TLS.
pub async fn listen(port: u16, files: &[&str]) -> Result<(TcpListener, Option<TlsAcceptor>), Failure> {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await?;
    let ["files", certificate, key] = files else { return Ok((listener, None)) };
    let chain: Vec<_> = CertificateDer::pem_file_iter(certificate)?.collect::<Result<_, _>>()?;
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(key)?)?;
    Ok((listener, Some(Arc::new(config).into())))
}

/// The server's end of a connection that came.
pub async fn secure(tcp: TcpStream, tls: Option<TlsAcceptor>) -> Result<Stream, Failure> {
    tcp.set_nodelay(true)?;
    match tls {
        Some(tls) => Ok(Stream(Box::new(tls.accept(tcp).await?))),
        None => Ok(Stream(Box::new(tcp))),
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if let Poll::Ready(Err(error)) = Pin::new(&mut self.0).poll_flush(cx) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
