//! `everworld top`: a running world at a glance, on the terminal.

use super::{Failed, exit, source::Remote};
use anyhow::Context as _;
use clap::Args;
use ratatui::{
    Frame, Terminal,
    backend::TestBackend,
    crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers},
    layout::{Constraint, Layout},
    style::{Modifier, Style},
    text::Line,
    widgets::{Block, Cell, Paragraph, Row, Sparkline, Table, TableState},
};
use serde_json::{Value, json};
use std::{
    io::IsTerminal as _,
    time::{Duration, Instant},
};

/// Watch a running world: ticks, systems, inputs, snapshots; pause it, step it, switch systems off and on
#[derive(Args, Debug)]
pub struct TopArgs {
    /// The server; its token, if it wants one, comes from the variable `EVERWORLD_TOKEN`
    #[arg(default_value = "http://127.0.0.1:7170")]
    url: String,
    /// The world, where there are several
    #[arg(long, value_name = "W")]
    world: Option<String>,
    /// Milliseconds between two looks
    #[arg(long, value_name = "MS", default_value_t = 500, value_parser = clap::value_parser!(u64).range(50..=60_000))]
    every_ms: u64,
    /// Print what it shows once, as text
    #[arg(long)]
    once: bool,
}

/// Ticks of the curve.
const TICKS: usize = 240;
/// What `--once` prints.
const WIDTH: u16 = 120;
const HEADER_LINES: u16 = 4;
const CURVE_LINES: u16 = 6;

pub(super) fn run(args: &TopArgs) -> Result<(), Failed> {
    let mut top = Top::connect(args)?;
    top.look()?;
    if args.once {
        print!("{}", top.text());
        return Ok(());
    }
    if !std::io::stdout().is_terminal() {
        return Err(exit::usage("this is no terminal; --once prints what it shows as text"));
    }
    let mut terminal = ratatui::init();
    let result = top.watch(&mut terminal, args);
    ratatui::restore();
    result
}

struct Top {
    remote: Remote,
    world: Value,
    systems: Vec<Value>,
    ticks: Vec<Value>,
    selected: TableState,
    /// What became of the last key.
    said: String,
}

impl Top {
    fn connect(args: &TopArgs) -> Result<Self, Failed> {
        let remote = Remote::connect(&args.url, args.world.as_deref())?;
        let selected = TableState::default().with_selected(0);
        Ok(Self {
            remote,
            world: Value::Null,
            systems: Vec::new(),
            ticks: Vec::new(),
            selected,
            said: String::new(),
        })
    }

    fn look(&mut self) -> Result<(), Failed> {
        self.world = self.remote.ask("GET", "", &Value::Null)?;
        let items = |answer: &mut Value| match answer["items"].take() {
            Value::Array(items) => items,
            _ => Vec::new(),
        };
        self.ticks = items(&mut self.remote.ask("GET", &format!("/ticks?last={TICKS}"), &Value::Null)?);
        self.systems = items(&mut self.remote.ask("GET", "/systems", &Value::Null)?);
        let share = |system: &Value| (system["share"].as_f64().unwrap_or(0.0) * 1e6) as i64;
        self.systems.sort_by_key(|system| -share(system));
        Ok(())
    }

