//! The syntax tree: an arena of nodes.
//!
//! Children are always pushed before their parents, so a node's depth is known
//! when it is made, and a tree deeper than [`DEPTH_MAX`] never exists: whoever
//! walks it may recurse.

use std::sync::Arc;

use crate::limits::{DEPTH_MAX, NODES_MAX};

/// Index of a node in its [`Ast`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Id(pub u32);

/// A constant.
#[derive(Clone, Debug, PartialEq)]
pub enum Literal {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Arc<str>),
    Bytes(Arc<[u8]>),
}

/// What a comprehension makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoldKind {
    All,
    Exists,
    ExistsOne,
    Filter,
    /// `map` and `transformList`.
    List,
    /// `transformMap`.
    Map,
    /// `transformMapEntry`.
    MapEntry,
}

/// A comprehension over a list or map.
#[derive(Clone, Debug)]
pub struct Fold {
    pub kind: FoldKind,
    pub range: Id,
    pub first: Arc<str>,
    /// The value's name where the first is key or index.
    pub second: Option<Arc<str>>,
    /// Elements for which this is false are left out.
    pub condition: Option<Id>,
    pub step: Id,
}

/// One expression.
#[derive(Clone, Debug)]
pub enum Node {
    Literal(Literal),
    Ident(Arc<str>),
    /// `operand.field`; `test` for `has(operand.field)`.
    Select {
        operand: Id,
        field: Arc<str>,
        test: bool,
    },
    /// Operators are calls too, named as `_+_`, `!_`, `_[_]`, `_?._`.
    Call {
        function: Arc<str>,
        target: Option<Id>,
        args: Vec<Id>,
    },
    /// The flag marks `?element`.
    List(Vec<(Id, bool)>),
    Map(Vec<(Id, Id, bool)>),
    Struct {
        name: Arc<str>,
        fields: Vec<(Arc<str>, Id, bool)>,
    },
    Fold(Box<Fold>),
    /// `cel.bind(name, value, body)`.
    Bind {
        name: Arc<str>,
        value: Id,
        body: Id,
    },
}

/// Why a node could not be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TooBig {
    Depth,
    Nodes,
}

/// A parsed expression.
#[derive(Clone, Debug)]
pub struct Ast {
    nodes: Vec<Node>,
    /// Byte offset in the source.
    positions: Vec<u32>,
    depths: Vec<u16>,
    pub root: Id,
}

impl Default for Ast {
    fn default() -> Ast {
        Ast { nodes: Vec::new(), positions: Vec::new(), depths: Vec::new(), root: Id(0) }
    }
}

impl Ast {
    pub fn get(&self, id: Id) -> &Node {
        &self.nodes[id.0 as usize]
    }

    pub fn position(&self, id: Id) -> usize {
        self.positions[id.0 as usize] as usize
    }

    /// The parts of `a.b.c`, when the expression is nothing else.
    pub fn dotted(&self, id: Id) -> Option<Vec<&str>> {
        let mut parts: Vec<&str> = Vec::new();
        let mut id = id;
        loop {
            match self.get(id) {
                Node::Ident(name) => {
                    parts.push(name);
                    parts.reverse();
                    return Some(parts);
                }
                Node::Select { operand, field, test: false } => {
                    parts.push(field);
                    id = *operand;
                }
                _ => return None,
            }
        }
    }

    /// Levels from the root down.
    pub fn depth(&self) -> u16 {
        self.depths.get(self.root.0 as usize).copied().unwrap_or_default()
    }

    /// How many nodes there are.
    pub fn count(&self) -> usize {
        self.nodes.len()
    }

    /// Adds a node whose children are already there.
    pub fn push(&mut self, node: Node, position: usize) -> Result<Id, TooBig> {
        let depth = 1 + self.children(&node).iter().map(|id| self.depths[id.0 as usize]).max().unwrap_or(0);
        if depth > DEPTH_MAX {
            return Err(TooBig::Depth);
        }
        if self.nodes.len() >= NODES_MAX {
            return Err(TooBig::Nodes);
        }
        self.nodes.push(node);
        self.positions.push(position as u32);
        self.depths.push(depth);
        Ok(Id(self.nodes.len() as u32 - 1))
    }

    fn children(&self, node: &Node) -> Vec<Id> {
        match node {
            Node::Literal(_) | Node::Ident(_) => Vec::new(),
            Node::Select { operand, .. } => vec![*operand],
            Node::Call { target, args, .. } => target.iter().chain(args).copied().collect(),
            Node::List(elements) => elements.iter().map(|(id, _)| *id).collect(),
            Node::Map(entries) => entries.iter().flat_map(|(key, value, _)| [*key, *value]).collect(),
            Node::Struct { fields, .. } => fields.iter().map(|(_, id, _)| *id).collect(),
            Node::Fold(fold) => {
                let mut ids = vec![fold.range, fold.step];
                ids.extend(fold.condition);
                ids
            }
            Node::Bind { value, body, .. } => vec![*value, *body],
        }
    }
}
