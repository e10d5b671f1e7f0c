//! Tokens to tree: recursive descent with a bound on nesting.
//!
//! `&&` and `||` chains become balanced trees; other left-associative chains
//! count as nesting. Macros are expanded while parsing ([`crate::macros`]).

use std::sync::Arc;

use crate::{
    ast::{Ast, Id, Literal, Node, TooBig},
    issues::Issue,
    lexer::{self, Placed, Token},
    limits::{DEPTH_MAX, EXPRESSION_CHARS_MAX},
    macros, types,
};

/// Parses an expression.
pub fn parse(source: &str) -> Result<Ast, Issue> {
    if source.chars().count() > EXPRESSION_CHARS_MAX {
        let size = source.chars().count();
        return Err(Issue::new(
            0,
            format!("expression code point size exceeds limit: size: {size}, limit {EXPRESSION_CHARS_MAX}"),
        ));
    }
    let tokens = lexer::tokens(source).map_err(|error| Issue::new(error.at, error.message))?;
    let mut parser = Parser { tokens, next: 0, taken: 0, depth: 0, ast: Ast::default() };
    let root = parser.expression()?;
    if *parser.peek() != Token::End {
        return Err(parser.unexpected("<EOF>"));
    }
    parser.ast.root = root;
    Ok(parser.ast)
}

pub(crate) struct Parser {
    tokens: Vec<Placed>,
    next: usize,
    /// The token `advance` gave last.
    taken: usize,
    depth: u16,
    pub ast: Ast,
}

fn too_deep(at: usize) -> Issue {
    Issue::new(at, format!("expression recursion limit exceeded: {DEPTH_MAX}"))
}

impl Parser {
    fn peek(&self) -> &Token {
        &self.tokens[self.next].token
    }

    fn at(&self) -> usize {
        self.tokens[self.next].at
    }

    fn advance(&mut self) -> Token {
        let token = self.tokens[self.next].token.clone();
        self.taken = self.next;
        if token != Token::End {
            self.next += 1;
        }
        token
    }

    fn is(&self, symbol: &str) -> bool {
        matches!(self.peek(), Token::Symbol(found) if *found == symbol)
    }

    /// Takes the symbol, when it is next; its place.
    fn eat(&mut self, symbol: &str) -> Option<usize> {
        let at = self.at();
        self.is(symbol).then(|| {
            self.next += 1;
            at
        })
    }

    fn expect(&mut self, symbol: &str) -> Result<usize, Issue> {
        self.eat(symbol).ok_or_else(|| self.unexpected(&format!("'{symbol}'")))
    }

    fn unexpected(&self, wanted: &str) -> Issue {
        let found = match self.peek() {
            Token::End => "<EOF>".to_owned(),
            Token::Symbol(symbol) => (*symbol).to_owned(),
            Token::Ident(name) | Token::Quoted(name) | Token::String(name) => name.to_string(),
            Token::Int(number) => number.to_string(),
            Token::Uint(number) => format!("{number}u"),
            Token::Double(number) => number.to_string(),
            Token::IntMinMagnitude => "9223372036854775808".to_owned(),
            Token::Bytes(_) => "bytes".to_owned(),
        };
        Issue::new(self.at(), format!("Syntax error: mismatched input '{found}' expecting {wanted}"))
    }

    pub(crate) fn push(&mut self, node: Node, at: usize) -> Result<Id, Issue> {
        self.ast.push(node, at).map_err(|why| match why {
            TooBig::Depth => too_deep(at),
            TooBig::Nodes => Issue::new(at, "expression has too many parts"),
        })
    }

    pub(crate) fn call(&mut self, function: &str, args: Vec<Id>, at: usize) -> Result<Id, Issue> {
        self.push(Node::Call { function: function.into(), target: None, args }, at)
    }

    /// `condition ? a : b`, the loosest binding.
    fn expression(&mut self) -> Result<Id, Issue> {
        if self.depth >= DEPTH_MAX {
            return Err(too_deep(self.at()));
        }
        self.depth += 1;
        let result = self.ternary();
        self.depth -= 1;
        result
    }

