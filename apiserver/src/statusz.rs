//! `/statusz`: since when the server runs and what it is, for people who look
//! after it. Text by default, `Statusz` of `config.k8s.io` to those who ask for that.

use http::{HeaderMap, HeaderValue, Response, header};
use jiff::Timestamp;
use serde_json::{Value, json};
use skiff_api::{Reason, Status};

use crate::{
    body::{self, Body},
    negotiation,
    version::VersionInfo,
    wire::{JSON, YAML},
};

const COMPONENT: &str = "kube-apiserver";
const TEXT: &str = "text/plain";
const GROUP: &str = "config.k8s.io";
/// Newest first; the others are deprecated.
const VERSIONS: [&str; 2] = ["v1beta1", "v1alpha1"];
/// First parts of paths that are no pages about the server.
const NO_PAGES: [&str; 5] = ["api", "apis", "openid", "openapi", ".well-known"];

/// What the page is made of.
pub(crate) struct Statusz<'a> {
    pub started: Timestamp,
    pub now: Timestamp,
    pub version: &'a VersionInfo,
    /// Every path that is served.
    pub paths: Vec<String>,
}

impl Statusz<'_> {
    /// Answers a GET in the form the client likes best; 406.
    pub fn serve(&self, headers: &HeaderMap) -> Result<Response<Body>, Status> {
        let plain = || body::response(200, "text/plain; charset=utf-8", self.text());
        if headers.get(header::ACCEPT).is_none_or(|accept| accept.as_bytes().trim_ascii().is_empty()) {
            return Ok(plain());
        }
        for clause in negotiation::clauses(headers) {
            match (clause.media.as_str(), clause.parameter("as")) {
                (TEXT | "text/*" | "*/*", "") => return Ok(plain()),
                (JSON | YAML, "Statusz") if clause.parameter("g") == GROUP => {
                    let Some(version) = VERSIONS.into_iter().find(|version| clause.parameter("v") == *version) else {
                        continue;
                    };
                    return self.object(version, clause.media == YAML);
                }
                _ => {}
            }
        }
        let accepted = [JSON, YAML, TEXT].join(", ");
        Err(Status::failure(Reason::NotAcceptable, format!("only the following media types are accepted: {accepted}")))
    }

    fn object(&self, version: &str, as_yaml: bool) -> Result<Response<Body>, Status> {
        let value = self.value(version);
        let (kind, bytes) = if as_yaml {
            (YAML, skiff_api::codec::yaml::encode(&value).map_err(Status::internal)?)
        } else {
            (JSON, value.to_string())
        };
        let mut response = body::response(200, kind, bytes);
        if version != VERSIONS[0] {
            let text = "299 - \"This version of the statusz endpoint is deprecated. Please use a newer version.\"";
            response.headers_mut().insert(header::WARNING, HeaderValue::from_static(text));
        }
        Ok(response)
    }

    fn uptime_seconds(&self) -> i64 {
        self.now.duration_since(self.started).as_secs().max(0)
    }

    fn binary_version(&self) -> String {
        format!("{}.{}.0", self.version.major, self.version.minor)
    }

    fn emulation_version(&self) -> String {
        format!("{}.{}", self.version.emulation_major, self.version.emulation_minor)
    }

    /// The first parts of the paths, without those of the API itself.
    fn pages(&self) -> Vec<String> {
        let first = |path: &String| path.trim_start_matches('/').split('/').next().unwrap_or_default().to_owned();
        let mut pages: Vec<String> = self.paths.iter().map(first).collect();
        pages.retain(|page| !page.is_empty() && !NO_PAGES.contains(&page.as_str()));
        pages.sort_unstable();
        pages.dedup();
        pages.into_iter().map(|page| format!("/{page}")).collect()
    }

    fn text(&self) -> String {
        let seconds = self.uptime_seconds();
        format!(
            "\n{COMPONENT} statusz\nWarning: This endpoint is not meant to be machine parseable, has no formatting \
             compatibility guarantees and is for debugging purposes only.\n\nStarted: {}\nUp: {} hr {:02} min {:02} sec\n\
             Go version: {}\nBinary version: {}\nEmulation version: {}\nPaths: {}\n",
            self.started.strftime("%a %b %e %H:%M:%S UTC %Y"),
            seconds / 3600,
            seconds / 60 % 60,
            seconds % 60,
            self.version.go_version,
            self.binary_version(),
            self.emulation_version(),
            self.pages().join(" "),
        )
    }

    fn value(&self, version: &str) -> Value {
        json!({"kind": "Statusz", "apiVersion": format!("{GROUP}/{version}"), "metadata": {"name": COMPONENT},
            "startTime": skiff_api::timestamp::format_seconds(self.started), "uptimeSeconds": self.uptime_seconds(),
            "goVersion": self.version.go_version, "binaryVersion": self.binary_version(),
            "emulationVersion": self.emulation_version(), "paths": self.pages()})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(accept: &str) -> (u16, String, bool) {
        let version = VersionInfo::default();
        let started: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        let paths = ["/api/v1", "/apis", "/healthz", "/healthz/ping", "/metrics"].map(str::to_owned).to_vec();
        let now = started + jiff::SignedDuration::from_secs(3725);
        let statusz = Statusz { started, now, version: &version, paths };
        let mut headers = HeaderMap::new();
        if !accept.is_empty() {
            headers.insert(header::ACCEPT, accept.parse().unwrap());
        }
        let response = statusz.serve(&headers).unwrap_or_else(|status| body::failure(&status));
        let kind = response.headers()[header::CONTENT_TYPE].to_str().unwrap().to_owned();
        (response.status().as_u16(), kind, response.headers().contains_key(header::WARNING))
    }

    #[test]
    fn text_is_for_people_and_the_object_for_those_who_name_it() {
        let text = (200, "text/plain; charset=utf-8".to_owned(), false);
        assert_eq!(ask(""), text);
        assert_eq!(ask("application/json, */*"), text, "kubectl get --raw");
        let object = "application/json;v=v1beta1;g=config.k8s.io;as=Statusz";
        assert_eq!(ask(object), (200, JSON.to_owned(), false));
        assert_eq!(ask(&object.replace("v1beta1", "v1alpha1")), (200, JSON.to_owned(), true));
        assert_eq!(ask(&object.replace("json", "yaml")), (200, YAML.to_owned(), false));
        assert_eq!(ask("application/json").0, 406);
        assert_eq!(ask(&object.replace("v1beta1", "v9")).0, 406);
    }

    #[test]
    fn the_page_tells_start_versions_and_pages() {
        let version = VersionInfo::default();
        let started: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        let paths = ["/api/v1", "/healthz", "/healthz/ping", "/metrics"].map(str::to_owned).to_vec();
        let now = started + jiff::SignedDuration::from_secs(3725);
        let text = Statusz { started, now, version: &version, paths }.text();
        let body = text.split("purposes only.\n\n").nth(1).unwrap();
        assert_eq!(
            body,
            "Started: Fri Jan  2 03:04:05 UTC 2026\nUp: 1 hr 02 min 05 sec\nGo version: rust\nBinary version: 1.37.0\n\
             Emulation version: 1.37\nPaths: /healthz /metrics\n"
        );
    }
}
