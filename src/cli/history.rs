use jiff::Timestamp;

use super::output::{self, Last, age, count, revision};
use crate::agent::{Pass, PassResult, last_history};
use crate::model::{Layout, Part};

/// Show what runs of apply and agent came to: each distinct result once
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    last: Last,
}

/// Exit code 0, 3 where the history cannot be read.
pub fn run(args: &Args, layout: &Layout) -> anyhow::Result<u8> {
    super::need_root()?;
    let mut history = match last_history(&layout.agent()) {
        Part::Known(history) => history,
        Part::Unknown(why) => anyhow::bail!("{why}; delete it: it is written anew"),
        Part::Absent | Part::Hidden => Vec::new(),
    };
    history.drain(..history.len().saturating_sub(args.last.lines));
    output::print(args.last.output, &history, || {
        text(&history, Timestamp::now(), output::width())
    })?;
    Ok(0)
}

fn text(history: &[Pass], now: Timestamp, width: usize) -> String {
    if history.is_empty() {
        return "nothing was applied here yet\n".to_owned();
    }
    let header = ["FIRST", "LAST", "TIMES", "BY", "ON", "REVISION", "RESULT"];
    let rows: Vec<_> = history.iter().map(|pass| cells(pass, now)).collect();
    output::table(header, &rows, width)
}

fn cells(pass: &Pass, now: Timestamp) -> [String; 7] {
    let result = match pass.result {
        PassResult::Synced => "Synced",
        PassResult::Blocked => "Blocked",
        PassResult::Failed => "Failed",
        PassResult::Busy => "Busy",
        PassResult::Interrupted => "Interrupted",
        PassResult::OutOfSync => "OutOfSync",
    };
    let steps = usize::try_from(pass.steps).ok().filter(|steps| *steps > 0);
    let more = [
        steps.map(|steps| count(steps, "step")),
        Some(pass.message.clone()).filter(|message| !message.is_empty()),
    ];
    let more: Vec<String> = more.into_iter().flatten().collect();
    let result = match more.is_empty() {
        true => result.to_owned(),
        false => format!("{result}: {}", more.join("; ")),
    };
    [
        age(now, pass.first),
        age(now, pass.last),
        pass.count.to_string(),
        pass.by.clone(),
        pass.scope.clone(),
        revision(&pass.revision).to_owned(),
        result,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(by: &str, scope: &str, result: PassResult, message: &str) -> Pass {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        Pass {
            by: by.to_owned(),
            scope: scope.to_owned(),
            revision: "4f2c1ab9e001".to_owned(),
            result,
            message: message.to_owned(),
            steps: if by == "apply" { 6 } else { 0 },
            count: 312,
            first: at(0),
            last: at(86_000),
        }
    }

    #[test]
    fn l60_a_result_is_one_row_with_its_count_and_times() {
        let history = [
            pass("apply", "everything", PassResult::Synced, ""),
            pass(
                "agent",
                "repository/shop",
                PassResult::Failed,
                "service/shop/web: StepFailed: start project web failed: exit 1",
            ),
        ];
        let now = Timestamp::from_second(90_000).unwrap();
        insta::assert_snapshot!("history_80", text(&history, now, 80));
        insta::assert_snapshot!("history_120", text(&history, now, 120));
        insta::assert_snapshot!(text(&[], now, 80), @"nothing was applied here yet");
    }
}
