//! Options of compose's own commands that reach beyond a repository: what a file may
//! not say, the command line may not either.

use std::ffi::OsString;

use super::Failure;
use super::passthrough::{Known, Options};

/// Of `run`.
const RUN: [Known; 27] = [
    ("build", None, false),
    ("cap-add", None, true),
    ("cap-drop", None, true),
    ("detach", Some('d'), false),
    ("entrypoint", None, true),
    ("env", Some('e'), true),
    ("env-from-file", None, true),
    ("help", Some('h'), false),
    ("interactive", Some('i'), false),
    ("label", Some('l'), true),
    ("name", None, true),
    ("no-TTY", Some('T'), false),
    ("no-deps", None, false),
    ("no-tty", None, false),
    ("publish", Some('p'), true),
    ("pull", None, true),
    ("quiet", Some('q'), false),
    ("quiet-build", None, false),
    ("quiet-pull", None, false),
    ("remove-orphans", None, false),
    ("rm", None, false),
    ("service-ports", Some('P'), false),
    ("tty", Some('t'), false),
    ("use-aliases", None, false),
    ("user", Some('u'), true),
    ("volume", Some('v'), true),
    ("workdir", Some('w'), true),
];
/// Of `exec`.
const EXEC: [Known; 11] = [
    ("detach", Some('d'), false),
    ("env", Some('e'), true),
    ("help", Some('h'), false),
    ("index", None, true),
    ("interactive", Some('i'), false),
    ("no-TTY", Some('T'), false),
    ("no-tty", None, false),
    ("privileged", None, false),
    ("tty", Some('t'), false),
    ("user", Some('u'), true),
    ("workdir", Some('w'), true),
];

/// Refuses a command whose options reach beyond the repository.
///
/// # Errors
///
/// The option, why, and what to do about it.
pub fn judge(command: &[OsString]) -> Result<(), Failure> {
    let Some((name, rest)) = command.split_first() else {
        return Ok(());
    };
    match name.to_str().unwrap_or_default() {
        "run" => options(rest, &RUN, &["cap-add", "volume"]),
        "exec" => options(rest, &EXEC, &["privileged"]),
        "up" | "create" => scales(rest, "--scale"),
        "scale" => several(rest.iter()),
        _ => Ok(()),
    }
}

fn options(rest: &[OsString], known: &[Known], beyond: &[&str]) -> Result<(), Failure> {
    let given = Options::parse(rest, known)?;
    match beyond.iter().find(|one| given.has(one)) {
        None => Ok(()),
        Some(one) => Err(refused(&format!(
            "`--{one}` reaches beyond the repository: say it in the compose file, where it is \
             judged"
        ))),
    }
}

/// The counts that an option gives, wherever it stands.
fn scales(rest: &[OsString], option: &str) -> Result<(), Failure> {
    let after = rest.windows(2).filter(|pair| pair[0] == option);
    several(after.map(|pair| &pair[1]))?;
    let joined = rest.iter().filter_map(|arg| {
        let value = arg.to_str()?.strip_prefix(option)?.strip_prefix('=')?;
        Some(OsString::from(value))
    });
    several(joined.collect::<Vec<_>>().iter())
}

/// `web=3`
fn several<'a>(mut counts: impl Iterator<Item = &'a OsString>) -> Result<(), Failure> {
    let many = |said: &&OsString| {
        let (_, count) = said.to_str().and_then(|said| said.split_once('='))?;
        count.parse::<u64>().ok().filter(|count| *count > 1)
    };
    match counts.find(|said| many(said).is_some()) {
        None => Ok(()),
        Some(said) => Err(refused(&format!(
            "`{}`: one address serves one container: define a service for each",
            said.to_string_lossy()
        ))),
    }
}

fn refused(why: &str) -> Failure {
    Failure {
        code: 3,
        message: format!(
            "{why}\nwhoever takes that upon himself runs `renet compose --unsafe -- …`"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(line: &str) -> Option<u8> {
        let args: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        judge(&args).err().map(|failure| failure.code)
    }

    #[test]
    fn what_reaches_beyond_the_repository_is_refused() {
        for line in [
            "run -v /:/host web",
            "run -itv /:/host web",
            "run -e A=1 --volume=/:/host web sh",
            "run --rm --cap-add SYS_ADMIN web",
            "exec --privileged web sh",
            "exec -it --privileged web sh",
            "up -d --scale web=2",
            "up --scale=web=2 -d",
            "create --scale web=7",
            "scale db=1 web=2",
        ] {
            assert_eq!(code(line), Some(3), "{line}");
        }
        assert_eq!(code("run --gpus all web"), Some(2));
    }

    #[test]
    fn what_stays_within_is_passed_on() {
        for line in [
            "run --rm -it -e A=1 web ls -v --privileged",
            "run -T --no-deps -u 1000 web",
            "exec -T web tar -cv --volume x",
            "up -d --scale web=1",
            "scale web=0",
            "logs -f web",
            "ps",
        ] {
            assert_eq!(code(line), None, "{line}");
        }
    }
}
