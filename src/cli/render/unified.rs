//! A plan as one patch, for the tools that read patches.

use std::fmt::Write as _;

use crate::plan::changes::{Change, Changes, FileAction, FileChange};

/// Every object as a file of its fields, and every managed file that changes.
pub fn unified(changes: &Changes) -> String {
    let mut out = String::new();
    for change in &changes.objects {
        fields(&mut out, change);
        for file in &change.files {
            self::file(&mut out, change, file);
        }
    }
    out
}

fn fields(out: &mut String, change: &Change) {
    let line = |sign: char, field: &str, value: &Option<String>| {
        let value = value.as_ref()?;
        Some(format!("{sign}{field}: {value}"))
    };
    let mut old: Vec<String> = Vec::new();
    let mut new: Vec<String> = Vec::new();
    for field in &change.fields {
        old.extend(line('-', &field.field, &field.from));
        new.extend(line('+', &field.field, &field.to));
    }
    for stop in &change.stops {
        old.push(format!("-container {}: running", stop.container));
        if stop.replaced {
            new.push(format!("+container {}: recreated", stop.container));
        }
    }
    if old.is_empty() && new.is_empty() {
        return;
    }
    let _ = writeln!(out, "--- machine/{0}\n+++ desired/{0}", change.object);
    let first = |lines: &[String]| usize::from(!lines.is_empty());
    let (olds, news) = (old.len(), new.len());
    let _ = writeln!(out, "@@ -{},{olds} +{},{news} @@", first(&old), first(&new));
    for line in old.iter().chain(&new) {
        let _ = writeln!(out, "{line}");
    }
}

fn file(out: &mut String, change: &Change, file: &FileChange) {
    let path = format!("{}/{}", change.object, file.path);
    let side = |side: &str, missing: FileAction| match file.change == missing {
        true => "/dev/null".to_owned(),
        false => format!("{side}/{path}"),
    };
    let old = side("machine", FileAction::Added);
    let new = side("desired", FileAction::Removed);
    match &file.diff {
        Some(diff) => {
            let _ = write!(out, "--- {old}\n+++ {new}\n{diff}");
        }
        None => {
            let note = file.note.as_deref().unwrap_or("contents not shown");
            let _ = writeln!(out, "Files {old} and {new} differ: {note}");
        }
    }
}
