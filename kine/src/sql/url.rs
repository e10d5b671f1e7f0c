//! Endpoints of database servers as operators write them.
//!
//! PostgreSQL takes libpq's URL, MySQL the DSN of Go's driver behind `mysql://`; both with
//! K3s's defaults, so that a `--datastore-endpoint` of a K3s server works unchanged.

use std::path::PathBuf;

use percent_encoding::percent_decode_str;

use super::tls::{PemFiles, TlsMode};
use super::transport::Address;

/// The database used when the endpoint names none.
const DATABASE: &str = "kubernetes";

/// What an endpoint says.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// Tried in order.
    pub(crate) addresses: Vec<Address>,
    pub(crate) user: String,
    pub(crate) password: String,
    pub(crate) database: String,
    pub(crate) tls_mode: TlsMode,
    pub(crate) files: PemFiles,
}

impl Target {
    /// Who and where, without the password.
    pub(crate) fn shown(&self) -> String {
        let addresses: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
        format!("{}@{}/{}", self.user, addresses.join(","), self.database)
    }
}

fn decoded(text: &str) -> Result<String, String> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(|text| text.into_owned()).map_err(|_| "it holds percent signs that do not decode to text".to_owned())
}

fn parameters(query: &str) -> Result<Vec<(String, String)>, String> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decoded(name)?, decoded(value)?))
        })
        .collect()
}

fn host_and_port(text: &str, port: u16) -> Result<Address, String> {
    let (host, given) = match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']').ok_or("a bracket is not closed")?,
        None => match text.rsplit_once(':') {
            Some((host, given)) => (host, given),
            None => (text, ""),
        },
    };
    let given = given.trim_start_matches(':');
    let port = match given {
        "" => port,
        given => given.parse().map_err(|_| format!("{given:?} is no port"))?,
    };
    let host = if host.is_empty() { "localhost" } else { host };
    Ok(Address::Tcp { host: host.to_owned(), port })
}

