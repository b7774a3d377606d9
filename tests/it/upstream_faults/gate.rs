//! A door in front of a server on TCP: while it is shut, connections to it are refused.

use std::net::SocketAddr;
use std::sync::Mutex;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// The door. Its address stays its own while it is shut.
pub struct Gate {
    address: SocketAddr,
    to: SocketAddr,
    held: Mutex<Option<TcpSocket>>,
    serving: Mutex<Option<JoinHandle<()>>>,
}

impl Gate {
    /// One in front of this address, open.
    pub async fn open_to(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gate = Self { address: listener.local_addr().unwrap(), to, held: Mutex::default(), serving: Mutex::default() };
        gate.serve(listener);
        gate
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends all connections, and refuses others.
    pub async fn shut(&self) {
        let serving = self.serving.lock().unwrap().take().unwrap();
        serving.abort();
        let _ = serving.await;
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(self.address).unwrap();
        *self.held.lock().unwrap() = Some(socket);
    }

    pub fn open(&self) {
        let socket = self.held.lock().unwrap().take().unwrap();
        self.serve(socket.listen(64).unwrap());
    }

    fn serve(&self, listener: TcpListener) {
        let to = self.to;
        let serving = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                connections.spawn(async move {
                    let Ok(mut far) = TcpStream::connect(to).await else { return };
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                });
            }
        });
        *self.serving.lock().unwrap() = Some(serving);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        if let Some(serving) = self.serving.lock().unwrap().take() {
            serving.abort();
        }
    }
}
