//! The text of a condition: `needs.hunger > 0.8 and (trade.kind in (baker, smith) or not tired)`.

use std::{fmt, iter::Peekable, str::CharIndices};

/// Which entities are meant, as it was written; [`Filter::bind`](super::Filter::bind) finds the columns.
///
/// A condition is a component that an entity must have, or a field compared with a value: `==`, `!=`, `<`, `<=`, `>`,
/// `>=`, or `in (a, b)`. Conditions are joined with `and`, `or`, `not` and parentheses; `and` binds more tightly than
/// `or`. Values are numbers, `true`, `false`, or text, in double quotes where it is more than one word. `*` stands for any
/// element of an array: `mind.slots.*.subject == 3`. Of an entity that lacks the component no comparison holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter(pub(super) Expression);

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Expression {
    All(Vec<Self>),
    Any(Vec<Self>),
    Not(Box<Self>),
    Has(String),
    Compare { path: Path, test: Test, values: Vec<Literal> },
}

/// A field of a column: `needs.hunger`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// The column's name.
    pub column: String,
    /// The names below it; none means the whole column.
    pub parts: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Test {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Literal {
    Int(i128),
    Float(f64),
    Bool(bool),
    Text(String),
}

/// Why a question cannot be answered; says where, as far as it is about text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct QueryError(pub String);

/// L1.
const TEXT_MAX: usize = 4_096;
const DEPTH_MAX: usize = 32;

impl Filter {
    /// Whoever has all these components and none of those.
    pub fn with_and_without(with: &[String], without: &[String]) -> Self {
        let has = |name: &String| Expression::Has(name.clone());
        let lacks = |name: &String| Expression::Not(Box::new(has(name)));
        Self(Expression::All(with.iter().map(has).chain(without.iter().map(lacks)).collect()))
    }

    /// Both hold.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(Expression::All(vec![self.0, other.0]))
    }
}

impl std::str::FromStr for Filter {
    type Err = QueryError;

    fn from_str(text: &str) -> Result<Self, QueryError> {
        if text.len() > TEXT_MAX {
            return Err(QueryError(format!(
                "a condition has at most {TEXT_MAX} bytes, this one {}",
                text.len()
            )));
        }
        let mut parser = Parser { tokens: tokens(text)?.into_iter().peekable(), end: text.len(), depth: 0 };
        let expression = parser.any()?;
        match parser.tokens.next() {
            None => Ok(Self(expression)),
            Some((at, token)) => Err(expected(at, "\"and\", \"or\" or the end", &token)),
        }
    }
}

impl std::str::FromStr for Path {
    type Err = QueryError;

    fn from_str(text: &str) -> Result<Self, QueryError> {
        let is_name = |part: &str| {
            part == "*" || (!part.is_empty() && part.chars().all(|c| c.is_alphanumeric() || c == '_'))
        };
        let mut parts = text.split('.');
        let column = parts.next().unwrap_or_default().to_owned();
        let parts: Vec<String> = parts.map(str::to_owned).collect();
        if column == "*" || !is_name(&column) || !parts.iter().all(|part| is_name(part)) {
            return Err(QueryError(format!(
                "\"{text}\": expected a component or a field, such as needs.hunger"
            )));
        }
        Ok(Self { column, parts })
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.column)?;
        self.parts.iter().try_for_each(|part| write!(f, ".{part}"))
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Open,
    Close,
    Comma,
    Test(Test),
    Word(String),
    Quoted(String),
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open => f.write_str("\"(\""),
            Self::Close => f.write_str("\")\""),
            Self::Comma => f.write_str("\",\""),
            Self::Test(_) => f.write_str("a comparison"),
            Self::Word(word) | Self::Quoted(word) => write!(f, "\"{word}\""),
        }
    }
}

fn expected(at: usize, what: &str, found: &Token) -> QueryError {
    QueryError(format!("at character {}: expected {what}, found {found}", at + 1))
}

