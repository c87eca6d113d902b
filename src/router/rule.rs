//! Traefik's rules: read far enough to know which hosts one can match.

use std::collections::BTreeSet;

use super::{MOST_TEXT, shorten};

/// For what a rule is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    /// Requests.
    Http,
    /// Connections.
    Tcp,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// A matcher and what it is given; its name in lower case.
    Match(String, Vec<String>),
    /// All of them.
    And(Box<Rule>, Box<Rule>),
    /// Any of them.
    Or(Box<Rule>, Box<Rule>),
    /// Everything else.
    Not(Box<Rule>),
}

/// By its name, with how many arguments it may have.
const HTTP: [(&str, usize, usize); 11] = [
    ("host", 1, 1),
    ("hostregexp", 1, 1),
    ("path", 1, 1),
    ("pathprefix", 1, 1),
    ("pathregexp", 1, 1),
    ("method", 1, 1),
    ("clientip", 1, 1),
    ("header", 2, 2),
    ("headerregexp", 2, 2),
    ("query", 1, 2),
    ("queryregexp", 1, 2),
];
const TCP: [(&str, usize, usize); 4] = [
    ("hostsni", 1, 1),
    ("hostsniregexp", 1, 1),
    ("clientip", 1, 1),
    ("alpn", 1, 1),
];

/// Nobody writes a deeper one by hand.
const DEEPEST: usize = 32;

impl Rule {
    /// Reads a rule.
    pub(super) fn parse(text: &str, of: Of) -> Result<Rule, String> {
        if text.len() > MOST_TEXT {
            return Err(format!(
                "its rule has {} bytes, and may have {MOST_TEXT}",
                text.len()
            ));
        }
        let mut reader = Reader { rest: text, of };
        let rule = reader.any(0)?;
        match reader.rest.trim_start() {
            "" => Ok(rule),
            rest => Err(format!("its rule cannot be read at `{}`", shorten(rest))),
        }
    }

    /// The hosts outside of which it matches nothing, in lower case; `None` where it
    /// may match any.
    pub(super) fn hosts(&self) -> Option<BTreeSet<String>> {
        match self {
            Rule::Match(name, given)
                if name == "host" || (name == "hostsni" && given[0] != "*") =>
            {
                Some(BTreeSet::from([plain(&given[0])]))
            }
            Rule::Match(..) | Rule::Not(_) => None,
            Rule::And(one, other) => match (one.hosts(), other.hosts()) {
                (Some(one), Some(other)) if one.len() > other.len() => Some(other),
                (Some(one), _) => Some(one),
                (None, other) => other,
            },
            Rule::Or(one, other) => {
                let mut hosts = one.hosts()?;
                hosts.extend(other.hosts()?);
                Some(hosts)
            }
        }
    }
}

/// A host as it is compared.
fn plain(host: &str) -> String {
    host.trim_end_matches('.').to_ascii_lowercase()
}

struct Reader<'a> {
    rest: &'a str,
    of: Of,
}

