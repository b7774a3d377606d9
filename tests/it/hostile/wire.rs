//! A client that says many things at once and reads what comes, until the gateway has had enough.

use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::support::{Answer, soon};

/// Sends these on one connection, one behind the other, and gives the answers that came: as many as there are requests, unless the gateway closed
/// the connection before.
pub async fn pipelined(address: SocketAddr, requests: &[Vec<u8>]) -> Vec<Answer> {
    let mut socket = soon("a connection", TcpStream::connect(address)).await.unwrap();
    let (read, mut write) = socket.split();
    let mut reader = BufReader::new(read);
    let sending = async {
        for request in requests {
            if write.write_all(request).await.is_err() {
                return;
            }
        }
    };
    let reading = async {
        let mut answers = Vec::new();
        while answers.len() < requests.len() {
            let Some(answer) = one(&mut reader).await else { break };
            answers.push(answer);
        }
        answers
    };
    soon("answers", async { tokio::join!(sending, reading) }).await.1
}

/// Says these bytes and gives what is answered until the gateway closes the connection.
pub async fn to_the_end(address: SocketAddr, bytes: Vec<u8>) -> Vec<Answer> {
    let mut socket = soon("a connection", TcpStream::connect(address)).await.unwrap();
    let (read, mut write) = socket.split();
    let mut reader = BufReader::new(read);
    let reading = async {
        let mut answers = Vec::new();
        while let Some(answer) = one(&mut reader).await {
            answers.push(answer);
        }
        answers
    };
    soon("the end", async { tokio::join!(write.write_all(&bytes), reading) }).await.1
}

/// The next answer; `None` at the end, or where what comes is none.
async fn one(reader: &mut (impl AsyncBufReadExt + Unpin)) -> Option<Answer> {
    let mut line = String::new();
    reader.read_line(&mut line).await.ok()?;
    let status = line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let mut headers = Vec::new();
    loop {
        line.clear();
        reader.read_line(&mut line).await.ok()?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut answer = Answer { status, headers, body: Vec::new() };
    let length = answer.header("content-length").map_or(0, |length| length.parse().unwrap());
    answer.body = vec![0; length];
    reader.read_exact(&mut answer.body).await.ok()?;
    Some(answer)
}
