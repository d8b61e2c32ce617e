//! A small query over the entities of one tick: `needs.hunger>0.8 and faction.id==3`.

use super::{AskError, table_row};
use everworld_engine::{Image, Registry};
use serde_json::{Value, json};
use std::{cmp::Ordering, str::FromStr};

/// Conditions that all hold.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    terms: Vec<Term>,
}

#[derive(Clone, Debug, PartialEq)]
struct Term {
    column: String,
    /// Below the column; none asks whether there is such a component.
    path: Vec<String>,
    test: Option<(Test, Value)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Test {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// Longer ones first: `>=` begins with `>`.
const TESTS: [(&str, Test); 6] = [
    ("==", Test::Equal),
    ("!=", Test::Unequal),
    ("<=", Test::LessOrEqual),
    (">=", Test::GreaterOrEqual),
    ("<", Test::Less),
    (">", Test::Greater),
];

impl FromStr for Query {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let terms = text.split(" and ").map(|term| Term::parse(term.trim())).collect::<Result<_, _>>()?;
        Ok(Self { terms })
    }
}

impl Term {
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "\"{text}\": expected a component, or a comparison such as needs.hunger>0.8; join them with and"
            )
        };
        let found = TESTS.iter().find_map(|(sign, test)| Some((text.split_once(sign)?, *test)));
        let (place, test) = match found {
            Some(((place, value), test)) => {
                let value = value.trim();
                let parsed = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.into()));
                if value.is_empty() {
                    return Err(wrong());
                }
                (place.trim(), Some((test, parsed)))
            }
            None => (text, None),
        };
        let mut parts = place.split('.').map(str::to_owned);
        let column = parts.next().filter(|column| !column.is_empty()).ok_or_else(wrong)?;
        let path: Vec<String> = parts.collect();
        let is_name =
            |part: &String| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !is_name(&column) || !path.iter().all(is_name) || (test.is_some() && path.is_empty()) {
            return Err(wrong());
        }
        Ok(Self { column, path, test })
    }

    fn holds(&self, row: &Value) -> bool {
        let Some((test, expected)) = &self.test else { return true };
        let found = self.path.iter().try_fold(row, |value, part| match value {
            Value::Array(items) => items.get(part.parse::<usize>().ok()?),
            other => other.get(part),
        });
        let Some(found) = found else { return false };
        let order = match (found.as_f64(), expected.as_f64()) {
            (Some(found), Some(expected)) => found.partial_cmp(&expected),
            _ if found == expected => Some(Ordering::Equal),
            _ => match (found.as_str(), expected.as_str()) {
                (Some(found), Some(expected)) => Some(found.cmp(expected)),
                _ => None,
            },
        };
        match test {
            Test::Equal => order == Some(Ordering::Equal),
            Test::Unequal => order != Some(Ordering::Equal),
            Test::Less => order == Some(Ordering::Less),
            Test::LessOrEqual => matches!(order, Some(Ordering::Less | Ordering::Equal)),
            Test::Greater => order == Some(Ordering::Greater),
            Test::GreaterOrEqual => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
        }
    }
}

impl Query {
    /// How many entities match, and the first of them by Uid.
    pub(super) fn run(
        &self,
        image: &Image,
        registry: &Registry,
        limit: usize,
    ) -> Result<(usize, Vec<Value>), AskError> {
        for term in &self.terms {
            let Some(column) = registry.column(&term.column) else {
                let known: Vec<&str> = registry.columns().iter().map(|column| column.name).collect();
                let known = known.join(", ");
                return Err(AskError::Wrong(format!(
                    "there is no component \"{}\"; components: {known}",
                    term.column
                )));
            };
            let fields = column.query_fields();
            let path = format!("{}.{}", term.column, term.path.join("."));
            if !term.path.is_empty() && !fields.is_empty() && !fields.contains(&path) {
                let known = fields.join(", ");
                return Err(AskError::Wrong(format!("there is no field \"{path}\"; fields: {known}")));
            }
        }
        let mut found: Vec<(u64, usize, usize)> = Vec::new();
        for (number, table) in image.tables.iter().enumerate() {
            let columns: Option<Vec<_>> = self
                .terms
                .iter()
                .map(|term| Some((term, table.column(&term.column)?, registry.column(&term.column)?)))
                .collect();
            let Some(columns) = columns else { continue };
            for (row, uid) in table.uids().enumerate() {
                let holds = |(term, column, info): &(&Term, &_, &everworld_engine::ColumnInfo)| {
                    term.test.is_none() || term.holds(&info.to_json(image.row(column, row)))
                };
                if columns.iter().all(holds) {
                    found.push((uid.get(), number, row));
                }
            }
        }
        found.sort_unstable();
        let item = |(uid, table, row): &(u64, usize, usize)| {
            let components = table_row(image, registry, &image.tables[*table], *row);
            json!({"uid": uid.to_string(), "components": components})
        };
        let items = found.iter().take(limit).map(item).collect();
        Ok((found.len(), items))
    }
}

#[cfg(test)]
mod tests {
    use super::Query;
    use serde_json::json;

    #[test]
    fn terms_hold_as_they_say() {
        let row = json!({"hunger": 0.9, "job": "baker", "slots": [{"subject": 3}]});
        let check = |text: &str, expected| {
            let query: Query = text.parse().unwrap();
            assert_eq!(query.terms.iter().all(|term| term.holds(&row)), expected, "{text}");
        };
        check("needs.hunger>0.8", true);
        check("needs.hunger > 0.9", false);
        check("needs.hunger>=0.9", true);
        check("needs.hunger<1 and needs.job==baker", true);
        check("needs.hunger<1 and needs.job!=baker", false);
        check("needs.slots.0.subject==3", true);
        check("needs.nothing!=3", false);
        check("needs", true);
    }

    #[test]
    fn typical_mistakes_are_named() {
        let check = |text: &str| {
            let error = text.parse::<Query>().unwrap_err();
            assert!(error.contains("such as needs.hunger>0.8"), "{text}: {error}");
        };
        ["", "needs.hunger>", ">3", "needs=3", "needs>3", "needs..x>3", "a.b>1 and "]
            .into_iter()
            .for_each(check);
    }
}
