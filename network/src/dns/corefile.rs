//! The Corefile: words, blocks, imports. What directives mean is decided in
//! [`super::setup`]; every word remembers file and line for that.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Imports within imports within imports.
const IMPORT_DEPTH_MAX: usize = 10;
/// Words of one configuration, against files that import themselves.
const TOKENS_MAX: usize = 100_000;

/// A word and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    pub text: String,
    pub file: Arc<str>,
    pub line: usize,
    is_quoted: bool,
}

/// A mistake in a configuration; printed as `file:line: message`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct CorefileError {
    pub file: String,
    pub line: usize,
    pub message: String,
}

impl fmt::Display for CorefileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.message)
    }
}

impl Token {
    /// A mistake at this word.
    pub fn error(&self, message: impl Into<String>) -> CorefileError {
        CorefileError { file: self.file.to_string(), line: self.line, message: message.into() }
    }

    fn is(&self, text: &str) -> bool {
        !self.is_quoted && self.text == text
    }

    fn is_on_line_of(&self, other: &Token) -> bool {
        self.line == other.line && self.file == other.file
    }
}

/// A plugin's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directive {
    pub name: Token,
    pub arguments: Vec<Token>,
    /// The lines between braces, each with at least one word.
    pub block: Vec<Vec<Token>>,
}

/// Zones and what serves them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerBlock {
    pub keys: Vec<Token>,
    pub directives: Vec<Directive>,
}

/// A parsed Corefile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Corefile {
    pub blocks: Vec<ServerBlock>,
    /// Every file read, to watch for changes.
    pub files: Vec<PathBuf>,
    /// Directories of imports, where files may appear.
    pub directories: Vec<PathBuf>,
    pub warnings: Vec<String>,
}

/// Reads and parses a Corefile with its imports.
pub fn load(path: &Path) -> Result<Corefile, CorefileError> {
    let text = fs::read_to_string(path).map_err(|error| CorefileError {
        file: path.display().to_string(),
        line: 0,
        message: format!("read: {error}"),
    })?;
    let mut parser = Parser {
        tokens: tokenize(&text, &path.display().to_string())?,
        at: 0,
        depth: Vec::new(),
        base: path.parent().unwrap_or(Path::new(".")).to_owned(),
        corefile: Corefile { files: vec![path.to_owned()], ..Corefile::default() },
    };
    while parser.at < parser.tokens.len() {
        parser.server_block()?;
    }
    Ok(parser.corefile)
}

/// Splits text into words. `"` quotes, `#` begins a comment, `{$NAME}` is replaced from the environment.
fn tokenize(text: &str, file: &str) -> Result<Vec<Token>, CorefileError> {
    let file: Arc<str> = file.into();
    let mut tokens = Vec::new();
    let mut characters = text.chars().peekable();
    let mut line = 1;
    while let Some(character) = characters.next() {
        match character {
            '\n' => line += 1,
            '#' => while characters.next_if(|next| *next != '\n').is_some() {},
            character if character.is_whitespace() => {}
            '"' => {
                let start = line;
                let mut word = String::new();
                loop {
                    match characters.next() {
                        None => {
                            let message = "quote is not closed".to_owned();
                            return Err(CorefileError { file: file.to_string(), line: start, message });
                        }
                        Some('"') => break,
                        Some('\\') if characters.peek() == Some(&'"') => word.extend(characters.next()),
                        Some(character) => {
                            line += usize::from(character == '\n');
                            word.push(character);
                        }
                    }
                }
                tokens.push(Token { text: word, file: Arc::clone(&file), line: start, is_quoted: true });
            }
            first => {
                let mut word = String::from(first);
                while let Some(next) = characters.next_if(|next| !next.is_whitespace()) {
                    word.push(next);
                }
                let text = substitute(&word);
                tokens.push(Token { text, file: Arc::clone(&file), line, is_quoted: false });
            }
        }
    }
    Ok(tokens)
}

