//! Checkpoints as lines of the system's log, or of another machine's.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use tokio::net::{UdpSocket, UnixDatagram};

/// Sends one line: to a socket of this machine in the form that local loggers read, to an address as RFC 5424 over UDP (RFC 5426).
///
/// # Errors
/// The socket's. That a datagram to another machine was lost cannot be seen.
pub(super) async fn send(to: &str, line: &str) -> io::Result<()> {
    if to.starts_with('/') {
        let socket = UnixDatagram::unbound()?;
        let text = format!("<{PRIORITY}>doorward[{}]: {line}", std::process::id());
        return socket.send_to(text.as_bytes(), Path::new(to)).await.and_then(|sent| whole(sent, text.len()));
    }
    let address: SocketAddr = tokio::net::lookup_host(to).await?.next().ok_or_else(|| io::Error::other("the name has no address"))?;
    let unspecified: SocketAddr = if address.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(unspecified).await?;
    let text = format!("<{PRIORITY}>1 - - doorward {} checkpoint - {line}", std::process::id());
    socket.send_to(text.as_bytes(), address).await.and_then(|sent| whole(sent, text.len()))
}

fn whole(sent: usize, of: usize) -> io::Result<()> {
    if sent == of { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Facility 13, log audit; severity 5, notice (RFC 5424, 6.2.1).
const PRIORITY: u8 = 13 * 8 + 5;