    fn watch(&mut self, terminal: &mut ratatui::DefaultTerminal, args: &TopArgs) -> Result<(), Failed> {
        let pause = Duration::from_millis(args.every_ms);
        loop {
            terminal.draw(|frame| self.draw(frame)).context("could not draw")?;
            let next = Instant::now() + pause;
            while let Some(left) = next.checked_duration_since(Instant::now()) {
                if !event::poll(left).context("could not read the keyboard")? {
                    break;
                }
                let Event::Key(key) = event::read().context("could not read the keyboard")? else { break };
                let interrupted =
                    key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c');
                if interrupted || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc) {
                    return Ok(());
                }
                if key.kind == KeyEventKind::Press {
                    self.key(key.code);
                    break;
                }
            }
            // The server may be away for a while: what was seen last stays, and says so.
            if let Err(failed) = self.look() {
                self.said = format!("{:#}", failed.error);
                if let Ok(mut back) = Self::connect(args) {
                    std::mem::swap(&mut self.remote, &mut back.remote);
                }
            }
        }
    }

    fn key(&mut self, key: KeyCode) {
        let is_paused = self.world["state"] == "paused";
        let system = self.selected.selected().and_then(|row| self.systems.get(row));
        let asked = match key {
            KeyCode::Char('p') => {
                let what = if is_paused { "/resume" } else { "/pause" };
                Some(("POST", what.to_owned(), Value::Null))
            }
            KeyCode::Char('s') => Some(("POST", "/step".to_owned(), json!({"ticks": 1}))),
            KeyCode::Char('e') => system.map(|system| {
                let path = format!("/systems/{}", system["name"].as_str().unwrap_or_default());
                ("PATCH", path, json!({"enabled": system["enabled"] == false}))
            }),
            KeyCode::Down | KeyCode::Char('j') => {
                self.selected.select_next();
                None
            }
            KeyCode::Up | KeyCode::Char('k') => {
                self.selected.select_previous();
                None
            }
            _ => None,
        };
        if let Some((method, path, body)) = asked {
            self.said = match self.remote.ask(method, &path, &body) {
                Ok(_) => format!("{method} {path}: durable"),
                Err(failed) => format!("{method} {path}: {:#}", failed.error),
            };
        }
    }

    fn draw(&mut self, frame: &mut Frame<'_>) {
        let lines = [
            Constraint::Length(HEADER_LINES),
            Constraint::Length(CURVE_LINES),
            Constraint::Min(3),
            Constraint::Length(1),
        ];
        let [header, curve, table, foot] = Layout::vertical(lines).areas(frame.area());
        frame.render_widget(Paragraph::new(self.header()), header);
        let mut micros: Vec<u64> =
            self.ticks.iter().filter_map(|tick| tick["total_us"].as_f64()).map(|us| us as u64).collect();
        let shown = micros.len().saturating_sub(usize::from(curve.width));
        let newest = micros.split_off(shown);
        let title = format!("last {} ticks: {}", self.ticks.len(), spread(&newest));
        let block = Block::default().title(title);
        frame.render_widget(Sparkline::default().block(block).data(&newest), curve);
        let widths = [
            Constraint::Min(24),
            Constraint::Length(12),
            Constraint::Length(9),
            Constraint::Length(12),
            Constraint::Length(10),
            Constraint::Length(10),
            Constraint::Length(10),
            Constraint::Length(7),
        ];
        let head = ["system", "phase", "every", "runs", "last us", "p50 us", "p99 us", "share"];
        let bold = Style::default().add_modifier(Modifier::BOLD);
        let rows = self.systems.iter().map(system_row);
        let table_of = Table::new(rows, widths)
            .header(Row::new(head).style(bold))
            .row_highlight_style(Style::default().add_modifier(Modifier::REVERSED));
        frame.render_stateful_widget(table_of, table, &mut self.selected);
        let keys = "q quit  p pause or resume  s step  up/down choose  e switch the system off or on";
        frame.render_widget(Paragraph::new(keys), foot);
    }

    fn header(&self) -> Vec<Line<'_>> {
        let world = &self.world;
        let text = |name: &str| world[name].as_str().unwrap_or("-").to_owned();
        let number = |name: &str| world[name].as_f64().unwrap_or(0.0);
        let rate = match number("rate_hz") {
            0.0 => "as fast as possible".to_owned(),
            rate => format!("{rate} Hz"),
        };
        let mut lines = vec![
            Line::from(format!(
                "{}  {}  tick {}  branch {}  {rate}  lag {:.1} ms",
                text("world"),
                text("state"),
                world["tick"],
                world["branch"],
                number("lag_ms")
            ))
            .style(Style::default().add_modifier(Modifier::BOLD)),
            Line::from(format!(
                "{} entities  {:.0} MB  inputs waiting {}  last snapshot {}",
                world["entities"],
                number("memory_bytes") / 1e6,
                world["inputs_waiting"],
                world["last_snapshot"]
            )),
            Line::from(format!(
                "scenario {}  seed {}  hash {} at tick {}",
                text("scenario"),
                world["seed"],
                text("state_hash"),
                world["state_hash_tick"]
            )),
        ];
        lines.push(Line::from(if self.said.is_empty() { text("reason") } else { self.said.clone() }));
        lines
    }

    /// As text, all systems of it.
    fn text(&mut self) -> String {
        let lines = HEADER_LINES + CURVE_LINES + 2 + self.systems.len() as u16;
        self.selected.select(None);
        let mut terminal =
            Terminal::new(TestBackend::new(WIDTH, lines)).unwrap_or_else(|never| match never {});
        terminal.draw(|frame| self.draw(frame)).unwrap_or_else(|never| match never {});
        let buffer = terminal.backend().buffer();
        let line = |row: u16| {
            let cells = (0..WIDTH).map(|column| buffer[(column, row)].symbol());
            cells.collect::<String>().trim_end().to_owned() + "\n"
        };
        (0..lines).map(line).collect()
    }
}

fn spread(micros: &[u64]) -> String {
    let mut sorted = micros.to_vec();
    sorted.sort_unstable();
    let at = |share: f64| {
        let index = ((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1));
        sorted.get(index).map_or(0.0, |micros| *micros as f64 / 1e3)
    };
    format!("p50 {:.2} ms, p99 {:.2} ms, longest {:.2} ms", at(0.5), at(0.99), at(1.0))
}

fn system_row(system: &Value) -> Row<'_> {
    let text = |name: &str| system[name].as_str().unwrap_or_default();
    let micros = |name: &str| format!("{:>9.1}", system[name].as_f64().unwrap_or(0.0));
    let every = if system["quarantined"] == true {
        "failed".to_owned()
    } else if system["enabled"] == false {
        "off".to_owned()
    } else {
        system["every"].to_string()
    };
    Row::new([
        Cell::from(text("name")),
        Cell::from(text("phase")),
        Cell::from(every),
        Cell::from(system["runs"].to_string()),
        Cell::from(micros("last_us")),
        Cell::from(micros("p50_us")),
        Cell::from(micros("p99_us")),
        Cell::from(format!("{:>5.1}%", system["share"].as_f64().unwrap_or(0.0) * 100.0)),
    ])
}
