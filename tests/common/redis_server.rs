//! A Redis server of the test's own: Redis or Valkey, whichever is installed.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests may assert by panicking, as tests do"
)]

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use skipstone::adapt::store::{SharedStore, SharedStoreOptions};

/// A running server on a port of loopback. Dropping it kills it.
pub struct RedisServer {
    process: Child,
    port: u16,
}

// === impl RedisServer ===

impl RedisServer {
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// Starts one with further arguments.
    pub fn with(arguments: &[&str]) -> Self {
        // Free again at the end of this line; a server that finds it taken ends, and the test says
        // so.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Self::on(port, arguments)
    }

    fn on(port: u16, arguments: &[&str]) -> Self {
        let start = |program: &str| {
            Command::new(program)
                .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port"])
                .arg(port.to_string())
                .args(arguments)
                .stdout(Stdio::piped())
                .spawn()
        };
        let mut process = start("valkey-server").or_else(|_| start("redis-server")).unwrap_or_else(|error| {
            panic!("neither valkey-server nor redis-server can be started ({error}): apt-get install redis-server")
        });
        let mut lines =
            BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
        let is_ready = lines.any(|line| line.contains("Ready to accept connections"));
        assert!(is_ready, "the server ended at once: {:?}", process.wait());
        // What else it says has to go somewhere.
        std::thread::spawn(move || lines.for_each(drop));
        Self { process, port }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn options(&self) -> SharedStoreOptions {
        SharedStoreOptions { url: self.url(), password: None, retention: Duration::from_secs(3600) }
    }

    pub fn store(&self) -> SharedStore {
        SharedStore::new(&self.options()).unwrap()
    }

    pub fn connection(&self) -> redis::Connection {
        redis::Client::open(self.url()).unwrap().get_connection().unwrap()
    }

    /// Starts it again, empty, where it was.
    pub fn come_back(&mut self) {
        self.kill();
        *self = Self::on(self.port, &[]);
    }

    /// Ends it without a word, as a machine that loses power.
    pub fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}
