//! What a Rediaccfile says, read from its text alone, and what becomes of its
//! functions.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::{Digest, Environment, Guid, Kin, Name, NetworkId, Record, Slots};

/// A function that a Rediaccfile may define.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Function {
    /// Before anything of the repository starts.
    Prep,
    /// Starts its project.
    Up,
    /// Stops its project.
    Down,
}

impl Function {
    /// What it is called in the file.
    pub fn name(self) -> &'static str {
        match self {
            Function::Prep => "prep",
            Function::Up => "up",
            Function::Down => "down",
        }
    }

    /// The function of that name.
    pub fn named(name: &str) -> Option<Self> {
        let all = [Function::Prep, Function::Up, Function::Down];
        all.into_iter().find(|function| function.name() == name)
    }
}

/// A call for which renet has its own command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Where the call stands in the text, in bytes.
    pub span: Range<usize>,
    /// Its line, from 1.
    pub line: usize,
    /// The call.
    pub call: &'static str,
    /// What to write instead.
    pub cure: &'static str,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: `{}`: {}", self.line, self.call, self.cure)
    }
}

/// A Rediaccfile as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rediaccfile {
    /// What it is called: `Rediaccfile`, in any case.
    pub file: String,
    /// Of its text.
    pub digest: Digest,
    /// The functions that it defines.
    pub functions: BTreeSet<Function>,
    /// The calls in it that are refused.
    pub refused: Vec<Refused>,
}

impl Rediaccfile {
    /// Whether a file of this name is one.
    pub fn is_called(name: &str) -> bool {
        name.eq_ignore_ascii_case("Rediaccfile")
    }

    /// Reads its text.
    pub fn read(file: &str, text: &str) -> Self {
        let mut reader = Reader {
            text,
            at: 0,
            functions: BTreeSet::new(),
            refused: Vec::new(),
            here: Vec::new(),
        };
        reader.commands(None);
        Self {
            file: file.to_owned(),
            digest: Digest::of(text.as_bytes()),
            functions: reader.functions,
            refused: reader.refused,
        }
    }
}

/// The functions of one Rediaccfile, and everything that they run with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Its project: the folder that it lies in, `root` for the repository's own.
    pub project: Name,
    /// What the file is called.
    pub file: String,
    /// The digest of its text.
    pub text: Digest,
    /// The functions that it defines.
    pub functions: BTreeSet<Function>,
    /// The revision: its text, the files beside it, the environment.
    pub inputs: Digest,
    /// What it finds in its environment besides what depends on the machine.
    pub environment: Environment,
}

impl Hook {
    /// A hook whose files have this digest.
    pub fn new(
        project: Name,
        read: &Rediaccfile,
        files: &Digest,
        environment: Environment,
    ) -> Self {
        let mut fields = vec![read.digest.as_str().as_bytes(), files.as_str().as_bytes()];
        for (name, value) in &environment.0 {
            fields.extend([name.as_bytes(), value.as_bytes()]);
        }
        Self {
            inputs: Digest::of_fields(fields),
            project,
            text: read.digest.clone(),
            file: read.file.clone(),
            functions: read.functions.clone(),
            environment,
        }
    }

    /// Whether it defines the function.
    pub fn defines(&self, function: Function) -> bool {
        self.functions.contains(&function)
    }
}

/// How a function of a hook ended when it was last run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookRun {
    /// With which inputs it ran.
    pub inputs: Digest,
    /// Its exit status.
    pub status: i32,
    /// The boot in which it ran.
    pub boot: String,
    /// The containers that were its own when it ended well.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub containers: BTreeSet<String>,
}

impl HookRun {
    /// Notes in a record how it ended. What went down well is forgotten.
    pub fn note(self, project: &Name, function: Function, record: &mut Record) {
        match function {
            Function::Down if self.status == 0 => drop(record.hooks.remove(project)),
            Function::Prep | Function::Up | Function::Down => {
                let runs = record.hooks.entry(project.clone()).or_default();
                if function == Function::Up {
                    runs.remove(&Function::Down);
                }
                runs.insert(function, self);
            }
        }
    }

    /// Whether these inputs failed.
    pub fn is_failure_of(&self, hook: &Hook) -> bool {
        self.status != 0 && self.inputs == hook.inputs
    }
}

/// How the functions of each project's hook ended.
pub type HookRuns = BTreeMap<Name, BTreeMap<Function, HookRun>>;

/// Says to what runs in a copy that it does: others than its parent's may answer to it,
/// and nobody is to be told twice.
pub const IS_FORK: &str = "REDIACC_IS_FORK";

