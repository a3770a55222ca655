//! Which tables there are, where they begin, and what their columns are called.

use std::collections::HashMap;

use rusqlite::Connection;
use rusqlite::types::Value;

use super::walk::Walk;

/// A table of the new database, and where it lies in the old one.
#[derive(Debug)]
pub struct Table {
    pub name: String,
    /// `None` when the old database does not have it, or it is not known where.
    pub root: Option<u32>,
    /// Of the old one, in the order of its records.
    pub columns: Vec<String>,
    /// The column that is the rowid and NULL in the record.
    pub rowid: Option<usize>,
}

#[derive(Debug)]
pub struct Catalogue {
    pub tables: Vec<Table>,
    /// Everything that is missing from the old database was not there either.
    pub is_whole: bool,
}

impl Catalogue {
    /// Reads the schema of the old database. Where it is damaged, tables are taken to begin where they do in
    /// `new`, if the pointer map agrees. Notes the roots in `walk`.
    pub fn read(walk: &mut Walk<'_>, new: &Connection) -> rusqlite::Result<Self> {
        let mut old: HashMap<String, (u32, String)> = HashMap::new();
        let mut is_whole = walk.down(1, &mut |row| {
            if let [Value::Text(kind), Value::Text(name), _, Value::Integer(root), Value::Text(sql)] =
                &row.values[..]
                && kind == "table"
                && let Ok(root) = u32::try_from(*root)
            {
                old.insert(name.clone(), (root, sql.clone()));
            }
        });
        let made = new
            .prepare("SELECT name, rootpage, sql FROM sqlite_master WHERE type = 'table'")?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
            .collect::<rusqlite::Result<Vec<(String, u32, String)>>>()?;
        if !is_whole && old.len() < made.len() && walk.are_roots(made.iter().map(|(_, root, _)| *root)) {
            for (name, root, sql) in &made {
                old.entry(name.clone()).or_insert_with(|| (*root, sql.clone()));
            }
            is_whole = true;
        }
        is_whole |= made.iter().all(|(name, ..)| old.contains_key(name));
        let mut tables = Vec::with_capacity(made.len());
        for (name, _, sql) in made {
            let found = old.get(&name);
            // Text that is damaged does not parse, or says the same as ours.
            let columns = found.and_then(|(_, old_sql)| columns(&name, old_sql));
            let (columns, rowid) = match columns {
                Some(found) => found,
                None => columns_of(&name, &sql)?,
            };
            let root = found.map(|(root, _)| *root);
            if let Some(root) = root {
                walk.roots.insert(root, tables.len());
            }
            tables.push(Table { name, root, columns, rowid });
        }
        Ok(Self { tables, is_whole })
    }
}

fn columns(name: &str, sql: &str) -> Option<(Vec<String>, Option<usize>)> {
    let is_plain = sql.starts_with("CREATE TABLE") && sql.len() <= SQL_BYTES_MAX && !sql.contains(';');
    columns_of(name, sql).ok().filter(|(columns, _)| is_plain && !columns.is_empty())
}

/// The columns of the table that `sql` makes, and which of them is the rowid.
fn columns_of(name: &str, sql: &str) -> rusqlite::Result<(Vec<String>, Option<usize>)> {
    let scratch = Connection::open_in_memory()?;
    if name == "sqlite_sequence" {
        return Ok((vec!["name".to_owned(), "seq".to_owned()], None));
    }
    scratch.execute_batch(sql)?;
    let mut info = scratch.prepare("SELECT name, type, pk FROM pragma_table_info(?1) ORDER BY cid")?;
    let rows = info.query_map([name], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let rows: Vec<(String, String, i64)> = rows.collect::<rusqlite::Result<_>>()?;
    let rowid = rows.iter().position(|(_, kind, key)| *key == 1 && kind.eq_ignore_ascii_case("INTEGER"));
    Ok((rows.into_iter().map(|(name, ..)| name).collect(), rowid))
}

const SQL_BYTES_MAX: usize = 4096;