    fn ternary(&mut self) -> Result<Id, Issue> {
        let condition = self.logical("||")?;
        let Some(at) = self.eat("?") else { return Ok(condition) };
        let first = self.logical("||")?;
        self.expect(":")?;
        let second = self.expression()?;
        self.call("_?_:_", vec![condition, first, second], at)
    }

    fn logical(&mut self, symbol: &'static str) -> Result<Id, Issue> {
        let mut operands = vec![self.operand_of(symbol)?];
        let mut places = Vec::new();
        while let Some(at) = self.eat(symbol) {
            places.push(at);
            operands.push(self.operand_of(symbol)?);
        }
        let function = if symbol == "||" { "_||_" } else { "_&&_" };
        self.balanced(function, &operands, &places)
    }

    fn operand_of(&mut self, symbol: &str) -> Result<Id, Issue> {
        if symbol == "||" { self.logical("&&") } else { self.binary(0) }
    }

    fn balanced(&mut self, function: &str, operands: &[Id], places: &[usize]) -> Result<Id, Issue> {
        match operands {
            [single] => Ok(*single),
            _ => {
                let middle = (operands.len() - 1) / 2;
                let left = self.balanced(function, &operands[..=middle], &places[..middle])?;
                let right = self.balanced(function, &operands[middle + 1..], &places[middle + 1..])?;
                self.call(function, vec![left, right], places[middle])
            }
        }
    }

    /// Relations (level 0), sums (1) and products (2); all left-associative.
    fn binary(&mut self, level: u8) -> Result<Id, Issue> {
        const LEVELS: [&[(&str, &str)]; 3] = [
            &[
                ("==", "_==_"),
                ("!=", "_!=_"),
                ("<=", "_<=_"),
                (">=", "_>=_"),
                ("<", "_<_"),
                (">", "_>_"),
                ("in", "@in"),
            ],
            &[("+", "_+_"), ("-", "_-_")],
            &[("*", "_*_"), ("/", "_/_"), ("%", "_%_")],
        ];
        let operators = LEVELS[usize::from(level)];
        let mut left = self.tighter(level)?;
        loop {
            let Token::Symbol(symbol) = *self.peek() else { return Ok(left) };
            let Some((_, function)) = operators.iter().find(|(known, _)| *known == symbol) else { return Ok(left) };
            let at = self.at();
            self.next += 1;
            let right = self.tighter(level)?;
            left = self.call(function, vec![left, right], at)?;
        }
    }

    fn tighter(&mut self, level: u8) -> Result<Id, Issue> {
        if level == 2 { self.unary() } else { self.binary(level + 1) }
    }

    fn unary(&mut self) -> Result<Id, Issue> {
        let at = self.at();
        for (symbol, function) in [("!", "!_"), ("-", "-_")] {
            let mut count = 0;
            while self.eat(symbol).is_some() {
                count += 1;
            }
            if count == 0 {
                continue;
            }
            if symbol == "-" && count == 1 {
                let number = match self.peek() {
                    Token::Int(number) => Some(Literal::Int(-number)),
                    Token::IntMinMagnitude => Some(Literal::Int(i64::MIN)),
                    Token::Double(number) => Some(Literal::Double(-number)),
                    _ => None,
                };
                if let Some(number) = number {
                    self.next += 1;
                    let literal = self.push(Node::Literal(number), at)?;
                    return self.members(literal);
                }
            }
            let operand = self.member()?;
            return if count % 2 == 0 { Ok(operand) } else { self.call(function, vec![operand], at) };
        }
        self.member()
    }

    fn member(&mut self) -> Result<Id, Issue> {
        let primary = self.primary()?;
        self.members(primary)
    }

