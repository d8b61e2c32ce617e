//! Bearer tokens: who may use which routes of the HTTP API.
//!
//! A token is 256 random bits, shown once. The file holds their SHA-256, one JSON object on each line, and is nobody
//! else's to read (mode 0600); the environment variable `EVERWORLD_TOKENS` holds tokens themselves, as
//! `admin=ew_...,viewer=ew_...`. Without any token only this machine is answered, see `http.bind`.

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::{
    fmt::{self, Write as _},
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
    str::FromStr,
};
use subtle::ConstantTimeEq as _;

/// The variable with tokens.
pub const ENVIRONMENT: &str = "EVERWORLD_TOKENS";
const PREFIX: &str = "ew_";

/// Who may use a route. Each role may what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Anyone.
    Open,
    /// Who may look.
    Viewer,
    /// Who may change worlds.
    Operator,
    /// Who may undo what others did, and copy everything.
    Admin,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        })
    }
}

impl FromStr for Role {
    type Err = String;

    /// A role that a token can have.
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "viewer" => Ok(Self::Viewer),
            "operator" => Ok(Self::Operator),
            "admin" => Ok(Self::Admin),
            _ => Err(format!("\"{text}\" is no role; there are viewer, operator and admin")),
        }
    }
}

/// A token as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Who has it: the principal in the input log.
    pub name: String,
    /// What it allows.
    pub role: Role,
    sha256: [u8; 32],
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    name: String,
    role: Role,
    sha256: String,
}

/// All tokens.
#[derive(Clone, Debug, Default)]
pub struct Tokens(Vec<Token>);

impl Tokens {
    /// Those of a file, if it is there, and of the environment.
    ///
    /// # Errors
    /// When the file is for others to read, or something in it or in the environment is not as it should be.
    pub fn load(file: &Path, environment: Option<&str>) -> anyhow::Result<Self> {
        let mut tokens = Self::default();
        for part in environment.into_iter().flat_map(|text| text.split(',')).filter(|part| !part.is_empty()) {
            let (role, token) =
                part.split_once('=').context("EVERWORLD_TOKENS: expected role=token, separated by commas")?;
            let role: Role =
                role.trim().parse().map_err(|error| anyhow::anyhow!("EVERWORLD_TOKENS: {error}"))?;
            ensure!(
                token.trim().len() >= 32,
                "EVERWORLD_TOKENS: the token of role {role} has less than 32 characters"
            );
            tokens.0.push(Token { name: format!("environment-{role}"), role, sha256: sha256(token.trim()) });
        }
        if !file.try_exists().with_context(|| format!("could not look for \"{}\"", file.display()))? {
            return Ok(tokens);
        }
        let about = || format!("the token file \"{}\"", file.display());
        let mode = fs::metadata(file).with_context(about)?.permissions().mode();
        ensure!(
            mode.trailing_zeros() >= 6,
            "{} can be read by others (mode {:o}): chmod 600 it",
            about(),
            mode & 0o777
        );
        let text = fs::read_to_string(file).with_context(about)?;
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let token = Token::parse(line).with_context(|| format!("{}, line {}", about(), number + 1))?;
            ensure!(tokens.named(&token.name).is_none(), "{}: \"{}\" is there twice", about(), token.name);
            tokens.0.push(token);
        }
        Ok(tokens)
    }

    /// Whether there is none: then nobody needs one.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Token> {
        self.0.iter()
    }

    fn named(&self, name: &str) -> Option<&Token> {
        self.0.iter().find(|token| token.name == name)
    }

    /// The token that was given, if it is one. Takes as long for any other.
    pub fn find(&self, given: &str) -> Option<&Token> {
        let given = sha256(given);
        self.0.iter().fold(
            None,
            |found, token| if bool::from(token.sha256.ct_eq(&given)) { Some(token) } else { found },
        )
    }

    /// Adds a token to a file, which is made if need be; returns the token, which is kept nowhere.
    ///
    /// # Errors
    /// When there is one of that name, or the file cannot be written.
    pub fn create(file: &Path, name: &str, role: Role) -> anyhow::Result<String> {
        let is_name = !name.is_empty()
            && name.len() <= 64
            && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
        ensure!(is_name, "\"{name}\" is no name: 1 to 64 letters, digits, dots, dashes and underscores");
        let known = Self::load(file, None)?;
        ensure!(known.named(name).is_none(), "there is a token \"{name}\" already; revoke it first");
        let mut bits = [0u8; 32];
        getrandom::fill(&mut bits)
            .map_err(|error| anyhow::anyhow!("no random numbers from the system: {error}"))?;
        let token = format!("{PREFIX}{}", hex(&bits));
        let line = Line { name: name.to_owned(), role, sha256: hex(&sha256(&token)) };
        let about = || format!("could not write the token file \"{}\"", file.display());
        let mut out =
            OpenOptions::new().create(true).append(true).mode(0o600).open(file).with_context(about)?;
        let mut line = serde_json::to_string(&line)?;
        line.push('\n');
        out.write_all(line.as_bytes()).and_then(|()| out.sync_all()).with_context(about)?;
        Ok(token)
    }

    /// Takes a token out of a file.
    ///
    /// # Errors
    /// When there is none of that name, or the file cannot be written.
    pub fn revoke(file: &Path, name: &str) -> anyhow::Result<()> {
        let known = Self::load(file, None)?;
        if known.named(name).is_none() {
            let names: Vec<&str> = known.iter().map(|token| token.name.as_str()).collect();
            bail!("there is no token \"{name}\"; there are: {}", names.join(", "));
        }
        let about = || format!("could not write the token file \"{}\"", file.display());
        let left: Vec<String> = fs::read_to_string(file)
            .with_context(about)?
            .lines()
            .filter(|line| Token::parse(line).is_ok_and(|token| token.name != name))
            .map(|line| format!("{line}\n"))
            .collect();
        // The whole file or the old one: a crash must not let a token back in, nor shut all out.
        let new = file.with_extension("new");
        let mut out = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)
            .with_context(about)?;
        out.write_all(left.concat().as_bytes()).and_then(|()| out.sync_all()).with_context(about)?;
        fs::rename(&new, file).with_context(about)?;
        let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::File::open(parent).and_then(|parent| parent.sync_all()).with_context(about)
    }
}

