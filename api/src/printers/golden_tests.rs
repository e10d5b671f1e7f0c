//! Columns of built-in kinds against what upstream's printers show: names in
//! their order, those of `-o wide` (priority 1) with a `+`, and what every
//! table needs of its first column.

use crate::{builtin, printers::column_definitions};

#[test]
fn kinds_show_upstream_s_columns() {
    let mut wrong = Vec::new();
    for line in include_str!("columns.tsv").lines() {
        let (resource, wanted) = line.split_once('\t').unwrap();
        let rows: Vec<_> = builtin().iter().filter(|row| row.group_resource().to_string() == resource).collect();
        assert!(!rows.is_empty(), "no resource is named {resource}");
        for row in rows {
            let shown = column_definitions(row).into_iter().map(|column| {
                let wide = if column["priority"] == 1 { "+" } else { "" };
                format!("{wide}{}", column["name"].as_str().unwrap().replace(' ', "_"))
            });
            let shown = shown.collect::<Vec<_>>().join(" ");
            if shown != wanted {
                wrong.push(format!("{resource} {}:\n  shows  {shown}\n  wanted {wanted}", row.version));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_kind_is_compared() {
    // The kinds of a watched view share the row of the other group.
    let compared: Vec<&str> =
        include_str!("columns.tsv").lines().filter_map(|line| Some(line.split_once('\t')?.0)).collect();
    for row in builtin().iter().filter(|row| row.is_stored()) {
        let resource = row.group_resource().to_string();
        let shown = row.storage.as_ref().map(ToString::to_string).unwrap_or_default();
        assert!(compared.contains(&resource.as_str()) || compared.contains(&shown.as_str()), "{resource}");
    }
}

#[test]
fn columns_are_well_formed() {
    for row in builtin().iter().filter(|row| row.is_stored()) {
        let columns = column_definitions(row);
        let named: Vec<_> = columns.iter().filter(|column| column["format"] == "name").collect();
        assert_eq!(named.len(), 1, "{}: one column is the name", row.plural);
        assert_eq!(named[0]["name"], "Name", "{}", row.plural);
        for column in &columns {
            let kind = column["type"].as_str().unwrap();
            assert!(["string", "integer", "boolean", "date", "number"].contains(&kind), "{}: {column}", row.plural);
            assert!(matches!(column["priority"].as_i64(), Some(0 | 1)), "{}: {column}", row.plural);
        }
    }
}