/// Replaces `{$NAME}` and `{%NAME%}` by environment variables; unset ones are empty.
fn substitute(word: &str) -> String {
    let mut text = word.to_owned();
    for (open, close) in [("{$", "}"), ("{%", "%}")] {
        while let Some(start) = text.find(open) {
            let Some(length) = text[start..].find(close) else { break };
            let name = text[start + open.len()..start + length].to_owned();
            let value = std::env::var(&name).unwrap_or_default();
            text.replace_range(start..start + length + close.len(), &value);
        }
    }
    text
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    /// Ends of the imports we are inside of.
    depth: Vec<usize>,
    base: PathBuf,
    corefile: Corefile,
}

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn next(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.at).cloned()?;
        self.at += 1;
        while self.depth.last().is_some_and(|end| *end <= self.at) {
            self.depth.pop();
        }
        Some(token)
    }

    fn server_block(&mut self) -> Result<(), CorefileError> {
        let Some(first) = self.next() else { return Ok(()) };
        if first.is("import") {
            return self.import(&first);
        }
        let mut keys = Vec::new();
        let mut current = first.clone();
        loop {
            if current.is("{") {
                break;
            }
            if current.is("}") {
                return Err(current.error("unexpected }"));
            }
            for text in current.text.split(',').filter(|text| !text.is_empty()) {
                keys.push(Token { text: text.to_owned(), ..current.clone() });
            }
            current = self.next().ok_or_else(|| first.error("server block has no { after its zones"))?;
        }
        if keys.is_empty() {
            return Err(first.error("server block has no zone"));
        }
        let mut directives = Vec::new();
        loop {
            let name = self.next().ok_or_else(|| first.error("server block is not closed by }"))?;
            if name.is("}") {
                break;
            }
            if name.is("import") {
                self.import(&name)?;
            } else if name.is("{") {
                return Err(name.error("unexpected {"));
            } else {
                directives.push(self.directive(name)?);
            }
        }
        self.corefile.blocks.push(ServerBlock { keys, directives });
        Ok(())
    }

    fn directive(&mut self, name: Token) -> Result<Directive, CorefileError> {
        let mut directive = Directive { name, arguments: Vec::new(), block: Vec::new() };
        while let Some(token) = self.peek().filter(|token| token.is_on_line_of(&directive.name)).cloned() {
            if token.is("}") {
                break;
            }
            self.next();
            if token.is("{") {
                directive.block = self.lines(&token)?;
                break;
            }
            directive.arguments.push(token);
        }
        Ok(directive)
    }

    fn lines(&mut self, open: &Token) -> Result<Vec<Vec<Token>>, CorefileError> {
        let mut lines: Vec<Vec<Token>> = Vec::new();
        loop {
            let token = self.next().ok_or_else(|| open.error("block is not closed by }"))?;
            if token.is("}") {
                return Ok(lines);
            }
            if token.is("{") {
                return Err(token.error("blocks cannot be nested here"));
            }
            match lines.last_mut().filter(|line| line.first().is_some_and(|first| token.is_on_line_of(first))) {
                Some(line) => line.push(token),
                None => lines.push(vec![token]),
            }
        }
    }

    /// Puts the words of the named files in place of the directive.
    fn import(&mut self, directive: &Token) -> Result<(), CorefileError> {
        let pattern = self
            .peek()
            .filter(|token| token.is_on_line_of(directive))
            .cloned()
            .ok_or_else(|| directive.error("import needs a file or pattern"))?;
        self.next();
        if self.depth.len() >= IMPORT_DEPTH_MAX || self.tokens.len() > TOKENS_MAX {
            return Err(directive.error("imports are nested too deeply"));
        }
        let path = self.base.join(&pattern.text);
        let files = glob(&path);
        self.corefile.directories.extend(path.parent().map(Path::to_owned));
        if files.is_empty() {
            self.corefile
                .warnings
                .push(format!("{}:{}: no files match import pattern {}", directive.file, directive.line, pattern.text));
        }
        let mut imported = Vec::new();
        for file in files {
            let text = fs::read_to_string(&file)
                .map_err(|error| pattern.error(format!("import {}: {error}", file.display())))?;
            imported.extend(tokenize(&text, &file.display().to_string())?);
            self.corefile.files.push(file);
        }
        self.depth.push(self.at + imported.len());
        self.tokens.splice(self.at..self.at, imported);
        if self.depth.last() == Some(&self.at) {
            self.depth.pop();
        }
        Ok(())
    }
}

