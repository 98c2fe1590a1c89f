//! Aligned columns for the end of a run.

use super::output::printable;

/// Rows under a header. Columns of numbers are aligned to the right.
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new<const N: usize>(header: [&str; N]) -> Self {
        Table { rows: vec![header.map(printable).to_vec()] }
    }

    /// Adds a row; it should have as many cells as the header.
    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.iter().map(|cell| printable(cell)).collect());
    }

    /// The table, without a line feed at the end.
    pub(super) fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let cell = |row: &Vec<String>, column: usize| row.get(column).cloned().unwrap_or_default();
        let mut lines = vec![String::new(); self.rows.len()];
        for column in 0..columns {
            let width = self.rows.iter().map(|row| cell(row, column).chars().count()).max().unwrap_or(0);
            let numeric = self.rows.iter().skip(1).all(|row| is_number(&cell(row, column)));
            for (line, row) in lines.iter_mut().zip(&self.rows) {
                let text = cell(row, column);
                let gap = " ".repeat(width - text.chars().count());
                if column > 0 {
                    line.push_str("  ");
                }
                *line += &if numeric { gap + &text } else { text + &gap };
            }
        }
        lines.iter().map(|line| line.trim_end()).collect::<Vec<_>>().join("\n")
    }
}

/// A figure, perhaps with a unit: `71.3 %`, `-0.5`, `–` for none.
fn is_number(cell: &str) -> bool {
    cell.is_empty() || cell == "–" || cell.trim_start_matches(['+', '-']).starts_with(|c: char| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::Table;

    #[test]
    fn numbers_right_text_left() {
        let mut table = Table::new(["split", "accuracy", "images"]);
        table.row(["test".into(), "71.3 %".into(), "12".into()]);
        table.row(["validatiön".into(), "9.0 %".into(), "–".into()]);
        assert_eq!(
            table.render(),
            "split       accuracy  images\n\
             test          71.3 %      12\n\
             validatiön     9.0 %       –"
        );
    }
}
