//! The formats of strings that schemas may name. Unknown ones allow everything.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};

/// Formats that are enforced.
pub const KNOWN: [&str; 24] = [
    "bsonobjectid",
    "uri",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "cidr",
    "mac",
    "uuid",
    "uuid3",
    "uuid4",
    "uuid5",
    "isbn",
    "isbn10",
    "isbn13",
    "creditcard",
    "ssn",
    "hexcolor",
    "rgbcolor",
    "byte",
    "password",
    "date",
    "duration",
    "date-time",
];

/// Whether a text has the format.
pub fn fits(format: &str, text: &str) -> bool {
    let hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    match format {
        "bsonobjectid" => text.len() == 24 && hex(text),
        "uri" => skiff_cel::is_url(text),
        "email" => text
            .split_once('@')
            .is_some_and(|(user, host)| !user.is_empty() && !text.contains([' ', '<', '>']) && hostname(host)),
        "hostname" => hostname(text),
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => text.parse::<ipnet::IpNet>().is_ok(),
        "mac" => mac(text),
        "uuid" => uuid(text, None),
        "uuid3" => uuid(text, Some('3')),
        "uuid4" => uuid(text, Some('4')),
        "uuid5" => uuid(text, Some('5')),
        "isbn" => isbn10(text) || isbn13(text),
        "isbn10" => isbn10(text),
        "isbn13" => isbn13(text),
        "creditcard" => credit_card(text),
        "ssn" => pattern(text, "ddd-dd-dddd") || pattern(text, "ddd dd dddd") || pattern(text, "ddddddddd"),
        "hexcolor" => {
            let digits = text.strip_prefix('#').unwrap_or(text);
            matches!(digits.len(), 3 | 6) && hex(digits)
        }
        "rgbcolor" => rgb(text),
        "byte" => BASE64.decode(text).is_ok(),
        "date" => text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok(),
        "duration" => skiff_cel::is_duration(text),
        "date-time" | "datetime" => text.len() > 10 && skiff_cel::is_timestamp(text),
        _ => true,
    }
}

fn hostname(text: &str) -> bool {
    let label = |label: &str| {
        let inner = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        !label.is_empty() && label.len() <= 63 && inner && !label.starts_with('-') && !label.ends_with('-')
    };
    let text = text.strip_suffix('.').unwrap_or(text);
    !text.is_empty() && text.len() <= 253 && text.split('.').all(label) || text.parse::<IpAddr>().is_ok()
}

fn mac(text: &str) -> bool {
    [':', '-', '.'].into_iter().any(|separator| {
        let parts: Vec<&str> = text.split(separator).collect();
        let digits = if separator == '.' { 4 } else { 2 };
        let octets = parts.len() * digits / 2;
        matches!(octets, 6 | 8 | 20)
            && parts.iter().all(|part| part.len() == digits && part.bytes().all(|byte| byte.is_ascii_hexdigit()))
    })
}

fn uuid(text: &str, version: Option<char>) -> bool {
    let hex: String = text.chars().filter(|c| *c != '-').collect();
    let parts: Vec<usize> = text.split('-').map(str::len).collect();
    let shaped = parts == [8, 4, 4, 4, 12] || (version.is_none() && parts == [32]);
    shaped
        && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
        && version.is_none_or(|version| hex.chars().nth(12) == Some(version))
}

fn digits(text: &str) -> Vec<u32> {
    text.chars().filter(|c| !matches!(c, '-' | ' ')).map(|c| c.to_digit(10).unwrap_or(10)).collect()
}

fn isbn10(text: &str) -> bool {
    let numbers = digits(text);
    let last_is_x = text.ends_with(['X', 'x']);
    let clean = numbers.iter().take(9).all(|number| *number < 10) && (numbers.last() != Some(&10) || last_is_x);
    let sum: u32 = numbers.iter().zip(1..).map(|(number, weight)| number * weight).sum();
    numbers.len() == 10 && clean && sum.is_multiple_of(11)
}

fn isbn13(text: &str) -> bool {
    let numbers = digits(text);
    let sum: u32 = numbers.iter().enumerate().map(|(at, number)| number * if at % 2 == 0 { 1 } else { 3 }).sum();
    numbers.len() == 13 && numbers.iter().all(|number| *number < 10) && sum.is_multiple_of(10)
}

fn credit_card(text: &str) -> bool {
    let numbers = digits(text);
    let doubled = |(at, number): (usize, &u32)| match (at % 2, number * 2) {
        (0, _) => *number,
        (_, twice) if twice > 9 => twice - 9,
        (_, twice) => twice,
    };
    let sum: u32 = numbers.iter().rev().enumerate().map(doubled).sum();
    (13..=19).contains(&numbers.len()) && numbers.iter().all(|number| *number < 10) && sum.is_multiple_of(10)
}

/// `d` stands for a digit.
fn pattern(text: &str, shape: &str) -> bool {
    let same = |(c, want): (char, char)| if want == 'd' { c.is_ascii_digit() } else { c == want };
    text.len() == shape.len() && text.chars().zip(shape.chars()).all(same)
}

fn rgb(text: &str) -> bool {
    let inner = text.strip_prefix("rgb(").and_then(|text| text.strip_suffix(')'));
    inner.is_some_and(|inner| {
        let parts: Vec<&str> = inner.split(',').map(str::trim).collect();
        parts.len() == 3 && parts.iter().all(|part| part.parse::<u8>().is_ok())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_tell_good_from_bad() {
        for (format, good, bad) in [
            ("ipv4", "1.2.3.4", "1.2.3"),
            ("ipv6", "::1", "1.2.3.4"),
            ("cidr", "10.0.0.0/8", "10.0.0.0"),
            ("mac", "00:11:22:33:44:55", "00:11"),
            ("uuid4", "9c858901-8a57-4791-81fe-4c455b099bc9", "9c858901-8a57-1791-81fe-4c455b099bc9"),
            ("hostname", "a.example.com", "-a"),
            ("email", "a@example.com", "a"),
            ("byte", "aGk=", "a"),
            ("date", "2024-02-29", "2023-02-29"),
            ("date-time", "2024-01-01T00:00:00Z", "2024-01-01"),
            ("duration", "1h30m", "soon"),
            ("hexcolor", "#ffaa00", "#xyz"),
            ("rgbcolor", "rgb(1, 2, 255)", "rgb(1,2,256)"),
            ("isbn10", "0-306-40615-2", "0-306-40615-3"),
            ("isbn13", "978-0-306-40615-7", "978-0-306-40615-8"),
            ("creditcard", "4111 1111 1111 1111", "4111 1111 1111 1112"),
            ("ssn", "111-22-3333", "111-22-333"),
            ("uri", "https://example.com/a", "nope"),
            ("bsonobjectid", "507f1f77bcf86cd799439011", "507f"),
        ] {
            assert!(fits(format, good) && !fits(format, bad), "{format}");
        }
        assert!(fits("int32", "x"));
    }
}
