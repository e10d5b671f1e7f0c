//! The `authorizer` variable: expressions may ask whether somebody may do something.

use std::{fmt, sync::Arc};

use super::opaque::Opaque;
use crate::{
    fault::Fault,
    functions::{Args, Implementation},
    value::Value,
};

/// What is asked; of [`Ask::path`] or the resource fields one side is used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// `namespace` and `name` of the service account that would act, instead of the user of the request.
    pub service_account: Option<(String, String)>,
    pub verb: String,
    pub path: String,
    pub group: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    pub field_selector: String,
    pub label_selector: String,
}

/// The answer to an [`Ask`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decided {
    pub allowed: bool,
    pub reason: String,
    /// Set when the question could not be answered.
    pub error: Option<String>,
}

/// Answers questions. Implemented by the API server.
pub trait Authorize: Send + Sync {
    fn authorize(&self, ask: &Ask) -> Decided;
}

/// For whom questions are asked.
#[derive(Clone)]
pub struct Scope {
    authorizer: Arc<dyn Authorize>,
    service_account: Option<(String, String)>,
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scope({:?})", self.service_account)
    }
}

/// A question in the making.
#[derive(Clone, Debug)]
pub struct Check {
    scope: Scope,
    ask: Ask,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Path,
    Group,
    Resource,
}

impl PartialEq for Check {
    fn eq(&self, other: &Check) -> bool {
        self.kind == other.kind && self.ask == other.ask
    }
}

impl Check {
    pub fn type_name(&self) -> &'static str {
        match self.kind {
            Kind::Path => "kubernetes.authorization.PathCheck",
            Kind::Group => "kubernetes.authorization.GroupCheck",
            Kind::Resource => "kubernetes.authorization.ResourceCheck",
        }
    }
}

/// The value of the `authorizer` variable.
pub fn authorizer_value(authorizer: Arc<dyn Authorize>) -> Value<'static> {
    Value::opaque(Opaque::Authorizer(Scope { authorizer, service_account: None }))
}

/// The value of `authorizer.requestResource`.
pub fn resource_check_value(authorizer: Arc<dyn Authorize>, ask: Ask) -> Value<'static> {
    let scope = Scope { authorizer, service_account: None };
    Value::opaque(Opaque::Check(Box::new(Check { scope, ask, kind: Kind::Resource })))
}

pub fn find(name: &str) -> Option<Implementation> {
    Some(match name {
        "path" => |args| start(args, Kind::Path, |ask, text| ask.path = text),
        "group" => |args| start(args, Kind::Group, |ask, text| ask.group = text),
        "serviceAccount" => |args| {
            let scope = scope(args)?;
            let account = Some((args.text(1)?.to_owned(), args.text(2)?.to_owned()));
            Ok(Value::opaque(Opaque::Authorizer(Scope { service_account: account, ..scope.clone() })))
        },
        "resource" => |args| with(args, |ask, text| ask.resource = text),
        "subresource" => |args| with(args, |ask, text| ask.subresource = text),
        "namespace" => |args| with(args, |ask, text| ask.namespace = text),
        "name" => |args| with(args, |ask, text| ask.name = text),
        "fieldSelector" => |args| with(args, |ask, text| ask.field_selector = text),
        "labelSelector" => |args| with(args, |ask, text| ask.label_selector = text),
        "check" => |args| {
            let check = check(args)?;
            let mut ask = check.ask.clone();
            ask.verb = args.text(1)?.to_owned();
            ask.service_account.clone_from(&check.scope.service_account);
            Ok(Value::opaque(Opaque::Decision(Arc::new(check.scope.authorizer.authorize(&ask)))))
        },
        "errored" => |args| Ok(Value::Bool(decision(args)?.error.is_some())),
        "error" => |args| Ok(Value::text(decision(args)?.error.clone().unwrap_or_default())),
        "allowed" => |args| Ok(Value::Bool(decision(args)?.allowed)),
        "reason" => |args| Ok(Value::text(decision(args)?.reason.clone())),
        _ => return None,
    })
}

fn opaque<'c>(args: &'c Args<'_, '_>) -> Result<&'c Opaque, Fault> {
    match args.get(0)? {
        Value::Opaque(opaque) => Ok(opaque),
        _ => Err(Fault::no_such_overload()),
    }
}

fn scope<'c>(args: &'c Args<'_, '_>) -> Result<&'c Scope, Fault> {
    match opaque(args)? {
        Opaque::Authorizer(scope) => Ok(scope),
        _ => Err(Fault::no_such_overload()),
    }
}

fn check<'c>(args: &'c Args<'_, '_>) -> Result<&'c Check, Fault> {
    match opaque(args)? {
        Opaque::Check(check) => Ok(check),
        _ => Err(Fault::no_such_overload()),
    }
}

fn decision<'c>(args: &'c Args<'_, '_>) -> Result<&'c Decided, Fault> {
    match opaque(args)? {
        Opaque::Decision(decided) => Ok(decided),
        _ => Err(Fault::no_such_overload()),
    }
}

fn start<'a>(args: &Args<'_, 'a>, kind: Kind, set: fn(&mut Ask, String)) -> Result<Value<'a>, Fault> {
    let mut ask = Ask::default();
    set(&mut ask, args.text(1)?.to_owned());
    Ok(Value::opaque(Opaque::Check(Box::new(Check { scope: scope(args)?.clone(), ask, kind }))))
}

fn with<'a>(args: &Args<'_, 'a>, set: fn(&mut Ask, String)) -> Result<Value<'a>, Fault> {
    let mut check = check(args)?.clone();
    check.kind = Kind::Resource;
    set(&mut check.ask, args.text(1)?.to_owned());
    Ok(Value::opaque(Opaque::Check(Box::new(check))))
}