/// The files a path with `*` and `?` in its last part stands for, in order.
fn glob(path: &Path) -> Vec<PathBuf> {
    let Some(pattern) = path.file_name().and_then(|name| name.to_str()) else { return Vec::new() };
    if !pattern.contains(['*', '?']) {
        return if path.is_file() { vec![path.to_owned()] } else { Vec::new() };
    }
    let directory = path.parent().unwrap_or(Path::new("."));
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries
        .filter(|entry| {
            entry.file_name().to_str().is_some_and(|name| matches_pattern(pattern.as_bytes(), name.as_bytes()))
        })
        .map(|entry| entry.path())
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    files
}

fn matches_pattern(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern.split_first(), name.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) if matches_pattern(rest, name) => true,
        (Some((b'*', _)), Some((_, name))) => matches_pattern(pattern, name),
        (Some((b'?', rest)), Some((_, name))) => matches_pattern(rest, name),
        (Some((want, rest)), Some((have, name))) if want == have => matches_pattern(rest, name),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load_text(text: &str) -> Result<Corefile, CorefileError> {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("custom")).unwrap();
        fs::write(dir.path().join("custom/a.override"), "log\n").unwrap();
        fs::write(dir.path().join("custom/b.server"), "example.org:1053 {\n  errors\n}\n").unwrap();
        fs::write(dir.path().join("self.conf"), "import self.conf\n").unwrap();
        let path = dir.path().join("Corefile");
        fs::write(&path, text).unwrap();
        load(&path)
    }

    #[test]
    fn directives_arguments_blocks_and_imports_are_read() {
        let text = ".:53 {\n    errors\n    kubernetes cluster.local in-addr.arpa {\n      pods insecure\n      ttl 5 # five\n    }\n    \
                    import custom/*.override\n    import custom/*.none\n    forward . \"/etc/resolv.conf\"\n}\nimport custom/*.server\n";
        let corefile = load_text(text).unwrap();
        assert_eq!(corefile.blocks.len(), 2);
        let block = &corefile.blocks[0];
        let names: Vec<&str> = block.directives.iter().map(|directive| directive.name.text.as_str()).collect();
        assert_eq!(names, ["errors", "kubernetes", "log", "forward"]);
        let lines: Vec<Vec<&str>> = block.directives[1]
            .block
            .iter()
            .map(|line| line.iter().map(|token| token.text.as_str()).collect())
            .collect();
        assert_eq!(lines, [vec!["pods", "insecure"], vec!["ttl", "5"]]);
        assert_eq!(block.directives[3].arguments[1].text, "/etc/resolv.conf");
        assert_eq!(corefile.blocks[1].keys[0].text, "example.org:1053");
        assert_eq!(corefile.warnings.len(), 1);
        assert!(corefile.warnings[0].contains("custom/*.none"));
        assert_eq!(corefile.files.len(), 3);
    }

    #[test]
    fn mistakes_are_reported_with_file_and_line() {
        let error = |text: &str| load_text(text).unwrap_err();
        assert_eq!(error(".:53 {\n errors\n").line, 1);
        assert!(error(".:53 {\n errors {\n x\n").to_string().contains("Corefile:2: block is not closed"));
        assert_eq!(error("\n\n}\n").line, 3);
        assert!(error(".:53 {\n log \"x\n}\n").message.contains("quote"));
        assert!(error("import self.conf\n").message.contains("too deeply"));
        assert!(load(Path::new("/nonexistent/Corefile")).unwrap_err().to_string().contains("/nonexistent/Corefile"));
    }

    #[test]
    fn patterns_match_as_in_a_shell() {
        let matches = |pattern: &str, name: &str| matches_pattern(pattern.as_bytes(), name.as_bytes());
        assert!(matches("*.server", "a.server") && matches("*", "x") && matches("a?c", "abc"));
        assert!(!matches("*.server", "a.servers") && !matches("a", "b"));
    }
}