    fn members(&mut self, mut operand: Id) -> Result<Id, Issue> {
        loop {
            if let Some(at) = self.eat(".") {
                operand = self.dotted(operand, at)?;
            } else if let Some(at) = self.eat("[") {
                let optional = self.eat("?").is_some();
                let index = self.expression()?;
                self.expect("]")?;
                operand = self.call(if optional { "_[?_]" } else { "_[_]" }, vec![operand, index], at)?;
            } else if self.is("{")
                && let Some(name) = self.ast.dotted(operand)
            {
                let (name, at) = (name.join("."), self.at());
                self.next += 1;
                operand = self.fields(name.into(), at)?;
            } else {
                return Ok(operand);
            }
        }
    }

    fn dotted(&mut self, operand: Id, at: usize) -> Result<Id, Issue> {
        if self.eat("?").is_some() {
            let name_at = self.at();
            let name = self.field_name()?;
            let name = self.push(Node::Literal(Literal::String(name)), name_at)?;
            return self.call("_?._", vec![operand, name], at);
        }
        let quoted = matches!(self.peek(), Token::Quoted(_));
        let name = self.field_name()?;
        if !quoted && let Some(open) = self.eat("(") {
            let args = self.arguments(")")?;
            return macros::member(self, operand, &name, args, open);
        }
        self.push(Node::Select { operand, field: name, test: false }, at)
    }

    fn field_name(&mut self) -> Result<Arc<str>, Issue> {
        match self.peek() {
            Token::Ident(name) if matches!(&**name, "true" | "false" | "null") => Err(self.unexpected("IDENTIFIER")),
            Token::Ident(name) | Token::Quoted(name) => {
                let name = Arc::clone(name);
                self.next += 1;
                Ok(name)
            }
            _ => Err(self.unexpected("IDENTIFIER")),
        }
    }

    fn arguments(&mut self, close: &str) -> Result<Vec<Id>, Issue> {
        let mut args = Vec::new();
        if self.eat(close).is_some() {
            return Ok(args);
        }
        loop {
            args.push(self.expression()?);
            if self.eat(",").is_none() {
                self.expect(close)?;
                return Ok(args);
            }
        }
    }

    fn primary(&mut self) -> Result<Id, Issue> {
        let at = self.at();
        match self.advance() {
            Token::Int(number) => self.push(Node::Literal(Literal::Int(number)), at),
            Token::Uint(number) => self.push(Node::Literal(Literal::Uint(number)), at),
            Token::Double(number) => self.push(Node::Literal(Literal::Double(number)), at),
            Token::String(text) => self.push(Node::Literal(Literal::String(text)), at),
            Token::Bytes(bytes) => self.push(Node::Literal(Literal::Bytes(bytes)), at),
            Token::IntMinMagnitude => Err(Issue::new(at, "invalid int literal")),
            Token::Ident(name) => self.identifier(name, at),
            Token::Symbol("(") => {
                let inner = self.expression()?;
                self.expect(")")?;
                Ok(inner)
            }
            Token::Symbol("[") => self.list(at),
            Token::Symbol("{") => self.map(at),
            Token::Symbol(".") => match self.advance() {
                Token::Ident(name) => self.identifier(name, at),
                _ => Err(self.back("IDENTIFIER")),
            },
            Token::Symbol(_) | Token::Quoted(_) | Token::End => Err(self.back("an expression")),
        }
    }

    /// The error of the token just taken.
    fn back(&mut self, wanted: &str) -> Issue {
        self.next = self.taken;
        self.unexpected(wanted)
    }

    fn identifier(&mut self, name: Arc<str>, at: usize) -> Result<Id, Issue> {
        match &*name {
            "true" => return self.push(Node::Literal(Literal::Bool(true)), at),
            "false" => return self.push(Node::Literal(Literal::Bool(false)), at),
            "null" => return self.push(Node::Literal(Literal::Null), at),
            reserved if types::RESERVED.contains(&reserved) => {
                return Err(Issue::new(at, format!("reserved identifier: {reserved}")));
            }
            _ => {}
        }
        if let Some(open) = self.eat("(") {
            let args = self.arguments(")")?;
            return macros::global(self, &name, args, open);
        }
        self.push(Node::Ident(name), at)
    }

