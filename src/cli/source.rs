//! Where a command's answer comes from: the data directory of a stopped server, or a running server by its URL.

use super::{Failed, exit, past::Past};
use crate::{
    client::Client,
    questions::{AskError, Questions},
};
use anyhow::{Context as _, anyhow};
use clap::Args;
use everworld_systems::Plugin;
use serde_json::Value;
use std::{
    fmt::Write as _,
    net::{SocketAddr, ToSocketAddrs as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// Which world, and how to answer.
#[derive(Args, Debug, Clone)]
pub struct SourceArgs {
    /// The data directory of a stopped server
    #[arg(long, value_name = "DIR", conflicts_with = "url")]
    pub data: Option<PathBuf>,
    /// A running server, for instance http://127.0.0.1:7170
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// The world, where there are several
    #[arg(long, value_name = "W")]
    pub world: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// A world that can be asked.
pub(super) enum Source {
    /// Read from its files.
    Stopped(Box<Past>),
    /// By HTTP.
    Live(Box<Remote>),
}

impl SourceArgs {
    pub(super) fn open(&self, plugins: &'static [Plugin]) -> Result<Source, Failed> {
        match (&self.data, &self.url) {
            (Some(data), _) => Ok(Source::Stopped(Box::new(stopped(data, self.world.as_deref(), plugins)?))),
            (None, Some(url)) => Ok(Source::Live(Box::new(Remote::connect(url, self.world.as_deref())?))),
            (None, None) => Err(exit::usage(
                "say which world: --data DIR of a stopped server, or --url http://127.0.0.1:7170 of a running one",
            )),
        }
    }

    /// Prints an answer as it is, or as `text` says.
    pub(super) fn print(&self, answer: &Value, text: impl FnOnce(&Value) -> String) -> Result<(), Failed> {
        if self.json {
            println!("{}", serde_json::to_string_pretty(answer).context("could not print the answer")?);
        } else {
            print!("{}", text(answer));
        }
        Ok(())
    }
}

/// Opens a stopped world; while a server runs, says how to ask that one.
pub(super) fn stopped(data: &Path, world: Option<&str>, plugins: &'static [Plugin]) -> Result<Past, Failed> {
    Past::open(data, world, plugins).map_err(|failed| match failed.code {
        75 => {
            Failed::new(75, failed.error.context("a server is running: ask it with --url instead of --data"))
        }
        _ => failed,
    })
}

impl Past {
    /// What can be asked of it.
    pub(super) fn questions(&self) -> Questions {
        let (history, options) = (self.history.clone(), self.options.clone());
        let newest = (history.branches().current(), self.end);
        Questions { history, newest, options, wanted: Arc::new(|| true) }
    }
}

impl From<AskError> for Failed {
    fn from(error: AskError) -> Self {
        match error {
            AskError::World(error) => error.into(),
            AskError::Wrong(_) | AskError::Unknown(_) => exit::usage(&error.to_string()),
            AskError::Gone(_) => Self::new(1, error),
        }
    }
}

/// The variable with the token that a command shows.
const TOKEN: &str = "EVERWORLD_TOKEN";

/// A running server.
pub(super) struct Remote {
    client: Client,
    /// The world that is meant.
    pub world: String,
}

impl Remote {
    pub(super) fn connect(url: &str, world: Option<&str>) -> Result<Self, Failed> {
        let address = address(url).ok_or_else(|| {
            exit::usage(&format!(
                "--url: \"{url}\" is no address: expected for instance http://127.0.0.1:7170"
            ))
        })?;
        let mut client = Client::connect(address).with_context(|| format!("no server answers at {url}"))?;
        if let Ok(token) = std::env::var(TOKEN) {
            client.authorize(&token);
        }
        let mut remote = Self { client, world: String::new() };
        let worlds = remote.request("GET", "/v1/worlds", "")?;
        let names = worlds["items"].as_array().into_iter().flatten();
        // Others are in its data directory only.
        let names = names.filter(|world| !world["tick"].is_null());
        let names: Vec<&str> = names.filter_map(|world| world["world"].as_str()).collect();
        remote.world = match (world, &names[..]) {
            (Some(world), _) if names.contains(&world) => world.to_owned(),
            (None, [only]) => (*only).to_owned(),
            (Some(world), _) => {
                let names = names.join(", ");
                return Err(exit::usage(&format!(
                    "--world: there is no \"{world}\"; that server hosts: {names}"
                )));
            }
            (None, _) => {
                return Err(exit::usage(&format!("--world: say which one of: {}", names.join(", "))));
            }
        };
        Ok(remote)
    }

    /// A request below the world's path.
    pub(super) fn ask(&mut self, method: &str, path: &str, body: &Value) -> Result<Value, Failed> {
        let path = format!("/v1/worlds/{}{path}", self.world);
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.request(method, &path, &body)
    }

    /// A request, waiting for the end of what takes long.
    pub(super) fn request(&mut self, method: &str, path: &str, body: &str) -> Result<Value, Failed> {
        let (status, answer) = self.client.request(method, path, body).context("the server went away")?;
        if status >= 400 {
            return Err(problem(status, &answer));
        }
        let Some(location) = answer["location"].as_str().filter(|_| status == 202).map(str::to_owned) else {
            return Ok(answer);
        };
        loop {
            std::thread::sleep(Duration::from_millis(200));
            let (status, job) = self.client.request("GET", &location, "").context("the server went away")?;
            match job["state"].as_str() {
                Some("running") => {}
                Some("done") => return Ok(job["result"].clone()),
                Some("failed") => {
                    let status = job["problem"]["status"].as_u64().unwrap_or(500) as u16;
                    return Err(problem(status, &job["problem"]));
                }
                _ => return Err(problem(status, &job)),
            }
        }
    }

    /// Writes what a path below the world's gives into a new file.
    pub(super) fn download(&mut self, path: &str, file: &Path) -> Result<u64, Failed> {
        let path = format!("/v1/worlds/{}{path}", self.world);
        let mut out = std::fs::File::create_new(file)
            .with_context(|| format!("could not create \"{}\"", file.display()))?;
        let (status, bytes) = self.client.download(&path, &mut out).context("the download did not end")?;
        out.sync_all().with_context(|| format!("could not sync \"{}\"", file.display()))?;
        if status >= 400 {
            let said = std::fs::read(file).unwrap_or_default();
            // It holds what the server said instead.
            let _ = std::fs::remove_file(file);
            return Err(problem(status, &serde_json::from_slice(&said).unwrap_or_default()));
        }
        Ok(bytes)
    }
}

/// What a server refused, with the exit code that the same refusal has here.
fn problem(status: u16, answer: &Value) -> Failed {
    let detail = answer["detail"].as_str().unwrap_or("no reason was given");
    let faults = answer["errors"].as_array().into_iter().flatten();
    let faults = faults.filter_map(|fault| Some((fault["pointer"].as_str()?, fault["detail"].as_str()?)));
    let faults: Vec<String> = faults.map(|(pointer, detail)| format!("{pointer}: {detail}")).collect();
    match status {
        422 if !faults.is_empty() => exit::usage(&faults.join("; ")),
        400 | 404 | 422 => exit::usage(detail),
        _ => Failed::new(1, anyhow!("the server answers {status}: {detail}")),
    }
}

fn address(url: &str) -> Option<SocketAddr> {
    let rest = url.strip_prefix("http://").unwrap_or(url);
    rest.trim_end_matches('/').to_socket_addrs().ok()?.next()
}

/// Text as a part of a path or a query.
pub(super) fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(byte as char);
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// The parameters of a path: those that are there, encoded.
pub(super) fn query(parameters: &[(&str, Option<String>)]) -> String {
    let mut text = String::new();
    for (name, value) in parameters {
        let Some(value) = value else { continue };
        text.push(if text.is_empty() { '?' } else { '&' });
        text.push_str(name);
        text.push('=');
        text.push_str(&encoded(value));
    }
    text
}
