//! The types of value that a configuration key can have, and what each accepts.

use std::{fmt::Display, net::SocketAddr, ops::RangeInclusive, path::PathBuf};

use crate::history::OnPanic;
use serde_json::Value;
use toml::de::{DeInteger, DeValue};
use tracing_subscriber::EnvFilter;

/// A type of value. What it rejects, [`Setting::expected`] explains.
pub(super) trait Setting: Sized {
    /// What bounds a key of this type: a range, or nothing.
    type Limit;

    /// What is accepted, as it ends the sentence "expected ...".
    fn expected(limit: &Self::Limit) -> String;

    /// The value, if it has the right type and lies within the limit.
    fn read(value: &DeValue<'_>, limit: &Self::Limit) -> Option<Self>;

    /// The value for display; null only where `""` stands for none.
    fn to_json(&self) -> Value;
}

/// A value of `config show` as it would stand in the file.
pub(super) fn to_toml(value: &Value) -> String {
    match value {
        Value::String(text) => toml::Value::from(text.as_str()).to_string(),
        Value::Null => "\"\"".to_owned(),
        number => number.to_string(),
    }
}

/// What stands in the place of an expected value, for messages.
pub(super) fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => toml::Value::from(text.as_ref()).to_string(),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(_) => "an array".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

macro_rules! whole_number {
    ($Type:ty) => {
        impl Setting for $Type {
            type Limit = RangeInclusive<Self>;

            fn expected(limit: &Self::Limit) -> String {
                format!("a whole number {}", span(limit))
            }

            fn read(value: &DeValue<'_>, limit: &Self::Limit) -> Option<Self> {
                whole(value.as_integer()?)?.try_into().ok().filter(|number| limit.contains(number))
            }

            fn to_json(&self) -> Value {
                (*self).into()
            }
        }
    };
}

whole_number!(u32);
whole_number!(u64);
whole_number!(usize);

impl Setting for bool {
    type Limit = ();

    fn expected((): &()) -> String {
        "true or false".to_owned()
    }

    fn read(value: &DeValue<'_>, (): &()) -> Option<Self> {
        value.as_bool()
    }

    fn to_json(&self) -> Value {
        (*self).into()
    }
}

impl Setting for Option<u64> {
    type Limit = RangeInclusive<u64>;

    fn expected(limit: &Self::Limit) -> String {
        format!("{}, or \"\"", u64::expected(limit))
    }

    fn read(value: &DeValue<'_>, limit: &Self::Limit) -> Option<Self> {
        if value.as_str() == Some("") { Some(None) } else { u64::read(value, limit).map(Some) }
    }

    fn to_json(&self) -> Value {
        (*self).into()
    }
}

impl Setting for f64 {
    type Limit = RangeInclusive<Self>;

    fn expected(limit: &Self::Limit) -> String {
        format!("a number {}", span(limit))
    }

    fn read(value: &DeValue<'_>, limit: &Self::Limit) -> Option<Self> {
        let number = match value {
            DeValue::Float(number) => number.as_str().parse().ok()?,
            DeValue::Integer(number) => whole(number)? as Self,
            _ => return None,
        };
        limit.contains(&number).then_some(number)
    }

    fn to_json(&self) -> Value {
        (*self).into()
    }
}

impl Setting for String {
    type Limit = ();

    fn expected((): &()) -> String {
        "text that is not empty".to_owned()
    }

    fn read(value: &DeValue<'_>, (): &()) -> Option<Self> {
        value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
    }

    fn to_json(&self) -> Value {
        self.as_str().into()
    }
}

impl Setting for Option<String> {
    type Limit = ();

    fn expected((): &()) -> String {
        "text".to_owned()
    }

    fn read(value: &DeValue<'_>, (): &()) -> Option<Self> {
        value.as_str().map(|text| Some(text.to_owned()).filter(|text| !text.is_empty()))
    }

    fn to_json(&self) -> Value {
        self.as_deref().into()
    }
}

impl Setting for PathBuf {
    type Limit = ();

    fn expected((): &()) -> String {
        "a path".to_owned()
    }

    fn read(value: &DeValue<'_>, (): &()) -> Option<Self> {
        value.as_str().filter(|text| !text.is_empty()).map(Self::from)
    }

    fn to_json(&self) -> Value {
        self.to_string_lossy().into()
    }
}

impl Setting for SocketAddr {
    type Limit = ();

    fn expected((): &()) -> String {
        "an IP address with a port, such as \"127.0.0.1:7170\" or \"[::1]:7170\"".to_owned()
    }

    fn read(value: &DeValue<'_>, (): &()) -> Option<Self> {
        value.as_str()?.parse().ok()
    }

    fn to_json(&self) -> Value {
        self.to_string().into()
    }
}

/// Directives for `tracing_subscriber`'s filter; it accepted them once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter(String);

impl LogFilter {
    /// The directives as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Setting for LogFilter {
    type Limit = ();

    fn expected((): &()) -> String {
        "a log level or filter directives, such as \"info\" or \"info,everworld::api=debug\"".to_owned()
    }

    fn read(value: &DeValue<'_>, (): &()) -> Option<Self> {
        let text = String::read(value, &())?;
        EnvFilter::try_new(&text).ok()?;
        Some(Self(text))
    }

    fn to_json(&self) -> Value {
        self.as_str().into()
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Pretty on a terminal, JSON elsewhere.
    Auto,
    /// Coloured text for people.
    Pretty,
    /// One JSON object a line.
    Json,
}

impl LogFormat {
    const NAMES: [(&'static str, Self); 3] =
        [("auto", Self::Auto), ("pretty", Self::Pretty), ("json", Self::Json)];
}

impl Setting for LogFormat {
    type Limit = ();

    fn expected((): &()) -> String {
        "\"auto\", \"pretty\" or \"json\"".to_owned()
    }

    fn read(value: &DeValue<'_>, (): &()) -> Option<Self> {
        let text = value.as_str()?;
        Self::NAMES.iter().find(|(name, _)| *name == text).map(|(_, format)| *format)
    }

    fn to_json(&self) -> Value {
        Self::NAMES.iter().find(|(_, format)| format == self).map(|(name, _)| *name).into()
    }
}

impl Setting for OnPanic {
    type Limit = ();

    fn expected((): &()) -> String {
        "\"quarantine\" or \"stop\"".to_owned()
    }

    fn read(value: &DeValue<'_>, (): &()) -> Option<Self> {
        let text = value.as_str()?;
        Self::NAMES.iter().find(|(name, _)| *name == text).map(|(_, policy)| *policy)
    }

    fn to_json(&self) -> Value {
        Self::NAMES.iter().find(|(_, policy)| policy == self).map(|(name, _)| *name).into()
    }
}

/// TOML's own integers end at `i64`; seeds do not.
fn whole(number: &DeInteger<'_>) -> Option<u64> {
    u64::from_str_radix(number.as_str(), number.radix()).ok()
}

fn span<N: Display>(limit: &RangeInclusive<N>) -> String {
    format!("from {} to {}", limit.start(), limit.end())
}