impl Token {
    fn parse(line: &str) -> anyhow::Result<Self> {
        let Line { name, role, sha256 } = serde_json::from_str(line)?;
        ensure!(role != Role::Open, "\"open\" is no role of a token");
        let bytes: Option<Vec<u8>> =
            (0..32).map(|i| u8::from_str_radix(sha256.get(2 * i..2 * i + 2)?, 16).ok()).collect();
        let bytes = bytes.filter(|_| sha256.len() == 64).and_then(|bytes| bytes.try_into().ok());
        Ok(Self { name, role, sha256: bytes.context("sha256: expected 64 hex digits")? })
    }
}

fn sha256(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

/// Two digits for each byte.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Into a string it cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_found_by_themselves_only() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tokens");
        let token = Tokens::create(&file, "ops", Role::Operator).unwrap();
        let other = Tokens::create(&file, "page", Role::Viewer).unwrap();
        assert!(Tokens::create(&file, "ops", Role::Admin).is_err());
        assert!(Tokens::create(&file, "a b", Role::Admin).is_err());
        let text = fs::read_to_string(&file).unwrap();
        assert!(!text.contains(&token[PREFIX.len()..]), "the file does not have it");
        let admin = "x".repeat(32);
        let tokens = Tokens::load(&file, Some(&format!("admin={admin}"))).unwrap();
        let role = |text: &str| tokens.find(text).map(|token| (token.name.as_str(), token.role));
        assert_eq!(role(&token), Some(("ops", Role::Operator)));
        assert_eq!(role(&other), Some(("page", Role::Viewer)));
        assert_eq!(role(&admin), Some(("environment-admin", Role::Admin)));
        assert_eq!(role(&token[..60]), None);
        assert_eq!(role(""), None);
        Tokens::revoke(&file, "ops").unwrap();
        assert!(Tokens::revoke(&file, "ops").is_err());
        let left = Tokens::load(&file, None).unwrap();
        assert!(left.find(&token).is_none() && left.find(&other).is_some());
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn careless_files_are_refused_with_their_place() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tokens");
        let check = |text: &str, mode: u32, says: &str| {
            fs::write(&file, text).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            let error = format!("{:#}", Tokens::load(&file, None).unwrap_err());
            assert!(error.contains(says), "{error}");
        };
        let line = format!(r#"{{"name":"a","role":"viewer","sha256":"{}"}}"#, "0".repeat(64));
        check(&line, 0o644, "can be read by others (mode 644)");
        check(&format!("{line}\n{line}\n"), 0o600, "\"a\" is there twice");
        check(&format!("{line}\n{{\n"), 0o600, "line 2");
        check(&line.replace("viewer", "open"), 0o600, "no role of a token");
        check(&line.replace("000", "xyz"), 0o600, "64 hex digits");
        assert!(Tokens::load(&file, Some("root=abc")).unwrap_err().to_string().contains("no role"));
        assert!(Tokens::load(&file, Some("admin=short")).unwrap_err().to_string().contains("32 characters"));
    }
}
