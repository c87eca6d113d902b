//! What a run shows of itself while it goes on: on a terminal and elsewhere.

use serde_json::Value;

use super::lab::{Lab, said};
use crate::terminal::on_terminal;

/// What a terminal shows in the end: what is drawn over is gone.
fn screen(printed: &str) -> Vec<String> {
    let mut lines = vec![Vec::new()];
    let mut column = 0;
    for letter in printed.chars() {
        let line = lines.last_mut().unwrap();
        match letter {
            '\r' => column = 0,
            '\n' => lines.push(Vec::new()),
            letter => {
                line.resize(line.len().max(column + 1), ' ');
                line[column] = letter;
                column += 1;
            }
        }
    }
    let lines = lines.into_iter();
    lines
        .map(|line| line.into_iter().collect::<String>().trim_end().to_owned())
        .collect()
}

#[test]
fn progress_is_drawn_over_on_a_terminal_and_is_plain_lines_elsewhere() {
    let Some(lab) = Lab::empty("progress") else {
        return;
    };
    lab.machine("1G");
    lab.repository("one", "  state: Offline\n");
    let mut command = lab.command(&["apply"]);
    command.env("NO_COLOR", "1");
    let printed = String::from_utf8(on_terminal(command)).unwrap();
    // What goes on is there while it does, and leaves nothing.
    assert!(printed.contains("  … one create image"), "{printed}");
    assert!(!printed.contains('\u{1b}'), "{printed:?}");
    let shown = screen(&printed);
    let left = |line: &String| line.starts_with("  … ");
    assert!(!shown.iter().any(left), "{shown:#?}");
    let steps = |lines: &[String]| {
        let steps = lines.iter().filter(|line| line.starts_with("  one "));
        steps.filter(|line| line.ends_with('s')).count()
    };
    assert!(steps(&shown) >= 2, "{shown:#?}");
    assert!(
        shown
            .iter()
            .any(|line| line.starts_with("Applied ") && line.ends_with("In sync."))
    );

    // Elsewhere a line for each step when it ended, and nothing else.
    lab.repository("one", "  state: Stopped\n");
    let output = lab.renet(&["apply"]);
    assert!(output.stderr.is_empty(), "{}", said(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains(['\r', '…', '\u{1b}']), "{text:?}");
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    assert!(steps(&lines) >= 2, "{text}");
    assert_eq!(lines.len(), steps(&lines) + 1, "{text}");

    // Beside a result for programs they go where people look.
    lab.repository("one", "  state: Offline\n");
    let output = lab.renet(&["apply", "-o", "json"]);
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), result["steps"].as_array().unwrap().len());
    assert_eq!(steps(&lines), lines.len(), "{text}");
    assert!(!text.contains(['\r', '…', '\u{1b}']), "{text:?}");
}
