//! A stand-in for file servers and model hubs: plain HTTP on loopback, one file at every path.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// The stand-in's answer to a request.
pub(crate) enum Serving {
    /// Sends the file, or the range that is asked for.
    Whole(Vec<u8>),
    /// Announces the file, sends half of it and hangs up.
    Half(Vec<u8>),
    /// Has no file.
    NotFound,
}

/// Serves until the test process ends.
pub(crate) struct StandIn {
    address: SocketAddr,
    paths: Arc<Mutex<Vec<String>>>,
}

impl StandIn {
    pub(crate) fn start(serving: Serving) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let paths = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&paths);
        thread::spawn(move || {
            for connection in listener.incoming() {
                // A client that hangs up early is its own affair.
                let _ = answer(connection.unwrap(), &serving, &seen);
            }
        });
        Self { address, paths }
    }

    pub(crate) fn address(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The paths of all requests so far.
    pub(crate) fn paths(&self) -> Vec<String> {
        self.paths.lock().unwrap().clone()
    }

    pub(crate) fn requests(&self) -> usize {
        self.paths().len()
    }
}

/// Answers one request and closes the connection.
fn answer(
    mut connection: TcpStream,
    serving: &Serving,
    seen: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(connection.try_clone()?).lines();
    let request = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    seen.lock().unwrap().push(request.split(' ').nth(1).unwrap_or_default().to_owned());
    let mut range = None;
    for line in lines {
        let line = line?.to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        range = line.strip_prefix("range: bytes=").and_then(parse_range).or(range);
    }
    let (bytes, sent) = match serving {
        Serving::NotFound => {
            return connection.write_all(
                b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            );
        }
        Serving::Whole(bytes) => (bytes, 1.0),
        Serving::Half(bytes) => (bytes, 0.5),
    };
    let whole = bytes.len();
    let (start, end) =
        range.map_or((0, whole), |(start, last)| (start, last.map_or(whole, |last| last + 1)));
    let part = &bytes[start..end];
    let status = if range.is_some() { "206 Partial Content" } else { "200 OK" };
    write!(
        connection,
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n",
        part.len()
    )?;
    // What a hub adds: the commit, the file's tag, the size.
    write!(connection, "X-Repo-Commit: 0123abcd\r\nETag: \"tag\"\r\n")?;
    write!(connection, "Content-Range: bytes {start}-{}/{whole}\r\n\r\n", end - 1)?;
    connection.write_all(&part[..(part.len() as f64 * sent) as usize])
}

fn parse_range(range: &str) -> Option<(usize, Option<usize>)> {
    let (start, last) = range.split_once('-')?;
    Some((start.parse().ok()?, last.parse().ok()))
}
