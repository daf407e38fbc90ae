//! To come.
use crate::curve::Table;
pub fn queue_disciplines() -> Table { Table::new("queue", &["a","b"]) }
