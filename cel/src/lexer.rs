//! Text to tokens.

use std::sync::Arc;

/// A token without its place.
#[derive(Clone, Debug, PartialEq)]
pub enum Token {
    Ident(Arc<str>),
    /// `` `text` ``, allowed after a dot.
    Quoted(Arc<str>),
    Int(i64),
    /// 9223372036854775808, which only a minus sign makes an int.
    IntMinMagnitude,
    Uint(u64),
    Double(f64),
    String(Arc<str>),
    Bytes(Arc<[u8]>),
    /// Punctuation and the operators.
    Symbol(&'static str),
    End,
}

/// A token and the byte offset where it starts.
#[derive(Clone, Debug)]
pub struct Placed {
    pub token: Token,
    pub at: usize,
}

/// What is wrong with the text, and where.
#[derive(Clone, Debug, PartialEq)]
pub struct LexError {
    pub at: usize,
    pub message: String,
}

const SYMBOLS: [&str; 25] = [
    "==", "!=", "<=", ">=", "&&", "||", "<", ">", "!", "?", ":", ",", ".", "(", ")", "[", "]", "{", "}", "+", "-", "*",
    "/", "%", "in",
];

/// All tokens of a text, ended by [`Token::End`].
pub fn tokens(source: &str) -> Result<Vec<Placed>, LexError> {
    let mut lexer = Lexer { source, at: 0 };
    let mut tokens = Vec::new();
    loop {
        lexer.skip_space();
        let at = lexer.at;
        let token = lexer.token()?;
        let end = token == Token::End;
        tokens.push(Placed { token, at });
        if end {
            return Ok(tokens);
        }
    }
}

struct Lexer<'s> {
    source: &'s str,
    at: usize,
}

fn is_ident_start(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_'
}

fn is_ident(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

impl<'s> Lexer<'s> {
    fn rest(&self) -> &'s str {
        &self.source[self.at..]
    }

    fn peek(&self) -> Option<u8> {
        self.source.as_bytes().get(self.at).copied()
    }

    fn error<T>(&self, at: usize, message: impl Into<String>) -> Result<T, LexError> {
        Err(LexError { at, message: message.into() })
    }

    fn skip_space(&mut self) {
        loop {
            match self.peek() {
                Some(b' ' | b'\t' | b'\n' | b'\r' | b'\x0c') => self.at += 1,
                Some(b'/') if self.rest().starts_with("//") => {
                    self.at += self.rest().find('\n').unwrap_or(self.rest().len());
                }
                _ => return,
            }
        }
    }

    fn token(&mut self) -> Result<Token, LexError> {
        let Some(byte) = self.peek() else { return Ok(Token::End) };
        if let Some(token) = self.text()? {
            return Ok(token);
        }
        if is_ident_start(byte) {
            let word = self.take_while(is_ident);
            return Ok(if word == "in" { Token::Symbol("in") } else { Token::Ident(word.into()) });
        }
        let next_is_digit = self.source.as_bytes().get(self.at + 1).is_some_and(u8::is_ascii_digit);
        if byte.is_ascii_digit() || (byte == b'.' && next_is_digit) {
            return self.number();
        }
        if byte == b'`' {
            return self.quoted();
        }
        for symbol in SYMBOLS {
            if self.rest().starts_with(symbol) {
                self.at += symbol.len();
                return Ok(Token::Symbol(symbol));
            }
        }
        let found = self.rest().chars().next().unwrap_or_default();
        self.error(self.at, format!("Syntax error: token recognition error at: '{found}'"))
    }

    fn take_while(&mut self, wanted: impl Fn(u8) -> bool) -> &'s str {
        let bytes = self.source.as_bytes();
        let start = self.at;
        while bytes.get(self.at).is_some_and(|byte| wanted(*byte)) {
            self.at += 1;
        }
        &self.source[start..self.at]
    }

    fn quoted(&mut self) -> Result<Token, LexError> {
        let start = self.at;
        self.at += 1;
        let name = self.take_while(|byte| is_ident(byte) || matches!(byte, b'.' | b'-' | b'/' | b' '));
        if self.peek() != Some(b'`') || name.is_empty() {
            return self.error(start, "Syntax error: token recognition error at: '`'");
        }
        self.at += 1;
        Ok(Token::Quoted(name.into()))
    }

    fn number(&mut self) -> Result<Token, LexError> {
        let start = self.at;
        if self.rest().starts_with("0x") || self.rest().starts_with("0X") {
            self.at += 2;
            let digits = self.take_while(|byte| byte.is_ascii_hexdigit());
            return self.whole(start, digits, 16);
        }
        let digits = self.take_while(|byte| byte.is_ascii_digit());
        let mut fractional = false;
        let bytes = self.source.as_bytes();
        if self.peek() == Some(b'.') && bytes.get(self.at + 1).is_some_and(u8::is_ascii_digit) {
            fractional = true;
            self.at += 1;
            self.take_while(|byte| byte.is_ascii_digit());
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(bytes.get(self.at + 1), Some(b'+' | b'-')));
            if bytes.get(self.at + 1 + sign).is_some_and(u8::is_ascii_digit) {
                fractional = true;
                self.at += 1 + sign;
                self.take_while(|byte| byte.is_ascii_digit());
            }
        }
        if !fractional {
            return self.whole(start, digits, 10);
        }
        match self.source[start..self.at].parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Token::Double(number)),
            _ => self.error(start, "invalid double literal"),
        }
    }

    fn whole(&mut self, start: usize, digits: &str, radix: u32) -> Result<Token, LexError> {
        if matches!(self.peek(), Some(b'u' | b'U')) {
            self.at += 1;
            return match u64::from_str_radix(digits, radix) {
                Ok(number) => Ok(Token::Uint(number)),
                Err(_) => self.error(start, "invalid uint literal"),
            };
        }
        match u64::from_str_radix(digits, radix) {
            Ok(number) if number == 1 << 63 => Ok(Token::IntMinMagnitude),
            Ok(number) => match i64::try_from(number) {
                Ok(number) => Ok(Token::Int(number)),
                Err(_) => self.error(start, "invalid int literal"),
            },
            Err(_) => self.error(start, "invalid int literal"),
        }
    }

    /// A string or bytes literal, when one starts here.
    fn text(&mut self) -> Result<Option<Token>, LexError> {
        let start = self.at;
        let (mut raw, mut bytes, mut length) = (false, false, 0);
        for byte in self.rest().bytes().take(2) {
            match byte {
                b'r' | b'R' if !raw => raw = true,
                b'b' | b'B' if !bytes => bytes = true,
                _ => break,
            }
            length += 1;
        }
        let body = &self.rest()[length..];
        let Some(quote) = ["\"\"\"", "'''", "\"", "'"].into_iter().find(|quote| body.starts_with(quote)) else {
            return Ok(None);
        };
        self.at += length + quote.len();
        let content = self.until(quote, raw).ok_or(LexError {
            at: start,
            message: format!("Syntax error: token recognition error at: '{}'", &self.source[start..]),
        })?;
        let token = if bytes {
            Token::Bytes(unescape(content, raw, true).map_err(|m| LexError { at: start, message: m })?.into())
        } else {
            let text = unescape(content, raw, false).map_err(|m| LexError { at: start, message: m })?;
            match String::from_utf8(text) {
                Ok(text) => Token::String(text.into()),
                Err(_) => return self.error(start, "invalid UTF-8 in string literal"),
            }
        };
        Ok(Some(token))
    }

    /// What stands before the closing quote; the place moves behind it.
    fn until(&mut self, quote: &str, raw: bool) -> Option<&'s str> {
        let bytes = self.source.as_bytes();
        let start = self.at;
        loop {
            if self.source.as_bytes()[self.at..].starts_with(quote.as_bytes()) {
                let content = &self.source[start..self.at];
                self.at += quote.len();
                return Some(content);
            }
            match bytes.get(self.at)? {
                b'\n' | b'\r' if quote.len() == 1 => return None,
                b'\\' if !raw => self.at += 2,
                _ => self.at += 1,
            }
            if self.at > bytes.len() {
                return None;
            }
        }
    }
}

