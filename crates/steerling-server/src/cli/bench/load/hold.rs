//! Clients that hold connections for as long as the server lets them.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures::future::try_join_all;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream, lookup_host};

use super::client::Outcome;
use super::workload::{Hold, Kind};

/// Longer than a server lets a client hold anything, unless it is told otherwise.
const PATIENCE: Duration = Duration::from_secs(100);
/// Connections of a flood.
const FLOOD: usize = 20;
/// Answers that are asked for and not read: more than kernels buffer.
const ANSWERS: usize = 64;
const PAUSE: Duration = Duration::from_millis(100);

/// Holds what it can, until the server ends it.
pub(super) async fn hold(url: &str, kind: &Kind, how: Hold) -> Outcome {
    let holding = async {
        let (address, host) = locate(url).await?;
        match how {
            Hold::Headers => headers(address, kind, &host).await,
            Hold::Body => body(address, kind, &host).await,
            Hold::Answers => answers(address, kind, &host).await,
        }
    };
    match tokio::time::timeout(PATIENCE, holding).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => Outcome::Unreachable,
        Err(_) => Outcome::Held,
    }
}

/// The address of a server, and what to call it.
async fn locate(url: &str) -> io::Result<(SocketAddr, String)> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
    let host = url.strip_prefix("http://").ok_or_else(invalid)?.to_owned();
    let address = lookup_host(&host).await?.next().ok_or_else(invalid)?;
    Ok((address, host))
}

async fn headers(address: SocketAddr, kind: &Kind, host: &str) -> io::Result<Outcome> {
    let begun = format!("POST {} HTTP/1.1\r\nhost: {host}\r\nx-begun: ", kind.path);
    let mut sockets = try_join_all((0..FLOOD).map(|_| TcpStream::connect(address))).await?;
    for socket in &mut sockets {
        socket.write_all(begun.as_bytes()).await?;
    }
    for mut socket in sockets {
        // Whichever way the server ends it.
        _ = socket.read_to_end(&mut Vec::new()).await;
    }
    Ok(Outcome::Ok)
}

async fn body(address: SocketAddr, kind: &Kind, host: &str) -> io::Result<Outcome> {
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: 100000\r\n\r\n",
        kind.path
    );
    let (reader, mut writer) = TcpStream::connect(address).await?.into_split();
    writer.write_all(head.as_bytes()).await?;
    let sending = async {
        while writer.write_all(b" ").await.is_ok() {
            tokio::time::sleep(PAUSE).await;
        }
        // The answer decides.
        std::future::pending().await
    };
    let mut line = String::new();
    let mut reader = BufReader::new(reader);
    let answered = tokio::select! {
        answered = reader.read_line(&mut line) => answered?,
        () = sending => 0,
    };
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok(match status {
        Some(status) if kind.expect.contains(&status) => Outcome::Ok,
        Some(status) => Outcome::Status(status),
        None if answered == 0 => Outcome::Unreachable,
        None => Outcome::Broken,
    })
}

async fn answers(address: SocketAddr, kind: &Kind, host: &str) -> io::Result<Outcome> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_recv_buffer_size(4 << 10)?;
    let mut socket = socket.connect(address).await?;
    let requests = format!("GET {} HTTP/1.1\r\nhost: {host}\r\n\r\n", kind.path).repeat(ANSWERS);
    socket.write_all(requests.as_bytes()).await?;
    // What is sent to a connection that has ended comes back as an error.
    while socket.write_all(b"\r\n").await.is_ok() {
        tokio::time::sleep(PAUSE).await;
    }
    Ok(Outcome::Ok)
}
