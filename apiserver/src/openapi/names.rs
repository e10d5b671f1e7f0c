//! Names of the components: upstream's Go packages, reversed, which clients and
//! generated code know the types by.

use skiff_api::{Resource, schema::Scalar};

/// Component name of a message of the schema table.
pub fn message(package: &str, name: &str) -> String {
    let (group, version) = package.split_once('/').unwrap_or((package, "v1"));
    let root = match group {
        "meta" => "io.k8s.apimachinery.pkg.apis.meta",
        "apiextensions" => "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions",
        "apiregistration" => "io.k8s.kube-aggregator.pkg.apis.apiregistration",
        other => return format!("io.k8s.api.{other}.{version}.{name}"),
    };
    format!("{root}.{version}.{name}")
}

/// Component name of a kind without a message in the table.
pub fn custom(row: &Resource, kind: &str) -> String {
    if row.group == crate::resource_metrics::objects::GROUP {
        return format!("io.k8s.metrics.pkg.apis.metrics.{}.{kind}", row.version);
    }
    let reversed: Vec<&str> = row.group.rsplit('.').collect();
    format!("{}.{}.{kind}", reversed.join("."), row.version)
}

/// Scalars that are components of their own.
pub fn scalar(scalar: Scalar) -> Option<&'static str> {
    Some(match scalar {
        Scalar::Quantity => "io.k8s.apimachinery.pkg.api.resource.Quantity",
        Scalar::Time => "io.k8s.apimachinery.pkg.apis.meta.v1.Time",
        Scalar::MicroTime => "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime",
        Scalar::IntOrString => "io.k8s.apimachinery.pkg.util.intstr.IntOrString",
        Scalar::Duration => "io.k8s.apimachinery.pkg.apis.meta.v1.Duration",
        Scalar::RawExtension => "io.k8s.apimachinery.pkg.runtime.RawExtension",
        Scalar::FieldsV1 => "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1",
        Scalar::Json => "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON",
        Scalar::SchemaOrBool => "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool",
        Scalar::SchemaOrArray => "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray",
        Scalar::SchemaOrStringArray => {
            "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray"
        }
        Scalar::String
        | Scalar::Bool
        | Scalar::Int32
        | Scalar::Int64
        | Scalar::Double
        | Scalar::Bytes
        | Scalar::Any => {
            return None;
        }
    })
}
