//! What the real binary prints on a terminal and elsewhere: colours where they can
//! be seen and are wanted, and nothing that the locale has no letter for.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::process::{Command, Stdio};
use std::ptr::{null, null_mut};

use super::cli::{FOLDER, Place, is_root};

const ESCAPE: u8 = 0x1b;

/// Runs a command with a terminal of its own; what appears there.
pub fn on_terminal(mut command: Command) -> Vec<u8> {
    let (mut master, mut terminal) = (-1, -1);
    // SAFETY: both numbers are written to, and nothing else is given.
    let opened = unsafe { libc::openpty(&mut master, &mut terminal, null_mut(), null(), null()) };
    assert_eq!(opened, 0, "{}", std::io::Error::last_os_error());
    // SAFETY: they were opened just above, for us alone.
    let (master, terminal) = unsafe { (File::from_raw_fd(master), OwnedFd::from_raw_fd(terminal)) };
    let end = || Stdio::from(terminal.try_clone().unwrap());
    command.stdin(end()).stdout(end()).stderr(end());
    let mut child = command.env("TERM", "xterm-256color").spawn().unwrap();
    drop((command, terminal));
    let mut printed = Vec::new();
    // It ends with EIO when nobody has the other end any more.
    let _ = (&master).read_to_end(&mut printed);
    child.wait().unwrap();
    printed
}

#[test]
fn colours_are_for_terminals_that_want_them_and_letters_as_the_locale_has_them() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    // What is in the way of everything: nothing is done.
    let blocked = place.0.path().join("desired");
    fs::create_dir_all(&blocked).unwrap();
    let manifests = "apiVersion: renet/v1\nkind: Machine\nmetadata: { name: m1 }\nspec: {}\n\
        ---\napiVersion: renet/v1\nkind: Repository\nmetadata: { name: shop }\n\
        spec: { size: 64M, encryption: none }\n";
    fs::write(blocked.join("all.yaml"), manifests).unwrap();
    let blocked = blocked.display().to_string();
    for (args, wide) in [
        (&["diff", "-f", FOLDER][..], true),
        (&["apply", "--dry-run", "-f", FOLDER], true),
        (&["get", "-f", FOLDER], true),
        (&["apply", "-f", &blocked], false),
    ] {
        let command = |set: &[(&str, &str)]| {
            let mut command = place.command(args);
            command.envs(set.iter().copied());
            command
        };
        let shown = |set| on_terminal(command(set));
        let piped = |set| {
            let output = command(set).output().unwrap();
            [output.stdout, output.stderr].concat()
        };
        let text = |printed: &[u8]| String::from_utf8_lossy(printed).into_owned();
        let (ascii, plain) = (&[("LC_ALL", "C")][..], &[("NO_COLOR", "1")][..]);

        let coloured = shown(&[]);
        assert!(coloured.contains(&ESCAPE), "{args:?}: {}", text(&coloured));
        assert_eq!(!coloured.is_ascii(), wide, "{args:?}: {}", text(&coloured));
        for printed in [shown(plain), piped(&[]), piped(&[("NO_COLOR", "")])] {
            assert!(!printed.contains(&ESCAPE), "{args:?}: {}", text(&printed));
            assert!(!printed.is_empty(), "{args:?}");
        }
        // Colour is all that a terminal gets more, but for how long it took.
        let words = |printed: &[u8]| {
            let text = text(printed).replace("\r\n", "\n");
            let text = anstream::adapter::strip_str(&text).to_string();
            let timed = text.find(" in 0.").unwrap_or(text.len());
            text[..timed].to_owned()
        };
        assert_eq!(words(&coloured), words(&shown(plain)), "{args:?}");
        assert_eq!(words(&coloured), words(&piped(&[])), "{args:?}");
        for printed in [shown(ascii), piped(ascii)] {
            assert!(printed.is_ascii(), "{args:?}: {}", text(&printed));
            assert!(
                !text(&printed).contains('?'),
                "{args:?}: {}",
                text(&printed)
            );
        }
    }
    assert!(!place.0.path().join("mnt").exists());
}
