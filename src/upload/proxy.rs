//! Which proxy stands between this device and the endpoint: pure.

use url::Url;

use crate::config::section::Secret;

/// `cloud.proxy`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Proxy {
    /// As the environment says.
    #[default]
    System,
    None,
    /// An `http://` URL, which may hold a user and a password.
    Url(Secret),
}

/// `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`, or their lower-case names, which win as with curl.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    pub https_proxy: Option<Secret>,
    pub http_proxy: Option<Secret>,
    pub no_proxy: String,
}

impl Environment {
    /// What `variable` says; an empty variable counts as not set.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Self {
        let either = |name: &str| {
            [name.to_ascii_lowercase(), name.to_owned()]
                .iter()
                .find_map(|name| variable(name).filter(|text| !text.is_empty()))
        };
        Self {
            https_proxy: either("HTTPS_PROXY").map(Secret::new),
            http_proxy: either("HTTP_PROXY").map(Secret::new),
            no_proxy: either("NO_PROXY").unwrap_or_default(),
        }
    }

    /// With the variables of this process.
    pub fn of_process() -> Self {
        Self::read(|name| std::env::var(name).ok())
    }

    fn proxy_for(&self, endpoint: &Url) -> Option<&Secret> {
        let proxy = if endpoint.scheme() == "https" { &self.https_proxy } else { &self.http_proxy };
        proxy.as_ref().filter(|_| !is_exempt(endpoint, &self.no_proxy))
    }
}

/// Where to connect to, and what to show there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Via {
    pub host: String,
    pub port: u16,
    /// The value of `Proxy-Authorization`.
    pub authorization: Option<Secret>,
}

impl Proxy {
    /// With what stands now where its URL comes from.
    ///
    /// # Errors
    ///
    /// That cannot be read any more.
    pub fn read_again(&self) -> Result<Self, String> {
        match self {
            Self::Url(url) => {
                url.read_again().map(Self::Url).map_err(|fault| format!("cloud.proxy: {fault}"))
            }
            other => Ok(other.clone()),
        }
    }

    /// The proxy for `endpoint`; `None` when it is asked directly.
    ///
    /// # Errors
    ///
    /// The URL of the proxy cannot be used; without showing it.
    pub fn via(&self, endpoint: &Url, environment: &Environment) -> Result<Option<Via>, String> {
        match self {
            Self::None => Ok(None),
            Self::Url(url) => parse(url.reveal()).map(Some).map_err(|fault| format!("cloud.proxy: {fault}")),
            Self::System => environment
                .proxy_for(endpoint)
                .map(|url| parse(url.reveal()))
                .transpose()
                .map_err(|fault| format!("the proxy of the environment: {fault}")),
        }
    }
}

/// Reads the URL of a proxy. As with curl, one without a scheme is an `http://` one.
///
/// # Errors
///
/// What is wrong with it, without showing it.
pub fn parse(text: &str) -> Result<Via, &'static str> {
    const FAULT: &str = "is not an http:// URL of a proxy; give one such as http://proxy.example.com:3128";
    let with_scheme = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let url = Url::parse(&with_scheme).map_err(|_| FAULT)?;
    if url.scheme() != "http" {
        return Err(FAULT);
    }
    let host = url.host_str().ok_or(FAULT)?.to_owned();
    let authorization = (!url.username().is_empty() || url.password().is_some()).then(|| {
        let (user, password) = (unescape(url.username()), unescape(url.password().unwrap_or_default()));
        Secret::new(format!("Basic {}", base64(&[&user[..], b":", &password[..]].concat())))
    });
    Ok(Via { host, port: url.port_or_known_default().unwrap_or(80), authorization })
}

/// Whether `NO_PROXY` names the host of `endpoint`: `*`, a domain with all below it, an address, a network
/// such as 10.0.0.0/8, any of them with a port.
fn is_exempt(endpoint: &Url, no_proxy: &str) -> bool {
    let Some(host) = endpoint.host_str() else { return false };
    let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    no_proxy.split([',', ' ']).map(str::trim).filter(|entry| !entry.is_empty()).any(|entry| {
        let entry = entry.to_ascii_lowercase();
        let (name, port) = match entry.rsplit_once(':') {
            // More than one colon is an IPv6 address.
            Some((name, port)) if !name.contains(':') || name.ends_with(']') => {
                (name.to_owned(), port.parse::<u16>().ok())
            }
            _ => (entry.clone(), None),
        };
        let name = name.trim_start_matches('[').trim_end_matches(']');
        let is_port = port.is_none_or(|port| endpoint.port_or_known_default() == Some(port));
        is_port && (name == "*" || is_named(&host, name) || is_in_network(&host, name))
    })
}

