//! A client of HTTP/2 that also sends what none would.

use bytes::Bytes;
use h2::SendStream;
use h2::client::{ResponseFuture, SendRequest};
use http::Request;
use tokio::net::TcpStream;

use super::client::Socket;
use super::{Answer, Ask, Client, soon};

/// A connection.
pub struct Http2(SendRequest<Bytes>);

impl Http2 {
    /// Begins one in plaintext, with knowledge that it is spoken there.
    pub async fn begin(client: &Client) -> Self {
        Self::begin_on(soon("a connection", TcpStream::connect(client.address())).await.unwrap()).await
    }

    /// Begins one on a connection that is there.
    pub async fn begin_on(socket: impl Socket + Unpin + 'static) -> Self {
        let (send, connection) = soon("the preface", h2::client::handshake(socket)).await.unwrap();
        tokio::spawn(connection);
        Self(send)
    }

    /// Sends the head, and leaves the body to who asks.
    ///
    /// # Errors
    /// What the connection says.
    pub async fn begin_ask(&mut self, ask: &Ask) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        let mut ready = soon("room for a request", self.0.clone().ready()).await?;
        let mut request = Request::builder().method(ask.verb.as_str()).uri(format!("http://localhost{}", ask.path));
        for (name, value) in &ask.headers {
            request = request.header(name.to_ascii_lowercase(), value);
        }
        ready.send_request(request.body(()).unwrap(), false)
    }

    /// Sends, and does not wait.
    ///
    /// # Errors
    /// What the connection says.
    pub async fn open(&mut self, ask: &Ask) -> Result<ResponseFuture, h2::Error> {
        let (answer, mut body) = self.begin_ask(ask).await?;
        body.send_data(ask.body.clone().into(), true)?;
        Ok(answer)
    }

    /// Sends, and waits for the whole answer.
    ///
    /// # Errors
    /// What the connection says.
    pub async fn send(&mut self, ask: &Ask) -> Result<Answer, h2::Error> {
        whole(self.open(ask).await?).await
    }
}

/// The whole answer of a request that was sent.
///
/// # Errors
/// What the connection says.
pub async fn whole(answer: ResponseFuture) -> Result<Answer, h2::Error> {
    let (head, mut body) = soon("an answer", answer).await?.into_parts();
    let mut whole = Vec::new();
    while let Some(data) = soon("more of the answer", body.data()).await {
        let data = data?;
        whole.extend_from_slice(&data);
        let _ = body.flow_control().release_capacity(data.len());
    }
    let text = |value: &http::HeaderValue| value.to_str().unwrap().to_owned();
    let headers = head.headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect();
    Ok(Answer { status: head.status.as_u16(), headers, body: whole })
}

/// A frame: its type, flags and stream, and what is in it (RFC 9113, 4.1).
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// How a connection begins: the preface, and settings without any.
pub fn preface() -> Vec<u8> {
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &frame(4, 0, 0, &[])].concat()
}
