//! A compiled expression.

use std::collections::HashMap;

use regex::Regex;

use crate::{
    ast::{Ast, Literal, Node},
    check::{self, Checked, Env, Reference},
    cost::{Range, estimate},
    evaluate::{self, Binding, Evaluation},
    issues::Issues,
    library, parser,
    types::Type,
};

/// A parsed and checked expression, ready to run any number of times.
pub struct Program {
    source: String,
    pub(crate) ast: Ast,
    pub(crate) checked: Checked,
    pub(crate) env: Env,
    /// Constant patterns, by the call that uses them.
    pub(crate) patterns: HashMap<u32, Regex>,
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Program({:?})", self.source)
    }
}

impl Program {
    /// Parses and checks.
    ///
    /// ```
    /// use skiff_cel::{Env, Program, Type, Value, limits};
    /// let env = Env::default().with_type("size", Type::Int);
    /// let program = Program::compile("size < 5", &env).unwrap();
    /// let bindings = [Value::Int(3).into()];
    /// let evaluation = program.evaluate(&bindings, limits::CALL_COST_MAX);
    /// assert_eq!(evaluation.result.unwrap().as_bool(), Some(true));
    /// assert!(Program::compile("size < 'a'", &env).is_err());
    /// ```
    pub fn compile(source: &str, env: &Env) -> Result<Program, Issues> {
        let ast = parser::parse(source).map_err(|issue| Issues::new(source, vec![issue]))?;
        let checked = check::check(&ast, env).map_err(|issues| Issues::new(source, issues))?;
        let patterns = patterns(&ast, &checked);
        Ok(Program { source: source.to_owned(), ast, checked, env: env.clone(), patterns })
    }

    pub fn source(&self) -> &str {
        &self.source
    }

    /// The type of what it gives.
    pub fn result_type(&self) -> &Type {
        &self.checked.types[self.ast.root.0 as usize]
    }

    /// How deep an evaluation goes; at most [`crate::limits::DEPTH_MAX`].
    pub fn depth(&self) -> u16 {
        self.ast.depth()
    }

    /// Whether a variable of the environment is used.
    pub fn uses(&self, name: &str) -> bool {
        let Some(wanted) = self.env.names().position(|have| have == name) else { return false };
        self.checked
            .references
            .iter()
            .any(|reference| matches!(reference, Reference::Global(n) if *n as usize == wanted))
    }

    /// The fields of a variable that are used, as `variable.field`.
    pub fn fields_of(&self, name: &str) -> Vec<&str> {
        let mut fields: Vec<&str> = (0..self.ast.count())
            .filter_map(|number| match self.ast.get(crate::ast::Id(number as u32)) {
                Node::Select { operand, field, .. } => match self.ast.get(*operand) {
                    Node::Ident(root) if &**root == name => Some(&**field),
                    _ => None,
                },
                _ => None,
            })
            .collect();
        fields.sort_unstable();
        fields.dedup();
        fields
    }

    /// What an evaluation may cost, judged by the declared sizes.
    pub fn estimate(&self) -> Range {
        estimate::of(self)
    }

    /// Evaluates with values in the order of the environment's variables.
    pub fn evaluate<'a>(&'a self, bindings: &'a [Binding<'a>], cost_max: u64) -> Evaluation<'a> {
        evaluate::evaluate(self, bindings, cost_max)
    }
}

fn patterns(ast: &Ast, checked: &Checked) -> HashMap<u32, Regex> {
    let mut patterns = HashMap::new();
    for (id, call) in &checked.calls {
        let Node::Call { target, args, .. } = ast.get(crate::ast::Id(*id)) else { continue };
        let pattern = match (call.function.name.as_str(), target) {
            ("matches", None) => args.get(1),
            ("matches" | "find" | "findAll", _) => args.first(),
            _ => continue,
        };
        if let Some(pattern) = pattern
            && let Node::Literal(Literal::String(text)) = ast.get(*pattern)
            && let Ok(regex) = library::regex::compile(text)
        {
            patterns.insert(*id, regex);
        }
    }
    patterns
}
