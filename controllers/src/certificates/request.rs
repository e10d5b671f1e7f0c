//! What a PKCS#10 request says, as far as signers' rules look at it.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde_json::Value;
use x509_parser::{
    certification_request::X509CertificationRequest,
    extensions::{GeneralName, ParsedExtension},
    prelude::FromDer,
};

/// A parsed request with the usages asked for beside it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    pub pem: Vec<u8>,
    pub common_name: String,
    pub organizations: Vec<String>,
    pub dns_names: usize,
    pub addresses: usize,
    pub emails: usize,
    pub uris: usize,
    pub usages: Vec<String>,
}

impl Request {
    /// Reads the `spec` of an object; `None` when it holds no request.
    pub fn of(spec: &Value) -> Option<Request> {
        let pem = BASE64.decode(spec["request"].as_str()?).ok()?;
        let usages = spec["usages"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
        let mut request = Request { usages: usages.collect(), ..Request::parse(&pem)? };
        request.pem = pem;
        Some(request)
    }

    fn parse(pem: &[u8]) -> Option<Request> {
        let (_, block) = x509_parser::pem::parse_x509_pem(pem).ok()?;
        if block.label != "CERTIFICATE REQUEST" {
            return None;
        }
        let (_, parsed) = X509CertificationRequest::from_der(&block.contents).ok()?;
        let subject = &parsed.certification_request_info.subject;
        let text = |value: &x509_parser::x509::AttributeTypeAndValue<'_>| value.as_str().unwrap_or_default().to_owned();
        let mut request = Request {
            common_name: subject.iter_common_name().next().map(text).unwrap_or_default(),
            organizations: subject.iter_organization().map(text).collect(),
            ..Request::default()
        };
        for extension in parsed.requested_extensions().into_iter().flatten() {
            let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
            for name in &names.general_names {
                match name {
                    GeneralName::DNSName(_) => request.dns_names += 1,
                    GeneralName::IPAddress(_) => request.addresses += 1,
                    GeneralName::RFC822Name(_) => request.emails += 1,
                    GeneralName::URI(_) => request.uris += 1,
                    _ => {}
                }
            }
        }
        Some(request)
    }
}
