//! Every case in `corpus/` is a folder with a mistake, and what `renet validate` says
//! about it. `CORPUS=write cargo nextest run corpus` writes that down anew.
//!
//! A case begins with a sentence. `-- PATH --` begins a file; `(link to PATH)`, `(fifo)`
//! and `(escapes)`, where `\e` and its like are read as in Rust, may stand behind its
//! path. `-- renet validate --` begins what is printed.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// No output may hold this. A case that plants it shows that none does.
const CANARY: &str = "hunter2";
const PRINTED: &str = "-- renet validate --\n";

struct Case {
    path: PathBuf,
    text: String,
}

impl Case {
    /// What is made of it: all but the output.
    fn input(&self) -> &str {
        let end = self.text.find(PRINTED).unwrap_or(self.text.len());
        &self.text[..end]
    }

    fn printed(&self) -> &str {
        self.text.split_once(PRINTED).map_or("", |(_, text)| text)
    }

    fn name(&self) -> String {
        let here = corpus();
        self.path.strip_prefix(&here).unwrap().display().to_string()
    }

    fn lay_out(&self, dir: &Path) {
        fs::create_dir(dir.join("desired")).unwrap();
        let mut rest = self.input();
        while let Some(start) = rest.find("-- ") {
            let (header, body) = rest[start..].split_once('\n').unwrap();
            let end = body.find("\n-- ").map_or(body.len(), |at| at + 1);
            lay(dir, header, &body[..end]);
            rest = &body[end..];
        }
    }
}

fn lay(dir: &Path, header: &str, body: &str) {
    let header = header.trim_start_matches("-- ").trim_end_matches(" --");
    let (path, how) = match header.split_once(" (") {
        Some((path, how)) => (path, how.trim_end_matches(')')),
        None => (header, ""),
    };
    let path = dir.join("desired").join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    match how {
        "" => fs::write(path, body).unwrap(),
        "fifo" => nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap(),
        "escapes" => fs::write(path, unescape(body)).unwrap(),
        _ => symlink(how.strip_prefix("link to ").unwrap(), path).unwrap(),
    }
}

/// `\e`, `\r`, `\xff` (a byte) and `\u{202e}`.
fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        out.extend(before.bytes());
        let hex = |digits: &str| u32::from_str_radix(digits, 16).unwrap();
        let used = match after.chars().next().unwrap() {
            'e' => {
                out.push(0x1b);
                1
            }
            'r' => {
                out.push(b'\r');
                1
            }
            'x' => {
                out.push(u8::try_from(hex(&after[1..3])).unwrap());
                3
            }
            'u' => {
                let end = after.find('}').unwrap();
                let c = char::from_u32(hex(&after[2..end])).unwrap();
                out.extend(c.to_string().bytes());
                end + 1
            }
            _ => {
                out.push(b'\\');
                0
            }
        };
        rest = &after[used..];
    }
    out.extend(rest.bytes());
    out
}

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/corpus")
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for theme in fs::read_dir(corpus()).unwrap() {
        for file in fs::read_dir(theme.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            let text = fs::read_to_string(&path).unwrap();
            cases.push(Case { path, text });
        }
    }
    cases.sort_by(|a, b| a.path.cmp(&b.path));
    cases
}

fn validate(dir: &Path, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_renet"))
        .args(["validate", "-f", "desired"])
        .args(more)
        .current_dir(dir)
        .env_clear()
        .output()
        .unwrap()
}

/// Whether a character may stand in what people read.
fn is_plain(c: char) -> bool {
    let reorders = matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}');
    c == '\n' || !(c.is_control() || reorders)
}

#[test]
fn every_mistake_is_drawn_with_its_place_and_cure() {
    let mut wrong = String::new();
    let cases = cases();
    for case in &cases {
        let name = case.name();
        let dir = tempfile::tempdir().unwrap();
        case.lay_out(dir.path());
        let output = validate(dir.path(), &[]);
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        if std::env::var_os("CORPUS").is_some_and(|how| how == "write") {
            fs::write(&case.path, format!("{}{PRINTED}{text}", case.input())).unwrap();
        } else if text != case.printed() {
            let diff = similar::TextDiff::from_lines(case.printed(), &text);
            let _ = writeln!(wrong, "{name}:\n{}", diff.unified_diff());
        }
        assert_eq!(output.status.code(), Some(2), "{name}: {text}");
        assert!(text.chars().all(is_plain), "{name}: {text:?}");
        assert!(!text.contains(CANARY), "{name}: {text}");
        for line in text.lines().filter(|line| line.chars().count() > 80) {
            // Only what cannot be broken may be longer: a path, or one word of it.
            assert!(
                line.contains("-->") || line.split_whitespace().any(|word| word.len() > 60),
                "{name}: {line}"
            );
        }
        programs_read_the_same(&name, dir.path(), &text);
    }
    assert!(cases.len() >= 120, "only {} cases", cases.len());
    assert!(wrong.is_empty(), "{wrong}");
}

/// `-o json` lists what the text draws.
fn programs_read_the_same(name: &str, dir: &Path, text: &str) {
    let output = validate(dir, &["-o", "json"]);
    assert_eq!(output.status.code(), Some(2), "{name}");
    assert!(output.stderr.is_empty(), "{name}");
    let json = String::from_utf8(output.stdout).unwrap();
    assert!(
        json.chars().all(is_plain) && !json.contains(CANARY),
        "{name}: {json}"
    );
    let value: Value = serde_json::from_str(&json).unwrap();
    let problems = value["problems"].as_array().unwrap();
    assert_eq!(value["valid"], false, "{name}");
    assert_eq!(value["errors"], problems.len(), "{name}");
    assert_eq!(text.matches("error: ").count(), problems.len(), "{name}");
    for problem in problems {
        let number = |field: &str| problem[field].as_u64().unwrap();
        let word = |field: &str| problem[field].as_str().unwrap();
        assert!(
            !word("message").is_empty() && !word("cure").is_empty(),
            "{name}: {problem}"
        );
        assert!(
            number("line") > 0 && number("column") > 0,
            "{name}: {problem}"
        );
        let at = format!(
            "--> {}:{}:{}",
            word("file"),
            number("line"),
            number("column")
        );
        let whole = format!("--> {}\n", word("file"));
        assert!(
            text.contains(&at) || text.contains(&whole),
            "{name}: {problem}"
        );
    }
}