fn tokens(text: &str) -> Result<Vec<(usize, Token)>, QueryError> {
    let mut tokens = Vec::new();
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let token = match c {
            ' ' | '\t' | '\n' | '\r' => continue,
            '(' => Token::Open,
            ')' => Token::Close,
            ',' => Token::Comma,
            '"' => Token::Quoted(quoted(at, &mut chars)?),
            '=' | '!' | '<' | '>' => {
                let is_long = chars.next_if(|(_, next)| *next == '=').is_some();
                Token::Test(match (c, is_long) {
                    ('=', true) => Test::Equal,
                    ('!', true) => Test::Unequal,
                    ('<', true) => Test::LessOrEqual,
                    ('<', false) => Test::Less,
                    ('>', true) => Test::GreaterOrEqual,
                    ('>', false) => Test::Greater,
                    _ => {
                        return Err(QueryError(format!(
                            "at character {}: \"{c}\" is no comparison; there are == != < <= > >=",
                            at + 1
                        )));
                    }
                })
            }
            c if is_of_a_word(c) => {
                let mut word = String::from(c);
                while let Some((_, c)) = chars.next_if(|(_, next)| is_of_a_word(*next)) {
                    word.push(c);
                }
                Token::Word(word)
            }
            other => {
                return Err(QueryError(format!(
                    "at character {}: unexpected \"{other}\"; text of several words goes in double quotes",
                    at + 1
                )));
            }
        };
        tokens.push((at, token));
    }
    Ok(tokens)
}

fn is_of_a_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '.' | '-' | '+' | '*')
}

fn quoted(at: usize, chars: &mut Peekable<CharIndices<'_>>) -> Result<String, QueryError> {
    let mut text = String::new();
    while let Some((_, c)) = chars.next() {
        match c {
            '"' => return Ok(text),
            '\\' => text.extend(chars.next().map(|(_, c)| c)),
            c => text.push(c),
        }
    }
    Err(QueryError(format!("at character {}: the double quote has no end", at + 1)))
}

struct Parser {
    tokens: Peekable<std::vec::IntoIter<(usize, Token)>>,
    end: usize,
    depth: usize,
}

impl Parser {
    fn is_next(&mut self, word: &str) -> bool {
        self.tokens.next_if(|(_, token)| matches!(token, Token::Word(found) if found == word)).is_some()
    }

    fn any(&mut self) -> Result<Expression, QueryError> {
        let mut all = vec![self.all()?];
        while self.is_next("or") {
            all.push(self.all()?);
        }
        Ok(if all.len() == 1 { all.remove(0) } else { Expression::Any(all) })
    }

    fn all(&mut self) -> Result<Expression, QueryError> {
        let mut all = vec![self.one()?];
        while self.is_next("and") {
            all.push(self.one()?);
        }
        Ok(if all.len() == 1 { all.remove(0) } else { Expression::All(all) })
    }

