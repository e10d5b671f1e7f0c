//! Answers of proxied pages, rewritten so that they work below the proxy's path: the Location header and links in HTML.

use std::io::{self, Write as _};

use flate2::write::GzDecoder;
use http::{HeaderMap, HeaderValue, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use skiff_client::Body;

use super::limits::HTML_TAG_LEN_MAX;

/// Attributes of HTML elements that hold a URL, as upstream rewrites them.
const URL_ATTRIBUTES: [&str; 9] =
    ["href", "src", "action", "background", "cite", "data", "formaction", "icon", "longdesc"];

/// Puts `prefix` before a redirect that stays on the proxied host.
pub fn location(headers: &mut HeaderMap, prefix: &str, host: &str) {
    let rewritten = headers
        .get(header::LOCATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|url| url_below(url, prefix, host));
    if let Some(value) = rewritten.and_then(|url| HeaderValue::from_str(&url).ok()) {
        headers.insert(header::LOCATION, value);
    }
}

/// The URL below `prefix`; `None` if it needs no change: relative, of another host, or below it already.
fn url_below(url: &str, prefix: &str, host: &str) -> Option<String> {
    let path = if let Some((_, rest)) = url.split_once("://") {
        let rest = rest.strip_prefix(host)?;
        if rest.is_empty() { "/" } else { rest }
    } else {
        url
    };
    let below = path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    (path.starts_with('/') && !path.starts_with("//") && !below).then(|| format!("{prefix}{path}"))
}

/// Rewrites the links of an HTML answer while it passes.
pub fn links(response: Response<Body>, prefix: &str, host: &str) -> Response<Body> {
    let headers = response.headers();
    let is_html = headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"));
    let encoding = headers.get(header::CONTENT_ENCODING).map(HeaderValue::as_bytes);
    // Pages packed in other ways pass as they are.
    if !is_html || !matches!(encoding, None | Some(b"gzip")) {
        return response;
    }
    let unpack = encoding.map(|_| GzDecoder::new(Vec::new()));
    let (mut parts, body) = response.into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.remove(header::CONTENT_ENCODING);
    let rewriter = Rewriter { prefix: prefix.to_owned(), host: host.to_owned(), pending: Vec::new(), unpack };
    let pieces = futures_util::stream::unfold((body, Some(rewriter)), |(mut body, rewriter)| async move {
        let mut rewriter = rewriter?;
        Some(match body.frame().await {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => match rewriter.receive(&data) {
                    Ok(page) => (Ok(Frame::data(page.into())), (body, Some(rewriter))),
                    Err(error) => (Err(error.into()), (body, None)),
                },
                Err(trailers) => (Ok(trailers), (body, Some(rewriter))),
            },
            Some(Err(error)) => (Err(error), (body, None)),
            None => (Ok(Frame::data(rewriter.finish().into())), (body, None)),
        })
    });
    Response::from_parts(parts, StreamBody::new(pieces).boxed_unsync())
}

/// Rewrites the values of URL attributes inside tags while a page passes; everything else stays byte for byte.
struct Rewriter {
    prefix: String,
    host: String,
    /// A tag whose end has not come yet.
    pending: Vec<u8>,
    /// Of a page that comes packed.
    unpack: Option<GzDecoder<Vec<u8>>>,
}

impl Rewriter {
    /// A piece as it comes over the wire.
    fn receive(&mut self, data: &[u8]) -> io::Result<Vec<u8>> {
        let Some(unpack) = &mut self.unpack else { return Ok(self.push(data)) };
        unpack.write_all(data)?;
        unpack.flush()?;
        let page = std::mem::take(unpack.get_mut());
        Ok(self.push(&page))
    }

    fn push(&mut self, data: &[u8]) -> Vec<u8> {
        self.pending.extend_from_slice(data);
        let page = std::mem::take(&mut self.pending);
        let mut out = Vec::with_capacity(page.len() + 256);
        let mut rest = &page[..];
        while let Some(start) = rest.iter().position(|&byte| byte == b'<') {
            let (before, tag) = rest.split_at(start);
            out.extend_from_slice(before);
            let Some(end) = tag_end(tag) else {
                if tag.len() <= HTML_TAG_LEN_MAX {
                    self.pending = tag.to_vec();
                    return out;
                }
                rest = tag;
                break;
            };
            rewrite_tag(&tag[..end], &self.prefix, &self.host, &mut out);
            rest = &tag[end..];
        }
        out.extend_from_slice(rest);
        out
    }

    fn finish(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.pending)
    }
}

/// The length of the tag at the start of `bytes`, to the first `>` outside quotes; `None` if it has not ended.
fn tag_end(bytes: &[u8]) -> Option<usize> {
    let mut quote = None;
    for (i, &byte) in bytes.iter().enumerate() {
        match quote {
            Some(open) if byte == open => quote = None,
            Some(_) => {}
            None if byte == b'>' => return Some(i + 1),
            None if i > 0 && bytes[i - 1] == b'=' && (byte == b'"' || byte == b'\'') => quote = Some(byte),
            None => {}
        }
    }
    None
}

