//! Which form of an answer a client wants: `Accept` against what there is.

use http::{HeaderMap, header};
use skiff_api::{Reason, Status};

use crate::wire::{Format, JSON, PROTOBUF, PROTOBUF_WATCH, YAML};

/// What is shown of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    Full,
    /// `as=Table`: columns and rows.
    Table,
    /// `as=PartialObjectMetadata` (or its list): metadata only.
    Metadata,
}

/// The chosen form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Negotiated {
    pub format: Format,
    pub view: View,
}

/// What a handler can answer with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Offer {
    pub table: bool,
    pub metadata: bool,
    pub protobuf: bool,
    /// YAML cannot be streamed.
    pub yaml: bool,
}

impl Offer {
    /// Stored objects in any form.
    pub fn objects(protobuf: bool) -> Offer {
        Offer { table: true, metadata: true, protobuf, yaml: true }
    }

    /// Plain values.
    pub fn values(protobuf: bool) -> Offer {
        Offer { table: false, metadata: false, protobuf, yaml: true }
    }
}

/// One clause of an `Accept` header.
#[derive(Debug, Default, PartialEq)]
pub struct Clause {
    pub media: String,
    pub parameters: Vec<(String, String)>,
    quality: f32,
}

impl Clause {
    pub fn parameter(&self, name: &str) -> &str {
        self.parameters.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str()).unwrap_or_default()
    }
}

/// Clauses of `Accept`, best first.
pub fn clauses(headers: &HeaderMap) -> Vec<Clause> {
    let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut clauses: Vec<Clause> = values.flat_map(|value| value.split(',')).filter_map(clause).collect();
    clauses.sort_by(|a, b| b.quality.total_cmp(&a.quality));
    clauses
}

fn clause(text: &str) -> Option<Clause> {
    let mut parts = text.split(';').map(str::trim);
    let media = parts.next().filter(|media| !media.is_empty())?.to_ascii_lowercase();
    let mut clause = Clause { media, parameters: Vec::new(), quality: 1.0 };
    for part in parts {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let value = value.trim().trim_matches('"');
        if name == "q" {
            clause.quality = value.parse().unwrap_or(0.0);
        } else {
            clause.parameters.push((name.trim().to_owned(), value.to_owned()));
        }
    }
    (clause.quality > 0.0).then_some(clause)
}

/// The best form on offer; 406 when there is none.
pub fn negotiate(headers: &HeaderMap, offer: Offer) -> Result<Negotiated, Status> {
    let clauses = clauses(headers);
    if clauses.is_empty() && headers.get(header::ACCEPT).is_none_or(|value| value.as_bytes().trim_ascii().is_empty()) {
        return Ok(Negotiated { format: Format::Json, view: View::Full });
    }
    clauses.iter().find_map(|clause| accept(clause, offer)).ok_or_else(|| not_acceptable(offer))
}

fn accept(clause: &Clause, offer: Offer) -> Option<Negotiated> {
    let format = match clause.media.as_str() {
        JSON | "application/*" | "*/*" => Format::Json,
        YAML if offer.yaml => Format::Yaml,
        PROTOBUF if offer.protobuf || offer.metadata => Format::Protobuf,
        _ => return None,
    };
    let view = match clause.parameter("as") {
        "" if format == Format::Protobuf && !offer.protobuf => return None,
        "" => View::Full,
        kind => {
            let meta = clause.parameter("g") == "meta.k8s.io" && matches!(clause.parameter("v"), "v1" | "v1beta1");
            match kind {
                "Table" if meta && offer.table && format != Format::Protobuf => View::Table,
                "PartialObjectMetadata" | "PartialObjectMetadataList" if meta && offer.metadata => View::Metadata,
                _ => return None,
            }
        }
    };
    Some(Negotiated { format, view })
}

/// 406 with the types of the endpoint. Custom resources have protobuf among
/// them, for their metadata and for errors.
fn not_acceptable(offer: Offer) -> Status {
    let types: &[&str] = match (offer.yaml, offer.protobuf || offer.metadata) {
        (true, true) => &[JSON, YAML, PROTOBUF],
        (true, false) => &[JSON, YAML],
        (false, true) => &["application/json;stream=watch", PROTOBUF_WATCH],
        (false, false) => &["application/json;stream=watch"],
    };
    Status::failure(Reason::NotAcceptable, format!("only the following media types are accepted: {}", types.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pick(accept: &str, offer: Offer) -> Option<(Format, View)> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, accept.parse().unwrap());
        negotiate(&headers, offer).ok().map(|negotiated| (negotiated.format, negotiated.view))
    }

    #[test]
    fn kubectl_gets_tables_and_falls_back() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(pick(kubectl, Offer::objects(true)), Some((Format::Json, View::Table)));
        assert_eq!(pick(kubectl, Offer::values(true)), Some((Format::Json, View::Full)));
        let only = "application/json;as=Table;v=v1;g=meta.k8s.io";
        assert_eq!(pick(only, Offer::values(true)), None);
    }

    #[test]
    fn quality_and_wildcards_count() {
        let offer = Offer::objects(true);
        assert_eq!(pick("*/*", offer), Some((Format::Json, View::Full)));
        assert_eq!(
            pick("text/html, application/json;q=0.5, application/yaml;q=0.9", offer),
            Some((Format::Yaml, View::Full))
        );
        assert_eq!(
            pick("application/vnd.kubernetes.protobuf,application/json", offer),
            Some((Format::Protobuf, View::Full))
        );
        assert_eq!(
            pick("application/vnd.kubernetes.protobuf,application/json", Offer::objects(false)),
            Some((Format::Json, View::Full))
        );
        assert_eq!(pick("application/cbor", offer), None);
        assert_eq!(pick("application/json;q=0", offer), None);
    }
}