/// The variables that compose files may use and hooks find: the repository, and the
/// address of every service in it.
pub fn variables(
    repository: Guid,
    network: NetworkId,
    slots: &Slots,
    kin: Kin,
) -> BTreeMap<String, String> {
    let addresses = slots.0.iter();
    let addresses =
        addresses.map(|(service, slot)| (ip_variable(service), network.address(*slot).to_string()));
    let mut variables: BTreeMap<String, String> = addresses.collect();
    variables.insert("REDIACC_NETWORK_ID".to_owned(), network.to_string());
    variables.insert("REDIACC_REPOSITORY".to_owned(), repository.to_string());
    if kin != Kin::Own {
        variables.insert(IS_FORK.to_owned(), "true".to_owned());
    }
    variables
}

/// `api-2` → `API_2_IP`.
pub fn ip_variable(service: &str) -> String {
    let upper = service.chars().map(|c| match c.is_ascii_alphanumeric() {
        true => c.to_ascii_uppercase(),
        false => '_',
    });
    let upper: String = upper.collect();
    format!("{upper}_IP")
}

/// Reads bash as far as it takes to tell commands from what they are given.
struct Reader<'a> {
    text: &'a str,
    at: usize,
    functions: BTreeSet<Function>,
    refused: Vec<Refused>,
    /// The ends of here-documents whose bodies begin on the next line.
    here: Vec<(String, bool)>,
}

/// One word of a command, without its quotes.
struct Word {
    text: String,
    start: usize,
    end: usize,
    quoted: bool,
}

/// What may stand before a command and is none.
const KEYWORDS: [&str; 13] = [
    "if", "then", "else", "elif", "fi", "do", "done", "while", "until", "{", "}", "!", "time",
];
/// Programs that run the command that they are given.
const CARRIERS: [&str; 11] = [
    "exec", "command", "builtin", "env", "nohup", "nice", "ionice", "timeout", "xargs", "setsid",
    "stdbuf",
];
/// Options of docker's own that take a value.
const DOCKER_VALUES: [&str; 8] = [
    "-H",
    "--host",
    "-c",
    "--context",
    "--config",
    "-l",
    "--log-level",
    "--tlscacert",
];
const COMPOSE: &str = "write `renet compose -- …`: it keeps the repository's rules";

