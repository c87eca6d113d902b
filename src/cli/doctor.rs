use schemars::JsonSchema;
use serde::Serialize;

use super::output::{self, Format, count};
use crate::host::linux::doctor::{Check, Level, examine, mend};
use crate::model::Layout;

/// Show what this machine has and lacks, what each lack costs, and its cure
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Mend what can do no harm: the permissions of files
    #[arg(long)]
    fix: bool,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// What this machine has and lacks: what `renet doctor -o json` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Findings {
    /// Everything that was looked at; after `--fix` as it is then.
    pub checks: Vec<Check>,
    /// What `--fix` did: the commands that would have done the same.
    pub fixed: Vec<String>,
    /// What `--fix` could not do, and why.
    pub failed: Vec<String>,
}

/// Exit code 0, 1 where something is missing or not as it should be.
pub async fn run(args: &Args, layout: Layout) -> anyhow::Result<u8> {
    let mut findings = Findings {
        checks: examine(&layout).await,
        fixed: Vec::new(),
        failed: Vec::new(),
    };
    if args.fix {
        for check in &findings.checks {
            match mend(check) {
                Ok(true) => findings.fixed.push(check.cure.clone()),
                Ok(false) => {}
                Err(error) => findings.failed.push(format!("{}: {error}", check.cure)),
            }
        }
        if !findings.fixed.is_empty() {
            findings.checks = examine(&layout).await;
        }
    }
    output::print(args.output, &findings, || text(&findings, output::width()))?;
    let well = findings.checks.iter().all(|check| check.level == Level::Ok);
    Ok(u8::from(!well))
}

fn text(findings: &Findings, width: usize) -> String {
    let checks = &findings.checks;
    let mut out = String::new();
    for fixed in &findings.fixed {
        out.push_str(&format!("fixed    {fixed}\n"));
    }
    for failed in &findings.failed {
        out.push_str(&format!("failed   {failed}\n"));
    }
    for group in ["machine", "kernel", "programs", "datastore"] {
        let fine = checks.iter();
        let fine = fine.filter(|check| check.level == Level::Ok && check.group == group);
        let fine = fine.map(|check| match check.found.as_str() {
            "" => check.what.clone(),
            found => format!("{} {found}", check.what),
        });
        let fine = fine.collect::<Vec<_>>().join(", ");
        let lines = output::wrapped(&fine, width.saturating_sub(9));
        for (at, line) in lines.iter().enumerate() {
            let level = if at == 0 { "ok" } else { "" };
            out.push_str(&format!("{level:<9}{line}\n"));
        }
    }
    let bad = checks.iter().filter(|check| check.level != Level::Ok);
    let rows = bad.map(|check| {
        let level = match check.level {
            Level::Missing => "missing",
            _ => "warning",
        };
        let what = match check.found.as_str() {
            "" => check.what.clone(),
            found => format!("{} {found}", check.what),
        };
        let said = match check.cure.as_str() {
            "" => check.cost.clone(),
            cure => format!("{}: {cure}", check.cost),
        };
        [format!("{level:<7}"), what, said]
    });
    let rows: Vec<_> = rows.collect();
    let widths = output::widths(["", "", ""], &rows);
    for row in &rows {
        out.push_str(&output::line(row, &widths, width));
    }
    let number = |level| checks.iter().filter(|check| check.level == level).count();
    let (warnings, missing) = (number(Level::Warning), number(Level::Missing));
    let safe = checks.iter().filter(|check| check.is_safe_to_fix()).count();
    let fix = match safe {
        0 => String::new(),
        _ => format!("; `renet doctor --fix` mends {safe}"),
    };
    out.push_str(&match (warnings, missing) {
        (0, 0) => "nothing is missing\n".to_owned(),
        _ => format!("{}, {missing} missing{fix}\n", count(warnings, "warning")),
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_shown_with_its_cost_and_cure() {
        let missing =
            |what, cost, cure| Check::ok("programs", what, "").but(Level::Missing, cost, cure);
        let findings = Findings {
            checks: vec![
                Check::ok("machine", "root", ""),
                Check::ok("kernel", "kernel", "6.12"),
                Check::ok("kernel", "btrfs", ""),
                Check::ok("programs", "dockerd", "26.1.5"),
                missing("criu", "no checkpoints", "apt install criu"),
                missing(
                    "systemd",
                    "it does not run here: nothing starts at boot by itself",
                    "",
                ),
                Check::ok("datastore", "disk", "1.0GiB of 16.0GiB free").but(
                    Level::Warning,
                    "93% full",
                    "",
                ),
            ],
            fixed: vec!["chmod 600 /etc/rediacc/keys/shop".to_owned()],
            failed: Vec::new(),
        };
        insta::assert_snapshot!("doctor_80", text(&findings, 80));
        insta::assert_snapshot!("doctor_120", text(&findings, 120));
        let well = Findings {
            checks: vec![Check::ok("machine", "root", "")],
            fixed: Vec::new(),
            failed: Vec::new(),
        };
        insta::assert_snapshot!(text(&well, 80), @r"
        ok       root
        nothing is missing
        ");
    }
}
