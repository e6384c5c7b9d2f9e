//! As much of HTTP/1.1 as the client speaks: requests with a length or in
//! chunks, kept-alive connections, replies with a length or until the end.

use std::io::{self, BufRead, Write};

/// One request. Header names are lower case.
#[derive(Debug)]
pub struct HttpRequest {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl HttpRequest {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// Reads the next request; none: the client hung up.
pub fn read_request(reader: &mut impl BufRead) -> io::Result<Option<HttpRequest>> {
    let first = read_line(reader)?;
    let mut words = first.split(' ');
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(None) };
    let mut headers = Vec::new();
    loop {
        let line = read_line(reader)?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut request = HttpRequest { method: method.to_owned(), path: path.to_owned(), headers, body: Vec::new() };
    request.body = if request.header("transfer-encoding").is_some_and(|encoding| encoding.contains("chunked")) {
        read_chunks(reader)?
    } else {
        let length = request.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        read_bytes(reader, length)?
    };
    Ok(Some(request))
}

fn read_line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

fn read_bytes(reader: &mut impl BufRead, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    reader.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn read_chunks(reader: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = read_line(reader)?;
        let size = line.split(';').next().unwrap_or_default().trim();
        let size =
            usize::from_str_radix(size, 16).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        body.extend(read_bytes(reader, size)?);
        read_line(reader)?;
        if size == 0 {
            return Ok(body);
        }
    }
}

/// A whole reply with a length; the connection stays open. `has_body`: false for `HEAD`.
pub fn write_reply(
    writer: &mut impl Write,
    status: u16,
    headers: &[(String, String)],
    body: &[u8],
    has_body: bool,
) -> io::Result<()> {
    write!(writer, "HTTP/1.1 {status} Scripted\r\ncontent-length: {}\r\n", body.len())?;
    write_headers(writer, headers)?;
    if has_body {
        writer.write_all(body)?;
    }
    writer.flush()
}

/// The head of a reply that ends with the connection.
pub fn write_stream_head(writer: &mut impl Write, headers: &[(String, String)]) -> io::Result<()> {
    write!(writer, "HTTP/1.1 200 Scripted\r\ncontent-type: text/event-stream\r\nconnection: close\r\n")?;
    write_headers(writer, headers)
}

fn write_headers(writer: &mut impl Write, headers: &[(String, String)]) -> io::Result<()> {
    for (name, value) in headers {
        write!(writer, "{name}: {value}\r\n")?;
    }
    writer.write_all(b"\r\n")
}