    fn one(&mut self) -> Result<Expression, QueryError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(QueryError(format!("conditions nest at most {DEPTH_MAX} deep")));
        }
        let found = self.condition();
        self.depth -= 1;
        found
    }

    fn condition(&mut self) -> Result<Expression, QueryError> {
        const WHAT: &str = "a component, or a comparison such as needs.hunger>0.8";
        if self.is_next("not") {
            return Ok(Expression::Not(Box::new(self.one()?)));
        }
        match self.tokens.next() {
            Some((_, Token::Open)) => {
                let inner = self.any()?;
                match self.tokens.next() {
                    Some((_, Token::Close)) => Ok(inner),
                    other => Err(self.expected("\")\"", other)),
                }
            }
            Some((at, Token::Word(word))) if !matches!(word.as_str(), "and" | "or" | "in") => {
                let path: Path =
                    word.parse().map_err(|error| QueryError(format!("at character {}: {error}", at + 1)))?;
                self.comparison(path)
            }
            other => Err(self.expected(WHAT, other)),
        }
    }

    fn comparison(&mut self, path: Path) -> Result<Expression, QueryError> {
        let (test, values) = if self.is_next("in") {
            (Test::Equal, self.list()?)
        } else if let Some((_, Token::Test(test))) =
            self.tokens.next_if(|(_, token)| matches!(token, Token::Test(_)))
        {
            (test, vec![self.literal()?])
        } else if path.parts.is_empty() {
            return Ok(Expression::Has(path.column));
        } else {
            let next = self.tokens.next();
            return Err(self.expected(&format!("a comparison after \"{path}\", such as {path}>0.8"), next));
        };
        if path.parts.is_empty() {
            return Err(QueryError(format!(
                "\"{path}\" is a component: compare a field of it, such as needs.hunger>0.8"
            )));
        }
        Ok(Expression::Compare { path, test, values })
    }

    fn list(&mut self) -> Result<Vec<Literal>, QueryError> {
        match self.tokens.next() {
            Some((_, Token::Open)) => {}
            other => return Err(self.expected("\"(\"", other)),
        }
        let mut values = vec![self.literal()?];
        loop {
            match self.tokens.next() {
                Some((_, Token::Comma)) => values.push(self.literal()?),
                Some((_, Token::Close)) => return Ok(values),
                other => return Err(self.expected("\",\" or \")\"", other)),
            }
        }
    }

    fn literal(&mut self) -> Result<Literal, QueryError> {
        match self.tokens.next() {
            Some((_, Token::Quoted(text))) => Ok(Literal::Text(text)),
            Some((_, Token::Word(word))) => Ok(literal(&word)),
            other => Err(self.expected("a value", other)),
        }
    }

    fn expected(&self, what: &str, found: Option<(usize, Token)>) -> QueryError {
        match found {
            Some((at, token)) => expected(at, what, &token),
            None => QueryError(format!("at character {}: expected {what}, found the end", self.end + 1)),
        }
    }
}

pub(super) fn literal(word: &str) -> Literal {
    match word {
        "true" => return Literal::Bool(true),
        "false" => return Literal::Bool(false),
        _ => {}
    }
    // "inf" and "nan" are words, not numbers.
    let is_number = word.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.'));
    if !is_number {
        return Literal::Text(word.to_owned());
    }
    let int = word.parse().map(Literal::Int);
    int.or_else(|_| word.parse().map(Literal::Float)).unwrap_or_else(|_| Literal::Text(word.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn and_binds_more_tightly_than_or() {
        let check = |one: &str, other: &str| {
            assert_eq!(one.parse::<Filter>().unwrap(), other.parse::<Filter>().unwrap(), "{one}");
        };
        check("a or b and c", "a or (b and c)");
        check("not a and b", "(not a) and b");
        check("a.x==1 or a.x in (2, 3)", "(a.x == 1) or (a.x in (2,3))");
        check("a.x>-1.5", "a.x > -1.5");
        check("a.text==\"and\"", "a.text == \"a\\nd\"");
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        let check = |text: &str, says: &str| {
            let error = text.parse::<Filter>().unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        };
        check("", "at character 1: expected a component");
        check("needs.hunger", "at character 13: expected a comparison after \"needs.hunger\"");
        check("needs.hunger=3", "at character 13: \"=\" is no comparison");
        check("needs.hunger>", "at character 14: expected a value, found the end");
        check("needs>3", "\"needs\" is a component");
        check("needs..x>3", "such as needs.hunger");
        check("(a and b", "expected \")\"");
        check("a b", "at character 3: expected \"and\", \"or\" or the end, found \"b\"");
        check("a and", "found the end");
        check("a.x in 3", "expected \"(\"");
        check("a.x==\"b", "no end");
        check("a.x==b;", "unexpected \";\"");
        check(&"(".repeat(100), "at most 32 deep");
        check(&"not ".repeat(100), "at most 32 deep");
        check(&" ".repeat(5_000), "4096 bytes");
    }

    proptest! {
        /// Whatever somebody writes: an answer, or words.
        #[test]
        fn no_text_ends_in_a_panic(text in "[a-c0-9.()\"!=<>, *\\\\-]{0,40}") {
            _ = text.parse::<Filter>();
        }
    }
}