fn unescape(content: &str, raw: bool, bytes: bool) -> Result<Vec<u8>, String> {
    if raw || !content.contains('\\') {
        return Ok(content.as_bytes().to_vec());
    }
    let mut out = Vec::with_capacity(content.len());
    let mut rest = content;
    while let Some(at) = rest.find('\\') {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        let mut chars = rest[at + 1..].chars();
        let code = chars.next().ok_or("unable to unescape string")?;
        rest = chars.as_str();
        let digits = match code {
            'x' | 'X' => 2,
            'u' => 4,
            'U' => 8,
            '0'..='3' => {
                let digits = format!("{code}{}", take(&mut rest, 2)?);
                push(&mut out, &digits, 8, bytes)?;
                continue;
            }
            _ => 0,
        };
        if digits > 0 {
            if bytes && digits > 2 {
                return Err("unable to unescape string".to_owned());
            }
            let digits = take(&mut rest, digits)?;
            push(&mut out, digits, 16, bytes)?;
            continue;
        }
        out.push(match code {
            'a' => 7,
            'b' => 8,
            'f' => 12,
            'n' => b'\n',
            'r' => b'\r',
            't' => b'\t',
            'v' => 11,
            '\\' | '\'' | '"' | '`' | '?' => code as u8,
            _ => return Err("unable to unescape string".to_owned()),
        });
    }
    out.extend_from_slice(rest.as_bytes());
    Ok(out)
}

fn take<'t>(rest: &mut &'t str, count: usize) -> Result<&'t str, String> {
    let taken = rest.get(..count).ok_or("unable to unescape string")?;
    *rest = &rest[count..];
    Ok(taken)
}

fn push(out: &mut Vec<u8>, digits: &str, radix: u32, bytes: bool) -> Result<(), String> {
    let number = u32::from_str_radix(digits, radix).map_err(|_| "unable to unescape string")?;
    if bytes {
        out.push(u8::try_from(number).map_err(|_| "unable to unescape string")?);
    } else {
        let char = char::from_u32(number).ok_or("invalid unicode code point")?;
        out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lex(source: &str) -> Vec<Token> {
        tokens(source).unwrap().into_iter().map(|placed| placed.token).collect()
    }

    #[test]
    fn literals_have_their_values() {
        assert_eq!(
            lex("0x1F 12u 1.5e3 .5 r'a\\d' \"\\u00e9\\n\" b'\\xff' '''a'b'''"),
            [
                Token::Int(31),
                Token::Uint(12),
                Token::Double(1500.0),
                Token::Double(0.5),
                Token::String("a\\d".into()),
                Token::String("é\n".into()),
                Token::Bytes([255u8].as_slice().into()),
                Token::String("a'b".into()),
                Token::End
            ]
        );
    }

    #[test]
    fn a_range_is_not_a_fraction() {
        assert_eq!(lex("a.1x").len(), 4);
        assert!(tokens("'open").is_err());
        assert!(tokens("'\\").is_err());
        assert!(tokens("9223372036854775809").is_err());
        assert_eq!(tokens("a # b").unwrap_err().message, "Syntax error: token recognition error at: '#'");
    }
}