    fn list(&mut self, at: usize) -> Result<Id, Issue> {
        let mut elements = Vec::new();
        while self.eat("]").is_none() {
            let optional = self.eat("?").is_some();
            elements.push((self.expression()?, optional));
            if self.eat(",").is_none() {
                self.expect("]")?;
                break;
            }
        }
        self.push(Node::List(elements), at)
    }

    fn map(&mut self, at: usize) -> Result<Id, Issue> {
        let mut entries = Vec::new();
        while self.eat("}").is_none() {
            let optional = self.eat("?").is_some();
            let key = self.expression()?;
            self.expect(":")?;
            entries.push((key, self.expression()?, optional));
            if self.eat(",").is_none() {
                self.expect("}")?;
                break;
            }
        }
        self.push(Node::Map(entries), at)
    }

    fn fields(&mut self, name: Arc<str>, at: usize) -> Result<Id, Issue> {
        let mut fields = Vec::new();
        while self.eat("}").is_none() {
            let optional = self.eat("?").is_some();
            let field = self.field_name()?;
            self.expect(":")?;
            fields.push((field, self.expression()?, optional));
            if self.eat(",").is_none() {
                self.expect("}")?;
                break;
            }
        }
        self.push(Node::Struct { name, fields }, at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(ast: &Ast, id: Id) -> String {
        match ast.get(id) {
            Node::Literal(Literal::Int(number)) => number.to_string(),
            Node::Literal(other) => format!("{other:?}"),
            Node::Ident(name) => name.to_string(),
            Node::Select { operand, field, test } => {
                format!("{}.{field}{}", shape(ast, *operand), if *test { "~" } else { "" })
            }
            Node::Call { function, args, .. } => {
                let args: Vec<String> = args.iter().map(|id| shape(ast, *id)).collect();
                format!("{function}({})", args.join(","))
            }
            other => format!("{other:?}"),
        }
    }

    fn parsed(source: &str) -> String {
        let ast = parse(source).unwrap();
        shape(&ast, ast.root)
    }

    #[test]
    fn operators_bind_as_declared() {
        assert_eq!(parsed("1 + 2 * 3 == 7 && !a || b"), "_||_(_&&_(_==_(_+_(1,_*_(2,3)),7),!_(a)),b)");
        assert_eq!(parsed("a ? b : c ? d : e"), "_?_:_(a,b,_?_:_(c,d,e))");
        assert_eq!(parsed("-a.b[0]"), "-_(_[_](a.b,0))");
        assert_eq!(parsed("has(a.b) && a.?c"), "_&&_(a.b~,_?._(a,String(\"c\")))");
        assert_eq!(parsed("--1"), "1");
        assert_eq!(parsed("-9223372036854775808"), "-9223372036854775808");
    }

    #[test]
    fn logical_chains_are_balanced() {
        let long = vec!["a"; 20_000].join(" && ");
        assert!(parse(&long).is_ok());
    }

    #[test]
    fn hostile_nesting_is_an_error() {
        let nested = format!("{}1{}", "(".repeat(400), ")".repeat(400));
        assert_eq!(parse(&nested).unwrap_err().message, "expression recursion limit exceeded: 250");
        let sum = vec!["1"; 5000].join("+");
        assert_eq!(parse(&sum).unwrap_err().message, "expression recursion limit exceeded: 250");
        for open in ["[", "{1:", "-(", "f(", "a[", "!(", "x?", "a.map(x,"] {
            assert!(parse(&open.repeat(10_000)).is_err(), "{open}");
        }
        assert!(parse(&"a".repeat(200_000)).is_err());
        assert!(parse(&format!("a{}", ".b".repeat(5000))).is_err());
    }

    #[test]
    fn syntax_errors_have_a_place() {
        for (source, at) in [("1 +", 3), ("", 0), ("a b", 2), ("(1", 2), ("a.", 2), ("[1,,2]", 3), ("namespace", 0)] {
            let issue = parse(source).unwrap_err();
            assert_eq!(issue.at, at, "{source}: {issue:?}");
        }
    }
}
