//! A finding as a compiler shows it: what, where, the line itself, what would be right.

use std::fmt::Write;

use mesh_core::config::Diagnostic;

use crate::paint::Paint;

/// Renders one finding about `text`.
pub fn render(finding: &Diagnostic, text: &str, paint: Paint) -> String {
    let severity = if finding.is_error() { paint.error("error") } else { paint.warning("warning") };
    let mut out = format!("{severity}: {}\n", paint.strong(&finding.message));
    let margin = " ".repeat(finding.line.to_string().len());
    let _ = writeln!(out, "{margin}{} {}:{}:{}", paint.faint("-->"), finding.file, finding.line, finding.column);
    if let Some(source) = source_line(text, finding.line) {
        let bar = paint.faint("|");
        let (shown, marker) = underlined(source, finding.column);
        let marker = if finding.is_error() { paint.error(&marker) } else { paint.warning(&marker) };
        let _ = writeln!(out, "{margin} {bar}\n{} {bar} {shown}\n{margin} {bar} {marker}", finding.line);
    }
    let notes = [
        ("field", Some(&finding.path).filter(|path| !path.is_empty())),
        ("expected", finding.expected.as_ref()),
        ("help", finding.hint.as_ref()),
    ];
    for (name, note) in notes {
        if let Some(note) = note {
            let _ = writeln!(out, "{margin} {} {name}: {note}", paint.faint("="));
        }
    }
    out
}

/// How many of each there are: `2 errors, 1 warning`.
pub fn count(findings: &[Diagnostic]) -> String {
    let errors = findings.iter().filter(|finding| finding.is_error()).count();
    let parts = [plural(errors, "error"), plural(findings.len() - errors, "warning")];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn plural(count: usize, noun: &str) -> Option<String> {
    match count {
        0 => None,
        1 => Some(format!("1 {noun}")),
        many => Some(format!("{many} {noun}s")),
    }
}

fn source_line(text: &str, number: u32) -> Option<&str> {
    text.lines().nth(number.checked_sub(1)? as usize).filter(|line| !line.trim().is_empty())
}

/// The line, cut if it is endless, and carets under the word that starts at `column`.
fn underlined(line: &str, column: u32) -> (String, String) {
    let shown: String = line.chars().take(WIDEST).map(|c| if c == '\t' { ' ' } else { c }).collect();
    let before = (column.max(1) - 1) as usize;
    let word = shown.chars().skip(before);
    let length = match shown.chars().nth(before) {
        Some(quote @ ('"' | '\'')) => word.skip(1).position(|c| c == quote).map_or(1, |end| end + 2),
        _ => word.take_while(|c| !c.is_whitespace() && !",:]}#".contains(*c)).count(),
    };
    let marker = format!("{}{}", " ".repeat(before.min(shown.chars().count())), "^".repeat(length.max(1)));
    (shown, marker)
}

/// Characters of a source line that are shown.
const WIDEST: usize = 160;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn carets_stand_under_the_word_that_is_wrong() {
        for (line, column, marker) in [
            ("  - cluster: detials", 14, "             ^^^^^^^"),
            ("{ wieght: 1 }", 3, "  ^^^^^^"),
            ("a: \"b c\" # d", 4, "   ^^^^^"),
            ("a:", 9, "  ^"),
            ("é: x", 4, "   ^"),
        ] {
            assert_eq!(underlined(line, column).1, marker, "{line}");
        }
    }

    #[test]
    fn a_finding_without_a_line_to_quote_still_says_where() {
        let finding = Diagnostic::error("gone.yaml", "", "cannot read the file");
        assert_eq!(render(&finding, "", Paint::OFF), "error: cannot read the file\n --> gone.yaml:1:1\n");
    }
}
