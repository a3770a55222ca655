//! A table on standard output: columns as wide as their widest cell, two spaces between them.

/// Prints `rows` below `header`. The last column is not padded.
pub fn print<const N: usize>(header: [&str; N], rows: &[[String; N]]) {
    print!("{}", format(header, rows));
}

/// The text of the table.
pub fn format<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = header.map(|cell| cell.chars().count());
    fit(&mut widths, rows);
    let header = header.map(str::to_owned);
    lines(&widths, std::iter::once(&header).chain(rows))
}

/// Makes columns wide enough for `rows`; the columns of a table that grows only get wider.
pub fn fit<const N: usize>(widths: &mut [usize; N], rows: &[[String; N]]) {
    for (column, width) in widths.iter_mut().enumerate() {
        let cells = rows.iter().map(|row| row[column].chars().count());
        *width = cells.max().unwrap_or(0).max(*width);
    }
}

/// One line for each of `rows`.
pub fn lines<'r, const N: usize>(
    widths: &[usize; N],
    rows: impl IntoIterator<Item = &'r [String; N]>,
) -> String {
    let mut out = String::new();
    for cells in rows {
        let padded = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        out.push_str(padded.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_each_other() {
        let rows = [["a".to_owned(), "1".to_owned()], ["longer".to_owned(), "22".to_owned()]];
        assert_eq!(format(["name", "n"], &rows), "name    n\na       1\nlonger  22\n");
    }
}
