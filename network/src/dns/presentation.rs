//! Records in the text form of zone files: `name 60 IN A 192.0.2.1`.

use super::{
    message::{CLASS_IN, Record, RecordData, TYPE_NAMES},
    name::Name,
};

const TTL_DEFAULT: u32 = 3600;

/// The number of a record type by its name.
pub fn type_number(name: &str) -> Option<u16> {
    let upper = name.to_ascii_uppercase();
    let known = TYPE_NAMES.iter().find(|(_, known)| *known == upper).map(|(number, _)| *number);
    known.or_else(|| upper.strip_prefix("TYPE")?.parse().ok())
}

/// The name of a record type.
pub fn type_name(number: u16) -> &'static str {
    TYPE_NAMES.iter().find(|(known, _)| *known == number).map_or("other", |(_, name)| name)
}

/// Reads one record.
pub fn parse_record(text: &str) -> Result<Record, String> {
    let words = split(text);
    let mut words = words.iter().map(String::as_str).peekable();
    let mut next = |what: &str| words.next().ok_or_else(|| format!("record {text:?} has no {what}"));
    let name: Name = next("name")?.parse().map_err(|error| format!("{error}"))?;
    let mut ttl = TTL_DEFAULT;
    let mut word = next("type")?;
    // Time to live and class are optional, in this order.
    if let Ok(seconds) = word.parse() {
        ttl = seconds;
        word = next("type")?;
    }
    if word.eq_ignore_ascii_case("IN") {
        word = next("type")?;
    }
    let rest: Vec<&str> = words.collect();
    let data = parse_data(word, &rest).ok_or_else(|| format!("record {text:?} is not understood"))?;
    Ok(Record { name, class: CLASS_IN, ttl, data })
}

fn parse_data(kind: &str, words: &[&str]) -> Option<RecordData> {
    let name = |index: usize| words.get(index)?.parse::<Name>().ok();
    let number = |index: usize| words.get(index)?.parse::<u32>().ok();
    let short = |index: usize| words.get(index)?.parse::<u16>().ok();
    Some(match kind.to_ascii_uppercase().as_str() {
        "A" => RecordData::A(words.first()?.parse().ok()?),
        "AAAA" => RecordData::Aaaa(words.first()?.parse().ok()?),
        "CNAME" => RecordData::Cname(name(0)?),
        "PTR" => RecordData::Ptr(name(0)?),
        "NS" => RecordData::Ns(name(0)?),
        "MX" => RecordData::Mx { preference: short(0)?, exchange: name(1)? },
        "SRV" => RecordData::Srv { priority: short(0)?, weight: short(1)?, port: short(2)?, target: name(3)? },
        "TXT" if !words.is_empty() => {
            RecordData::Txt(words.iter().map(|word| word.as_bytes().iter().take(255).copied().collect()).collect())
        }
        "SOA" => RecordData::Soa {
            primary: name(0)?,
            mailbox: name(1)?,
            serial: number(2)?,
            refresh: number(3)?,
            retry: number(4)?,
            expire: number(5)?,
            minimum: number(6)?,
        },
        _ => return None,
    })
}

/// Splits at white space; `"` quotes, brackets of multi-line records are ignored.
fn split(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut is_quoted = false;
    for character in text.chars() {
        match character {
            '"' => {
                is_quoted = !is_quoted;
                word.get_or_insert_default();
            }
            '(' | ')' if !is_quoted => {}
            character if character.is_whitespace() && !is_quoted => words.extend(word.take()),
            character => word.get_or_insert_default().push(character),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_with_and_without_time_and_class() {
        let data = |text: &str| parse_record(text).map(|record| (record.ttl, record.data));
        assert_eq!(data("a.b. 60 IN A 192.0.2.1"), Ok((60, RecordData::A([192, 0, 2, 1].into()))));
        assert_eq!(data("a.b CNAME c.d"), Ok((3600, RecordData::Cname("c.d".parse().unwrap()))));
        assert_eq!(data("a.b TXT \"x y\" z"), Ok((3600, RecordData::Txt(vec![b"x y".to_vec(), b"z".to_vec()]))));
        assert!(data("a.b 60 IN A nonsense").unwrap_err().contains("nonsense"));
        assert!(data("a.b").unwrap_err().contains("no type"));
        assert_eq!(type_number("https"), Some(65));
        assert_eq!(type_number("TYPE99"), Some(99));
    }
}
