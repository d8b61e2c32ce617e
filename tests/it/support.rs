//! Worlds in this process, and real servers on ports of their own.

use everworld::{PLUGINS, client::Client, clock, worlds};
use everworld_engine::{LiveWorld, Options, Parallel, Pool, WorldBuilder};
use serde_json::Value;
use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

pub const EVERWORLD: &str = env!("CARGO_BIN_EXE_everworld");

pub fn options(threads: usize) -> Options {
    let pool = Arc::new(Pool::start(threads, "test", |_| {}).unwrap());
    Options { pool, parallel: Parallel::Always, stopwatch: clock::stopwatch() }
}

pub fn town(sets: &[String]) -> WorldBuilder {
    worlds::load_scenario("town", PLUGINS, sets).unwrap().builder(PLUGINS).unwrap()
}

pub fn created(world: WorldBuilder, threads: usize) -> LiveWorld {
    let mut live = world.build(options(threads)).unwrap();
    live.create().unwrap();
    live
}

/// Runs the program to its end.
pub fn everworld(args: &[&str]) -> Output {
    Command::new(EVERWORLD).args(args).stdin(Stdio::null()).output().unwrap()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A server in a process of its own; killed when it goes out of scope.
pub struct Server {
    child: Child,
    pub address: SocketAddr,
    log: Option<JoinHandle<String>>,
}

impl Server {
    /// Starts one on a small town and waits until it is ready.
    pub fn start(data: &Path, more: &[&str]) -> Self {
        let server = Self::launch(data, more).unwrap_or_else(|log| panic!("the server did not start: {log}"));
        server.wait_ready();
        server
    }

    /// Starts one and waits until it listens; what it said when it ended instead.
    pub fn launch(data: &Path, more: &[&str]) -> Result<Self, String> {
        let mut command = Command::new(EVERWORLD);
        command
            .args(["serve", "--set", "http.bind=127.0.0.1:0", "--set", "logging.format=json"])
            .args(["--set", "world.population=300", "--set", "tick.rate_hz=100"])
            .args(["--set", "recovery.linger_secs=0", "--data"])
            .arg(data)
            .args(more);
        Self::spawn(command)
    }

    /// Starts that, and waits until it listens.
    #[expect(clippy::zombie_processes, reason = "Drop waits for it")]
    pub fn spawn(mut command: Command) -> Result<Self, String> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        loop {
            let start = said.len();
            if lines.read_line(&mut said).unwrap() == 0 {
                let _ = child.wait();
                return Err(said);
            }
            let entry: Value = serde_json::from_str(&said[start..]).unwrap_or(Value::Null);
            if entry["fields"]["message"] == "listening" {
                let address = entry["fields"]["address"].as_str().unwrap().parse().unwrap();
                // Read on, or the server blocks when the pipe is full.
                let log = std::thread::spawn(move || {
                    lines.read_to_string(&mut said).unwrap();
                    said
                });
                return Ok(Self { child, address, log: Some(log) });
            }
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn client(&self) -> Client {
        Client::connect(self.address).unwrap()
    }

    pub fn get(&self, path: &str) -> (u16, Value) {
        self.client().request("GET", path, "").unwrap()
    }

    /// An answer that is not JSON.
    pub fn text(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    pub fn post(&self, path: &str, body: &str) -> (u16, Value) {
        self.client().request("POST", path, body).unwrap()
    }

    /// Polls until `ready` says so, within a time that no healthy server needs.
    pub fn until<T>(&self, mut ready: impl FnMut(&Self) -> Option<T>) -> T {
        let end = Instant::now() + Duration::from_mins(1);
        loop {
            if let Some(value) = ready(self) {
                return value;
            }
            assert!(Instant::now() < end, "the server did not get there");
            std::thread::yield_now();
        }
    }

    /// The answer itself, also where that takes longer than a request waits.
    pub fn in_the_end(&self, (status, answer): (u16, Value)) -> (u16, Value) {
        if status != 202 {
            return (status, answer);
        }
        let location = answer["location"].as_str().unwrap();
        self.until(|server| {
            let (status, mut job) = server.get(location);
            (job["state"] != "running").then(|| (status, job["result"].take()))
        })
    }

    pub fn wait_ready(&self) {
        self.until(|server| (server.get("/readyz").0 == 200).then_some(()));
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM; how it ended and what it said.
    pub fn terminate(mut self) -> (ExitStatus, String) {
        let pid = self.child.id().to_string();
        Command::new("kill").args(["-TERM", &pid]).status().unwrap();
        let status = self.child.wait().unwrap();
        (status, self.log.take().unwrap().join().unwrap())
    }

    /// Waits for it to end by itself.
    pub fn ended(mut self) -> (ExitStatus, String) {
        let status = self.child.wait().unwrap();
        (status, self.log.take().unwrap().join().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lines of a body that comes in pieces, as they come.
pub struct Stream(BufReader<TcpStream>);

impl Stream {
    pub fn open(server: &Server, path: &str, accept: &str) -> Self {
        let mut stream = TcpStream::connect(server.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nhost: localhost\r\naccept: {accept}\r\nconnection: close\r\n\r\n"
        )
        .unwrap();
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        assert!(line.contains("200"), "{line}");
        while line != "\r\n" {
            line.clear();
            stream.read_line(&mut line).unwrap();
        }
        Self(stream)
    }

    /// The next line that is none of HTTP's chunks; none at the end.
    pub fn line(&mut self) -> Option<String> {
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            let line = line.trim_end();
            let is_chunk = !line.is_empty() && line.len() <= 6 && line.chars().all(|c| c.is_ascii_hexdigit());
            if !is_chunk && !line.is_empty() {
                return Some(line.to_owned());
            }
        }
    }

    pub fn json(&mut self) -> Option<Value> {
        self.line().map(|line| serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}")))
    }
}

/// A request with headers of its own: status, head in small letters, and the body, whole.
pub fn fetch(
    server: &Server,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> (u16, String, Vec<u8>) {
    let mut stream = TcpStream::connect(server.address).unwrap();
    let headers: Vec<String> = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let (headers, length) = (headers.concat(), body.len());
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}content-length: {length}\r\n\r\n"
    )
    .unwrap();
    stream.write_all(body).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let split = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
    let head = String::from_utf8_lossy(&answer[..split]).to_lowercase();
    let status = head.split_whitespace().nth(1).unwrap().parse().unwrap();
    let mut rest = &answer[split + 4..];
    if !head.contains("transfer-encoding: chunked") {
        return (status, head, rest.to_vec());
    }
    let mut whole = Vec::new();
    loop {
        let line = rest.windows(2).position(|bytes| bytes == b"\r\n").expect("a chunk");
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..line]).unwrap(), 16).unwrap();
        if size == 0 {
            return (status, head, whole);
        }
        whole.extend(&rest[line + 2..line + 2 + size]);
        rest = &rest[line + size + 4..];
    }
}