impl Reader<'_> {
    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn take(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn starts(&self, with: &str) -> bool {
        self.text[self.at..].starts_with(with)
    }

    /// Commands up to the end, or up to what closes them.
    fn commands(&mut self, close: Option<char>) {
        let mut words: Vec<Word> = Vec::new();
        while let Some(c) = self.peek() {
            match c {
                '\n' => {
                    self.take();
                    self.end(&mut words);
                    self.bodies();
                }
                ' ' | '\t' | '\r' => drop(self.take()),
                '\\' if self.starts("\\\n") => self.at += 2,
                '#' => {
                    while self.peek().is_some_and(|c| c != '\n') {
                        self.take();
                    }
                }
                c if Some(c) == close => {
                    self.take();
                    break;
                }
                '(' => {
                    self.take();
                    // `up()` defines a function.
                    let rest = self.text[self.at..].trim_start_matches([' ', '\t']);
                    if words.len() == 1 && rest.starts_with(')') {
                        self.at = self.text.len() - rest.len() + 1;
                        self.define(&words[0].text);
                        words.clear();
                        continue;
                    }
                    self.end(&mut words);
                    self.commands(Some(')'));
                }
                ')' | ';' | '&' | '|' => {
                    self.take();
                    self.end(&mut words);
                }
                '<' | '>' => self.redirection(),
                _ => {
                    let word = self.word(close);
                    if words.len() == 1 && words[0].text == "function" {
                        self.define(&word.text);
                        words.clear();
                        let rest = self.text[self.at..].trim_start_matches([' ', '\t']);
                        if let Some(rest) = rest.strip_prefix('(') {
                            let rest = rest.trim_start_matches([' ', '\t', ')']);
                            self.at = self.text.len() - rest.len();
                        }
                        continue;
                    }
                    words.push(word);
                }
            }
        }
        self.end(&mut words);
    }

    fn define(&mut self, name: &str) {
        self.functions.extend(Function::named(name));
    }

    fn redirection(&mut self) {
        if self.starts("<<<") {
            self.at += 3;
        } else if self.starts("<<") {
            self.at += 2;
            let tabs = self.starts("-");
            self.at += usize::from(tabs);
            while self.peek().is_some_and(|c| c == ' ' || c == '\t') {
                self.take();
            }
            let end = self.word(None).text;
            self.here.push((end, tabs));
        } else if self.starts("<(") || self.starts(">(") {
            self.at += 2;
            self.commands(Some(')'));
        } else {
            self.take();
            while self.peek().is_some_and(|c| "<>&|".contains(c)) {
                self.take();
            }
        }
    }

    /// Passes over the bodies of here-documents: they are data.
    fn bodies(&mut self) {
        for (end, tabs) in std::mem::take(&mut self.here) {
            while self.at < self.text.len() {
                let rest = &self.text[self.at..];
                let line = rest.split('\n').next().unwrap_or_default();
                self.at = (self.at + line.len() + 1).min(self.text.len());
                let line = line.trim_end_matches('\r');
                let line = if tabs {
                    line.trim_start_matches('\t')
                } else {
                    line
                };
                if line == end {
                    break;
                }
            }
        }
    }

    fn word(&mut self, close: Option<char>) -> Word {
        let mut word = Word {
            text: String::new(),
            start: self.at,
            end: self.at,
            quoted: false,
        };
        while let Some(c) = self.peek() {
            match c {
                c if c.is_whitespace() || ";&|<>()".contains(c) || Some(c) == close => break,
                '\'' => {
                    word.quoted = true;
                    self.take();
                    while let Some(c) = self.take().filter(|c| *c != '\'') {
                        word.text.push(c);
                    }
                }
                '"' => {
                    word.quoted = true;
                    self.take();
                    self.double(&mut word);
                }
                '\\' => {
                    self.take();
                    match self.take() {
                        Some('\n') | None => {}
                        Some(c) => word.text.push(c),
                    }
                }
                '$' | '`' => self.expansion(&mut word),
                _ => word.text.extend(self.take()),
            }
        }
        word.end = self.at;
        if word.end == word.start {
            // Nothing that begins a word: never stand still.
            self.take();
            word.end = self.at;
        }
        word
    }

    /// Inside of double quotes only expansions are more than text.
    fn double(&mut self, word: &mut Word) {
        while let Some(c) = self.peek() {
            match c {
                '"' => {
                    self.take();
                    return;
                }
                '\\' => {
                    self.take();
                    word.text.extend(self.take());
                }
                '$' | '`' => self.expansion(word),
                _ => word.text.extend(self.take()),
            }
        }
    }

    fn expansion(&mut self, word: &mut Word) {
        if self.starts("$((") {
            self.at += 3;
            let rest = &self.text[self.at..];
            self.at += rest.find("))").map_or(rest.len(), |end| end + 2);
        } else if self.starts("$(") {
            self.at += 2;
            self.commands(Some(')'));
        } else if self.starts("${") {
            while let Some(c) = self.take() {
                word.text.push(c);
                if c == '}' {
                    break;
                }
            }
            return;
        } else if self.starts("`") {
            self.at += 1;
            self.commands(Some('`'));
        } else {
            word.text.extend(self.take());
            return;
        }
        word.text.push_str("$()");
    }

    /// A command is whole: is it one that is refused?
    fn end(&mut self, words: &mut Vec<Word>) {
        let words = std::mem::take(words);
        let is_setting = |word: &Word| {
            word.text.split_once('=').is_some_and(|(name, _)| {
                !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            })
        };
        let mut at = 0;
        let mut sudo = false;
        let mut keeps = false;
        while let Some(word) = words.get(at) {
            let program = word.text.rsplit('/').next().unwrap_or_default();
            let is_keyword = !word.quoted && KEYWORDS.contains(&word.text.as_str());
            if is_keyword || is_setting(word) {
                at += 1;
            } else if CARRIERS.contains(&program) {
                at += 1;
                let passes = |word: &Word| {
                    let first = word.text.chars().next();
                    is_setting(word) || first.is_some_and(|c| c == '-' || c.is_ascii_digit())
                };
                while words.get(at).is_some_and(passes) {
                    at += 1;
                }
            } else if program == "sudo" {
                (sudo, keeps) = (true, false);
                at += 1;
                while let Some(option) = words.get(at) {
                    let text = option.text.as_str();
                    if !text.starts_with('-') && !is_setting(option) {
                        break;
                    }
                    let short = text.starts_with('-') && !text.starts_with("--");
                    keeps |= short && text.contains('E') || text.starts_with("--preserve-env");
                    at += 1;
                    // These are followed by a value.
                    at += usize::from(["-u", "-g", "-h", "-p", "-C"].contains(&text));
                    if text == "--" {
                        break;
                    }
                }
            } else {
                break;
            }
        }
        let Some(word) = words.get(at) else { return };
        let program = word.text.rsplit('/').next().unwrap_or_default();
        let given = &words[at + 1..];
        match program {
            "docker-compose" => self.refuse(&words[at], word, "docker-compose", COMPOSE),
            "docker" => {
                let mut given = given.iter();
                let verb = loop {
                    match given.next() {
                        Some(one) if DOCKER_VALUES.contains(&one.text.as_str()) => {
                            given.next();
                        }
                        Some(one) if one.text.starts_with('-') => {}
                        other => break other,
                    }
                };
                if let Some(verb) = verb.filter(|verb| verb.text == "compose") {
                    self.refuse(word, verb, "docker compose", COMPOSE);
                } else if sudo && !keeps {
                    let cure = "write `docker`, or `sudo -E docker`: sudo drops DOCKER_HOST, and \
                                another daemon would be asked";
                    self.refuse(&words[0], word, "sudo docker", cure);
                }
            }
            // What they are given is a script.
            "eval" | "bash" | "sh" => {
                let script = given.iter().filter(|word| program == "eval" || word.quoted);
                let script: Vec<&str> = script.map(|word| word.text.as_str()).collect();
                let inner = Rediaccfile::read("", &script.join(" "));
                for one in inner.refused {
                    let last = given.last().unwrap_or(word);
                    self.refuse(word, last, one.call, one.cure);
                }
            }
            _ => {}
        }
    }

    fn refuse(&mut self, from: &Word, to: &Word, call: &'static str, cure: &'static str) {
        self.refused.push(Refused {
            span: from.start..to.end,
            line: self.text[..from.start].matches('\n').count() + 1,
            call,
            cure,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> Vec<(usize, &'static str)> {
        let read = Rediaccfile::read("Rediaccfile", text);
        let refused = read.refused.iter();
        refused.map(|one| (one.line, one.call)).collect()
    }

    fn functions(text: &str) -> String {
        let read = Rediaccfile::read("Rediaccfile", text);
        let names: Vec<&str> = read.functions.iter().map(|one| one.name()).collect();
        names.join(" ")
    }

    #[test]
    fn functions_are_found_however_they_are_written() {
        assert_eq!(functions("up() { :; }\ndown () {\n :\n}\n"), "up down");
        assert_eq!(
            functions("function up { :; }\nfunction prep() { :; }"),
            "prep up"
        );
        assert_eq!(functions("startup() { :; }\n# up() {\necho 'up() {'\n"), "");
        assert_eq!(functions("cat <<END\nup() {\nEND\ndown() { :; }"), "down");
    }

    #[test]
    fn calls_that_pass_by_renet_are_refused_wherever_they_are_run() {
        for (text, call) in [
            ("docker compose up -d", "docker compose"),
            ("docker-compose up", "docker-compose"),
            ("  /usr/bin/docker --host x compose ps", "docker compose"),
            ("if ! docker compose ps; then :; fi", "docker compose"),
            ("true && docker \\\n compose up", "docker compose"),
            ("x=$(docker compose ps -q)", "docker compose"),
            ("echo \"is $(docker compose ps)\"", "docker compose"),
            ("echo `docker-compose ps`", "docker-compose"),
            ("A=1 exec docker compose up", "docker compose"),
            ("timeout 30 docker compose up", "docker compose"),
            ("(cd x; docker compose up)", "docker compose"),
            ("bash -c 'docker compose up'", "docker compose"),
            ("eval docker compose up", "docker compose"),
            ("sudo docker ps", "sudo docker"),
            ("sudo -u bob docker ps", "sudo docker"),
            ("sudo -E docker compose up", "docker compose"),
            ("up() { docker compose up; }", "docker compose"),
            ("case $1 in a) docker compose up;; esac", "docker compose"),
        ] {
            let found = refused(text);
            assert_eq!(found.len(), 1, "{text}: {found:?}");
            assert_eq!(found[0].1, call, "{text}");
        }
        let text = "up() {\n  docker compose up\n  sudo docker ps\n}\n";
        assert_eq!(refused(text), [(2, "docker compose"), (3, "sudo docker")]);
    }

    #[test]
    fn what_is_not_run_is_not_refused() {
        for text in [
            "# docker compose up",
            "true # docker compose up",
            "echo docker compose up",
            "echo \"run docker compose up; docker-compose\"",
            "echo 'sudo docker ps'",
            "renet compose -- up -d",
            "renet docker -- compose",
            "docker run --rm image compose",
            "sudo -E docker ps",
            "sudo --preserve-env docker ps",
            "sudo systemctl status docker",
            "cat <<END\ndocker compose up\nEND\n",
            "cat > docker-compose",
            "docker_compose=1",
            "x=${y:-docker compose}",
            "n=$((1 + 2))",
        ] {
            assert!(refused(text).is_empty(), "{text}: {:?}", refused(text));
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_stand_still(text in "[a-z \n'\"$(){}`;&|<>#\\\\-]{0,200}") {
            Rediaccfile::read("Rediaccfile", &text);
        }
    }
}