fn rewrite_tag(tag: &[u8], prefix: &str, host: &str, out: &mut Vec<u8>) {
    let mut rest = tag;
    while let Some(equals) = rest.iter().position(|&byte| byte == b'=') {
        let (before, behind) = rest.split_at(equals + 1);
        out.extend_from_slice(before);
        let (open_len, value_len) = attribute_value(behind);
        let (open, value) = (&behind[..open_len], &behind[open_len..open_len + value_len]);
        out.extend_from_slice(open);
        match std::str::from_utf8(value)
            .ok()
            .filter(|_| is_url_attribute(before))
            .and_then(|v| url_below(v, prefix, host))
        {
            Some(url) => out.extend_from_slice(url.as_bytes()),
            None => out.extend_from_slice(value),
        }
        rest = &behind[open_len + value_len..];
    }
    out.extend_from_slice(rest);
}

/// Length of the opening quote, and of the value behind it.
fn attribute_value(bytes: &[u8]) -> (usize, usize) {
    match bytes.first() {
        Some(&quote @ (b'"' | b'\'')) => {
            let len = bytes[1..].iter().position(|&byte| byte == quote).unwrap_or(bytes.len() - 1);
            (1, len)
        }
        _ => (0, bytes.iter().position(|byte| byte.is_ascii_whitespace() || *byte == b'>').unwrap_or(bytes.len())),
    }
}

/// Whether the bytes before an equals sign end in the name of a URL attribute.
fn is_url_attribute(before: &[u8]) -> bool {
    let name = &before[..before.len() - 1];
    let start = name.iter().rposition(|byte| byte.is_ascii_whitespace()).map_or(0, |at| at + 1);
    std::str::from_utf8(&name[start..])
        .is_ok_and(|name| URL_ATTRIBUTES.iter().any(|known| name.eq_ignore_ascii_case(known)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFIX: &str = "/api/v1/namespaces/n/pods/p/proxy";

    #[test]
    fn redirects_of_the_proxied_host_stay_below_the_proxy() {
        let rewritten = |url: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::LOCATION, HeaderValue::from_str(url).expect("a header"));
            location(&mut headers, PREFIX, "10.0.0.1:80");
            headers[header::LOCATION].to_str().expect("text").to_owned()
        };
        assert_eq!(rewritten("/login"), format!("{PREFIX}/login"));
        assert_eq!(rewritten("http://10.0.0.1:80/login"), format!("{PREFIX}/login"));
        for unchanged in ["login", "https://example.com/login", "//example.com/x", &format!("{PREFIX}/a")] {
            assert_eq!(rewritten(unchanged), unchanged);
        }
    }

    #[test]
    fn links_in_tags_are_rewritten_and_nothing_else() {
        let page = r#"<html><a href="/rewriteme">a = "/keep"</a><img alt='/keep' src='/i.png'><a href=/bare>x</a><a href="rel" title="a>b"></html>"#;
        let expected = format!(
            r#"<html><a href="{PREFIX}/rewriteme">a = "/keep"</a><img alt='/keep' src='{PREFIX}/i.png'><a href={PREFIX}/bare>x</a><a href="rel" title="a>b"></html>"#
        );
        let rewrite = |page: &[u8], chunk_len: usize| {
            let mut rewriter = Rewriter { prefix: PREFIX.into(), host: "h".into(), pending: Vec::new(), unpack: None };
            let mut out: Vec<u8> = page.chunks(chunk_len).flat_map(|chunk| rewriter.push(chunk)).collect();
            out.extend(rewriter.finish());
            String::from_utf8(out).expect("text")
        };
        for chunk_len in [1, 7, 1000] {
            assert_eq!(rewrite(page.as_bytes(), chunk_len), expected);
        }
        for broken in ["<a href=\"/x", "<", "a<b=c", "<a href=", "<=\">"] {
            assert_eq!(rewrite(broken.as_bytes(), 3), broken);
        }
    }

    #[test]
    fn a_packed_page_is_unpacked_on_its_way() {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(b"<a href='/x'>").expect("in memory");
        let packed = packer.finish().expect("in memory");
        let mut rewriter = Rewriter {
            prefix: PREFIX.into(),
            host: "h".into(),
            pending: Vec::new(),
            unpack: Some(GzDecoder::new(Vec::new())),
        };
        let mut out = Vec::new();
        for piece in packed.chunks(5) {
            out.extend(rewriter.receive(piece).expect("it is a page"));
        }
        out.extend(rewriter.finish());
        assert_eq!(String::from_utf8(out).expect("text"), format!("<a href='{PREFIX}/x'>"));
    }
}