/// `[user[:password]@][host[:port],…][/database][?options]`, behind `postgres://`. `files` are
/// those given by flags; they make verification of authority and name the default.
pub(crate) fn postgres(rest: &str, files: PemFiles) -> Result<Target, String> {
    let rest = if rest.is_empty() { "postgres:postgres@localhost/" } else { rest };
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    let (user, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = user.split_once(':').unwrap_or((user, ""));
    let mut addresses: Vec<Address> =
        hosts.split(',').map(|host| host_and_port(&decoded(host)?, 5432)).collect::<Result<_, String>>()?;
    let mut target = Target {
        addresses: Vec::new(),
        user: decoded(user)?,
        password: decoded(password)?,
        database: decoded(database)?,
        tls_mode: if files == PemFiles::default() { TlsMode::Prefer } else { TlsMode::VerifyName },
        files,
    };
    let (mut port, mut folder) = (5432, None);
    for (name, value) in parameters(query)? {
        match name.as_str() {
            "sslmode" => {
                target.tls_mode = match value.as_str() {
                    "disable" => TlsMode::Off,
                    "allow" | "prefer" => TlsMode::Prefer,
                    "require" => TlsMode::Require,
                    "verify-ca" => TlsMode::VerifyAuthority,
                    "verify-full" => TlsMode::VerifyName,
                    other => return Err(format!("sslmode={other} is not one of PostgreSQL's")),
                }
            }
            "sslrootcert" => target.files.ca = Some(PathBuf::from(value)),
            "sslcert" => target.files.certificate = Some(PathBuf::from(value)),
            "sslkey" => target.files.key = Some(PathBuf::from(value)),
            "host" if value.starts_with('/') => folder = Some(value),
            "host" => addresses = value.split(',').map(|h| host_and_port(h, 5432)).collect::<Result<_, String>>()?,
            "port" => port = value.parse().map_err(|_| format!("{value:?} is no port"))?,
            "user" => target.user = value,
            "password" => target.password = value,
            "dbname" => target.database = value,
            // They tune clients that this one is not.
            "application_name" | "connect_timeout" | "binary_parameters" | "target_session_attrs" => {}
            other => return Err(format!("the option {other} is not known")),
        }
    }
    // An authority that is given is used, as libpq does for `require`.
    if target.tls_mode == TlsMode::Require && target.files.ca.is_some() {
        target.tls_mode = TlsMode::VerifyAuthority;
    }
    target.addresses = match folder {
        Some(folder) => vec![Address::Unix(PathBuf::from(folder).join(format!(".s.PGSQL.{port}")))],
        None => addresses,
    };
    finished(target, "postgres")
}

/// `[user[:password]@][tcp(host:port)|unix(path)][/database][?options]`, behind `mysql://`.
pub(crate) fn mysql(rest: &str, files: PemFiles) -> Result<Target, String> {
    let rest = if rest.is_empty() { "root@unix(/var/run/mysqld/mysqld.sock)/" } else { rest };
    let unclear = "it must look like mysql://user:password@tcp(host:3306)/database";
    let (front, tail) = match rest.rfind(')') {
        Some(end) => rest.split_at(end + 1),
        None => rest.split_at(rest.rfind('/').unwrap_or(rest.len())),
    };
    let (database, query) = tail.trim_start_matches('/').split_once('?').unwrap_or((tail.trim_start_matches('/'), ""));
    // A password may hold any character, so the last @ before the address counts.
    let (user, address) = match front.find("@tcp(").or_else(|| front.find("@unix(")).or_else(|| front.rfind('@')) {
        Some(at) => (&front[..at], &front[at + 1..]),
        None => ("", front),
    };
    let (user, password) = user.split_once(':').unwrap_or((user, ""));
    let inside = |kind: &str| address.strip_prefix(kind)?.strip_prefix('(')?.strip_suffix(')');
    let address = match (inside("tcp"), inside("unix")) {
        (Some(tcp), _) => host_and_port(tcp, 3306)?,
        (_, Some(path)) if path.starts_with('/') => Address::Unix(PathBuf::from(path)),
        (_, Some(_)) => return Err("a unix socket needs an absolute path".to_owned()),
        _ if address.contains(['(', ')']) => return Err(unclear.to_owned()),
        // Go's driver does not take this form, URLs do.
        _ => host_and_port(address.strip_prefix("tcp").filter(|rest| rest.is_empty()).unwrap_or(address), 3306)?,
    };
    let mut target = Target {
        addresses: vec![address],
        user: user.to_owned(),
        password: password.to_owned(),
        database: decoded(database)?,
        tls_mode: if files == PemFiles::default() { TlsMode::Prefer } else { TlsMode::VerifyName },
        files,
    };
    for (name, value) in parameters(query)? {
        match (name.as_str(), value.as_str()) {
            ("tls", "false") => target.tls_mode = TlsMode::Off,
            ("tls", "preferred") => target.tls_mode = TlsMode::Prefer,
            ("tls", "skip-verify") => target.tls_mode = TlsMode::Require,
            ("tls", "true" | "custom") => target.tls_mode = TlsMode::VerifyName,
            ("tls", other) => return Err(format!("tls={other} is not one of true, false, skip-verify, preferred")),
            // Options of Go's driver that do not matter here.
            _ => {}
        }
    }
    finished(target, "root")
}

fn finished(mut target: Target, user: &str) -> Result<Target, String> {
    if target.database.is_empty() {
        target.database = DATABASE.to_owned();
    }
    if target.user.is_empty() {
        target.user = user.to_owned();
    }
    if target.database.contains(['"', '`', '\0']) {
        return Err(format!("{:?} is no name for a database", target.database));
    }
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> Address {
        Address::Tcp { host: host.into(), port }
    }

    #[test]
    fn a_postgres_endpoint_is_libpqs_url_with_the_defaults_of_k3s() {
        let target = postgres("u%40x:p%3Aw@db.example:6432/skiff?sslmode=require", PemFiles::default()).unwrap();
        assert_eq!((target.user.as_str(), target.password.as_str()), ("u@x", "p:w"));
        assert_eq!((target.database.as_str(), target.tls_mode), ("skiff", TlsMode::Require));
        assert_eq!(target.addresses, [tcp("db.example", 6432)]);
        let bare = postgres("", PemFiles::default()).unwrap();
        assert_eq!((bare.shown().as_str(), bare.password.as_str()), ("postgres@localhost:5432/kubernetes", "postgres"));
        let many = postgres("u@a,b:1,[::1]:2/", PemFiles::default()).unwrap();
        assert_eq!(many.addresses, [tcp("a", 5432), tcp("b", 1), tcp("::1", 2)]);
        let socket = postgres("/db?host=/run/pg&port=7", PemFiles::default()).unwrap();
        assert_eq!(socket.addresses, [Address::Unix("/run/pg/.s.PGSQL.7".into())]);
    }

    #[test]
    fn files_given_by_flags_make_verification_the_default() {
        let files = PemFiles { ca: Some("ca.crt".into()), ..PemFiles::default() };
        assert_eq!(postgres("u@h/d", files.clone()).unwrap().tls_mode, TlsMode::VerifyName);
        assert_eq!(postgres("u@h/d?sslmode=require", files.clone()).unwrap().tls_mode, TlsMode::VerifyAuthority);
        assert_eq!(mysql("u@tcp(h)/d", files.clone()).unwrap().tls_mode, TlsMode::VerifyName);
        assert_eq!(mysql("u@tcp(h)/d?tls=false", files).unwrap().tls_mode, TlsMode::Off);
    }

    #[test]
    fn a_mysql_endpoint_is_the_dsn_of_gos_driver() {
        let target = mysql("u:p@/:w@tcp(db.example:3307)/skiff?tls=skip-verify&parseTime=true", PemFiles::default());
        let target = target.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((target.user.as_str(), target.password.as_str()), ("u", "p@/:w"));
        assert_eq!((target.database.as_str(), target.tls_mode), ("skiff", TlsMode::Require));
        assert_eq!(target.addresses, [tcp("db.example", 3307)]);
        let bare = mysql("", PemFiles::default()).unwrap();
        assert_eq!(bare.addresses, [Address::Unix("/var/run/mysqld/mysqld.sock".into())]);
        assert_eq!(mysql("u:p@h:1/", PemFiles::default()).unwrap().shown(), "u@h:1/kubernetes");
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for wrong in ["u@h:port/d", "u@h/d?sslmode=maybe", "u@[::1/d", "u@h/d?nonsense=1", "u@h/a\"b"] {
            assert!(postgres(wrong, PemFiles::default()).is_err(), "{wrong}");
        }
        for wrong in ["u@udp(h)/d", "u@unix(run/x)/d", "u@tcp(h:x)/d", "u@tcp(h)/d?tls=maybe"] {
            assert!(mysql(wrong, PemFiles::default()).is_err(), "{wrong}");
        }
    }
}
