//! A plain blocking HTTP/1.1 client on one kept connection, for tools and tests: little between clock and wire.
//!
//! Speaks what our server speaks: JSON bodies with a content length. No TLS, no redirects, no chunks.

use anyhow::{Context as _, bail};
use serde_json::Value;
use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// A connection to a server.
pub struct Client {
    stream: BufReader<TcpStream>,
    address: SocketAddr,
    /// The line that says who we are.
    authorization: String,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream), address, authorization: String::new() })
    }

    /// Shows that token with each request.
    pub fn authorize(&mut self, token: &str) {
        self.authorization = format!("authorization: Bearer {}\r\n", token.trim());
    }

    /// Sends a request; the status and the JSON of the response (`null` when it is none).
    ///
    /// # Errors
    /// When the connection fails; it is of no more use then.
    pub fn request(&mut self, method: &str, path: &str, body: &str) -> anyhow::Result<(u16, Value)> {
        self.request_with(method, path, "", body)
    }

    /// As [`Client::request`], with more headers, each ended by a line break.
    ///
    /// # Errors
    /// When the connection fails.
    pub fn request_with(
        &mut self,
        method: &str,
        path: &str,
        headers: &str,
        body: &str,
    ) -> anyhow::Result<(u16, Value)> {
        // Who says what it is himself is not contradicted.
        let kind = if headers.contains("content-type:") { "" } else { "content-type: application/json\r\n" };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\n{kind}{}{headers}content-length: {}\r\n\r\n{body}",
            self.address,
            self.authorization,
            body.len()
        );
        self.stream.get_mut().write_all(request.as_bytes())?;
        let (status, length) = self.head()?;
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok((status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
    }

    /// Writes the body of a response to wherever it belongs; the status and its length.
    ///
    /// # Errors
    /// When the connection fails, or the target does.
    pub fn download(&mut self, path: &str, target: &mut impl std::io::Write) -> anyhow::Result<(u16, u64)> {
        let request = format!("GET {path} HTTP/1.1\r\nhost: {}\r\n{}\r\n", self.address, self.authorization);
        self.stream.get_mut().write_all(request.as_bytes())?;
        self.stream.get_ref().set_read_timeout(Some(Duration::from_mins(10)))?;
        let (status, length) = self.head()?;
        let copied = std::io::copy(&mut (&mut self.stream).take(length as u64), target)?;
        if copied < length as u64 {
            bail!("the connection ended within a response");
        }
        Ok((status, copied))
    }

    /// The status and the length of the body that follows.
    fn head(&mut self) -> anyhow::Result<(u16, usize)> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let status = line.split_whitespace().nth(1).context("no status line")?.parse()?;
        let mut length = 0;
        loop {
            line.clear();
            if self.stream.read_line(&mut line)? == 0 {
                bail!("the connection ended within a response");
            }
            let header = line.trim_end().to_ascii_lowercase();
            if header.is_empty() {
                break;
            }
            if let Some(value) = header.strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
        }
        Ok((status, length))
    }
}
