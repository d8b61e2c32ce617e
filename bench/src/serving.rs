//! A real server for benchmarks: started, waited for, killed.

use anyhow::{Context as _, bail, ensure};
use everworld::client::Client;
use serde_json::Value;
use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, channel},
    },
    thread,
    time::{Duration, Instant},
};

/// A server in a process of its own. Killed when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
    lines: Receiver<Value>,
}

impl Server {
    /// Starts it in that directory; it listens when this returns.
    pub(crate) fn start(data: &Path, rate: f64, npcs: u64) -> anyhow::Result<Self> {
        Self::start_with(data, rate, npcs, &[])
    }

    /// The same with more settings.
    pub(crate) fn start_with(data: &Path, rate: f64, npcs: u64, sets: &[&str]) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("server")
            .args(["serve", "--data"])
            .arg(data)
            .args(["--set", "http.bind=127.0.0.1:0", "--set", "logging.format=json"])
            .args(["--set", &format!("tick.rate_hz={rate}"), "--set", "logging.summary_ticks=0"])
            .args(["--set", &format!("world.population={npcs}")])
            .args(sets.iter().flat_map(|set| ["--set", *set]))
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()?;
        let stderr = BufReader::new(child.stderr.take().context("stderr is piped")?);
        let (sender, lines) = channel();
        // Ends with the server.
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if sender.send(serde_json::from_str(&line).unwrap_or(Value::String(line))).is_err() {
                    return;
                }
            }
        });
        let mut server = Self { child, address: ([127, 0, 0, 1], 0).into(), lines };
        let listening = server.said("listening", Duration::from_mins(1))?;
        server.address = listening["fields"]["address"].as_str().context("an address")?.parse()?;
        Ok(server)
    }

    /// Waits for a line of the server's log.
    fn said(&mut self, message: &str, patience: Duration) -> anyhow::Result<Value> {
        let end = Instant::now() + patience;
        while let Ok(line) = self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            if line["fields"]["message"] == message {
                return Ok(line);
            }
            ensure!(line["level"] != "ERROR", "the server said: {line}");
        }
        bail!("the server did not say \"{message}\"")
    }

    /// Waits until /readyz says yes; returns what the log says of the recovery.
    pub(crate) fn ready(&mut self) -> anyhow::Result<Value> {
        let patience = Duration::from_mins(5);
        let said = self.said("world is ready", patience)?;
        let mut client = Client::connect(self.address)?;
        let end = Instant::now() + patience;
        while !matches!(client.request("GET", "/readyz", ""), Ok((200, _))) {
            ensure!(Instant::now() < end, "the server does not become ready");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(said)
    }

    /// The sum of the samples whose line in /metrics begins so.
    pub(crate) fn metric(&self, begins: &str) -> anyhow::Result<f64> {
        // A silent connection is closed before it is needed again.
        let mut client = Client::connect(self.address)?;
        let mut text = Vec::new();
        client.download("/metrics", &mut text)?;
        let text = String::from_utf8(text)?;
        let samples = text.lines().filter(|line| line.starts_with(begins));
        let values: Vec<f64> = samples.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
        ensure!(!values.is_empty(), "no metric begins with {begins}");
        Ok(values.iter().sum())
    }

    /// A line of /proc/PID/status, in bytes.
    pub(crate) fn memory(&self, name: &str) -> anyhow::Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find(|line| line.starts_with(name)).context("a line of status")?;
        let kib: f64 = line.split_whitespace().nth(1).context("a number")?.parse()?;
        Ok(kib * 1024.0)
    }

    /// Notes the most memory that the server has, until it ends.
    pub(crate) fn watch_memory(&self, peak: Arc<AtomicU64>) -> thread::JoinHandle<()> {
        let path = format!("/proc/{}/status", self.child.id());
        thread::spawn(move || {
            while let Some(kib) = fs::read_to_string(&path).ok().and_then(|status| {
                let line = status.lines().find(|line| line.starts_with("VmRSS"))?;
                line.split_whitespace().nth(1)?.parse::<u64>().ok()
            }) {
                peak.fetch_max(kib * 1_024, Relaxed);
                thread::sleep(Duration::from_millis(100));
            }
        })
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("the server had ended by itself: {status}");
        }
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Gone already after a kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