fn is_named(host: &str, name: &str) -> bool {
    let name = name.trim_start_matches("*.").trim_start_matches('.');
    !name.is_empty()
        && host.strip_suffix(name).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

fn is_in_network(host: &str, network: &str) -> bool {
    use std::net::IpAddr;
    let Some((network, bits)) = network.split_once('/') else { return false };
    let (Ok(host), Ok(network), Ok(bits)) =
        (host.parse::<IpAddr>(), network.parse::<IpAddr>(), bits.parse::<u32>())
    else {
        return false;
    };
    match (host, network) {
        (IpAddr::V4(host), IpAddr::V4(network)) if bits <= 32 => {
            (host.to_bits() ^ network.to_bits()).checked_shr(32 - bits).unwrap_or(0) == 0
        }
        (IpAddr::V6(host), IpAddr::V6(network)) if bits <= 128 => {
            (host.to_bits() ^ network.to_bits()).checked_shr(128 - bits).unwrap_or(0) == 0
        }
        _ => false,
    }
}

/// `%40` and the like as the bytes they stand for.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digit = |at: usize| after.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        match (*first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                rest = &after[2..];
            }
            (byte, ..) => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    bytes
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits =
            group.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for place in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * place) & 63) as usize];
            text.push(if place > group.len() { '=' } else { char::from(letter) });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        Environment::read(|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, text)| (*text).to_owned())
        })
    }

    fn host(proxy: &Proxy, endpoint: &str, environment: &Environment) -> Option<String> {
        let via = proxy.via(&Url::parse(endpoint).unwrap(), environment).unwrap();
        via.map(|via| format!("{}:{}", via.host, via.port))
    }

    #[test]
    fn the_environment_says_which_proxy_by_scheme() {
        let system = environment(&[
            ("HTTPS_PROXY", "http://secure:3128"),
            ("http_proxy", "plain"),
            ("HTTP_PROXY", "no"),
        ]);
        assert_eq!(host(&Proxy::System, "https://a.example/", &system).as_deref(), Some("secure:3128"));
        assert_eq!(host(&Proxy::System, "http://a.example/", &system).as_deref(), Some("plain:80"));
        assert_eq!(host(&Proxy::None, "https://a.example/", &system), None);
        let empty = environment(&[("HTTPS_PROXY", "")]);
        assert_eq!(host(&Proxy::System, "https://a.example/", &empty), None);
        let own = Proxy::Url(Secret::new("http://own:8080".to_owned()));
        assert_eq!(host(&own, "https://a.example/", &system).as_deref(), Some("own:8080"));
    }

    #[test]
    fn no_proxy_names_hosts_domains_addresses_and_networks() {
        for (no_proxy, endpoint, exempt) in [
            ("*", "https://a.example/", true),
            ("example.com", "https://api.example.com/", true),
            (".example.com", "https://example.com/", true),
            ("*.example.com", "https://api.example.com/", true),
            ("example.com", "https://notexample.com/", false),
            ("other, EXAMPLE.com", "https://api.Example.com/", true),
            ("example.com:8443", "https://example.com/", false),
            ("example.com:443", "https://example.com/", true),
            ("10.0.0.0/8", "https://10.1.2.3/", true),
            ("10.0.0.0/8", "https://11.1.2.3/", false),
            ("0.0.0.0/0", "https://11.1.2.3/", true),
            ("127.0.0.1", "https://127.0.0.1:9000/", true),
            ("fd00::/8", "https://[fd12::1]/", true),
            ("[fd12::1]:443", "https://[fd12::1]/", true),
            ("::1", "https://[::1]/", true),
            ("", "https://a.example/", false),
            (" , ", "https://a.example/", false),
        ] {
            assert_eq!(is_exempt(&Url::parse(endpoint).unwrap(), no_proxy), exempt, "{no_proxy} {endpoint}");
        }
    }

    #[test]
    fn a_user_and_a_password_become_a_header() {
        let via = parse("http://edge:p%40ss%3a@proxy:3128").unwrap();
        assert_eq!(via.authorization.unwrap().reveal(), "Basic ZWRnZTpwQHNzOg==");
        assert_eq!(parse("proxy:3128").unwrap().authorization, None);
        for wrong in ["https://proxy", "socks5://proxy", "http://", "http://a b"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (bytes, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }
}