impl Reader<'_> {
    fn takes(&mut self, word: &str) -> bool {
        match self.rest.trim_start().strip_prefix(word) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn any(&mut self, depth: usize) -> Result<Rule, String> {
        let mut rule = self.all(depth)?;
        while self.takes("||") {
            rule = Rule::Or(Box::new(rule), Box::new(self.all(depth)?));
        }
        Ok(rule)
    }

    fn all(&mut self, depth: usize) -> Result<Rule, String> {
        let mut rule = self.one(depth)?;
        while self.takes("&&") {
            rule = Rule::And(Box::new(rule), Box::new(self.one(depth)?));
        }
        Ok(rule)
    }

    fn one(&mut self, depth: usize) -> Result<Rule, String> {
        if depth > DEEPEST {
            return Err("its rule is nested too deeply".to_owned());
        }
        if self.takes("!") {
            return Ok(Rule::Not(Box::new(self.one(depth + 1)?)));
        }
        if self.takes("(") {
            let rule = self.any(depth + 1)?;
            return match self.takes(")") {
                true => Ok(rule),
                false => Err("its rule lacks a `)`".to_owned()),
            };
        }
        self.matcher()
    }

    fn matcher(&mut self) -> Result<Rule, String> {
        let text = self.rest.trim_start();
        let end = text.find(|c: char| !c.is_ascii_alphanumeric());
        let (name, rest) = text.split_at(end.unwrap_or(text.len()));
        let known = match self.of {
            Of::Http => &HTTP[..],
            Of::Tcp => &TCP[..],
        };
        let lower = name.to_ascii_lowercase();
        let Some((_, least, most)) = known.iter().find(|(known, ..)| *known == lower) else {
            return Err(format!(
                "its rule cannot be read at `{}`: there is no such matcher",
                shorten(text)
            ));
        };
        self.rest = rest;
        if !self.takes("(") {
            return Err(format!("`{name}` in its rule lacks a `(`"));
        }
        let mut given = vec![self.text()?];
        while self.takes(",") {
            given.push(self.text()?);
        }
        if !self.takes(")") {
            return Err(format!("`{name}` in its rule lacks a `)`"));
        }
        if !(*least..=*most).contains(&given.len()) {
            return Err(format!(
                "`{name}` in its rule has {} values; several are written `{name}(…) || {name}(…)`",
                given.len()
            ));
        }
        self.check(&lower, &given)?;
        Ok(Rule::Match(lower, given))
    }

    fn check(&self, name: &str, given: &[String]) -> Result<(), String> {
        let first = &given[0];
        match name {
            "hostsni" if first == "*" => Ok(()),
            "host" | "hostsni" => {
                let odd = |c: char| !c.is_ascii_alphanumeric() && !"-_.".contains(c);
                match plain(first) {
                    host if host.is_empty() || host.contains(odd) => {
                        Err(format!("`{}` in its rule is no host name", shorten(first)))
                    }
                    _ => Ok(()),
                }
            }
            "path" | "pathprefix" if !first.starts_with('/') => Err(format!(
                "the path `{}` in its rule does not begin with `/`",
                shorten(first)
            )),
            _ => Ok(()),
        }
    }

    fn text(&mut self) -> Result<String, String> {
        let text = self.rest.trim_start();
        if let Some(inner) = text.strip_prefix('`') {
            let (inner, rest) = inner
                .split_once('`')
                .ok_or("a back-tick in its rule is not closed")?;
            self.rest = rest;
            return Ok(inner.to_owned());
        }
        let Some(inner) = text.strip_prefix('"') else {
            return Err(format!(
                "its rule lacks a text in back-ticks at `{}`",
                shorten(text)
            ));
        };
        let mut read = String::new();
        let mut chars = inner.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.rest = &inner[at + 1..];
                    return Ok(read);
                }
                '\\' => match chars.next() {
                    Some((_, c @ ('\\' | '"'))) => read.push(c),
                    _ => return Err("its rule has an escape; write back-ticks".to_owned()),
                },
                c => read.push(c),
            }
        }
        Err("a quote in its rule is not closed".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(rule: &str) -> Option<Vec<String>> {
        let rule = Rule::parse(rule, Of::Http).unwrap();
        rule.hosts().map(|hosts| hosts.into_iter().collect())
    }

    #[test]
    fn the_hosts_of_a_rule_are_those_it_cannot_leave() {
        let one = |host: &str| Some(vec![host.to_owned()]);
        assert_eq!(hosts("Host(`A.example.com`)"), one("a.example.com"));
        assert_eq!(hosts("host(\"a.example.com.\")"), one("a.example.com"));
        assert_eq!(hosts("Host(`a`) && PathPrefix(`/x`)"), one("a"));
        assert_eq!(hosts("PathPrefix(`/x`) && Host(`a`)"), one("a"));
        assert_eq!(hosts("Host(`a`) && (Host(`b`) || Path(`/`))"), one("a"));
        assert_eq!(
            hosts("Host(`a`) || Host(`b`)"),
            Some(vec!["a".into(), "b".into()])
        );
        for any in [
            "PathPrefix(`/`)",
            "HostRegexp(`.*`)",
            "!Host(`a`)",
            "Host(`a`) || Path(`/`)",
            "!(Host(`a`) && Path(`/`))",
            "Header(`Host`, `a`)",
        ] {
            assert_eq!(hosts(any), None, "{any}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for wrong in [
            "",
            "Host",
            "Host(",
            "Host()",
            "Host(`a`",
            "Host(`a)",
            "Host(`a`, `b`)",
            "Host(a)",
            "Host(`a b`)",
            "Host(`*`)",
            "Host(``)",
            "Path(`x`)",
            "Hots(`a`)",
            "Host(`a`) Host(`b`)",
            "Host(`a`) &&",
            "Host(`a`) & Host(`b`)",
            "HostSNI(`a`)",
            "Host(\"a\\n\")",
        ] {
            assert!(Rule::parse(wrong, Of::Http).is_err(), "{wrong}");
        }
        let deep = format!("{}Host(`a`){}", "(".repeat(500), ")".repeat(500));
        assert!(Rule::parse(&deep, Of::Http).is_err());
        assert!(Rule::parse(&"!".repeat(2000), Of::Http).is_err());
    }
}
