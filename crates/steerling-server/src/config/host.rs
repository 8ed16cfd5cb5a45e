//! Where to listen: an IP address, or a name that stands for some.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::str::FromStr;

use tokio::net::TcpListener;

/// Attempts to find a port that is free at all addresses of a name, where any port will do.
const ATTEMPTS: usize = 16;

/// An IP address or a host name, as `--host` takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// An IPv4 or IPv6 address; `[::1]` is the same as `::1`.
    Address(IpAddr),
    /// A name, resolved when the server starts.
    Name(String),
}

impl FromStr for Host {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bracketed = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
        match bracketed.unwrap_or(text).parse() {
            Ok(address @ IpAddr::V6(_)) => return Ok(Self::Address(address)),
            Ok(address @ IpAddr::V4(_)) if bracketed.is_none() => return Ok(Self::Address(address)),
            _ => {}
        }
        let is_label = |label: &str| {
            !label.is_empty()
                && label.len() <= 63
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        };
        let name = text.strip_suffix('.').unwrap_or(text);
        // A last label of digits makes it an attempt at an IPv4 address.
        let ends_in_number = name.rsplit('.').next().is_some_and(|label| label.bytes().all(|b| b.is_ascii_digit()));
        if name.len() <= 253 && name.split('.').all(is_label) && !ends_in_number {
            return Ok(Self::Name(text.to_owned()));
        }
        Err(format!("`{text}` is neither an IP address nor a host name; the port has a flag of its own"))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl Host {
    /// As a URL has it: IPv6 addresses in brackets.
    pub fn in_url(&self) -> String {
        match self {
            Self::Address(IpAddr::V6(address)) => format!("[{address}]"),
            other => other.to_string(),
        }
    }

    /// The addresses that it stands for, each once, in the resolver's order. Asks the system's resolver, which may take
    /// seconds for a name.
    ///
    /// # Errors
    /// If there is no such name.
    pub fn resolve(&self, port: u16) -> io::Result<Vec<SocketAddr>> {
        let name = match self {
            Self::Address(address) => return Ok(vec![SocketAddr::new(*address, port)]),
            Self::Name(name) => name,
        };
        let mut found: Vec<SocketAddr> = Vec::new();
        for address in (name.as_str(), port).to_socket_addrs()? {
            if !found.contains(&address) {
                found.push(address);
            }
        }
        match found.is_empty() {
            true => Err(io::Error::new(ErrorKind::NotFound, "the name has no address")),
            false => Ok(found),
        }
    }

    /// Whether only this machine reaches it. A name that does not resolve is none.
    pub fn is_loopback(&self) -> bool {
        self.resolve(0).is_ok_and(|found| found.iter().all(|address| address.ip().is_loopback()))
    }

    /// Listens on all of its addresses, on one port; 0 takes a port that is free at all of them. Addresses that this
    /// machine does not have, such as `::1` where there is no IPv6, are left out as long as one is left.
    ///
    /// # Errors
    /// If there is no such name, or an address cannot be listened on.
    pub async fn listen(&self, port: u16) -> io::Result<Vec<TcpListener>> {
        let addresses = self.resolve(port)?;
        for _ in 1..ATTEMPTS {
            match listen_on(&addresses).await {
                Err(error) if port == 0 && error.kind() == ErrorKind::AddrInUse => {}
                done => return done,
            }
        }
        listen_on(&addresses).await
    }
}

async fn listen_on(addresses: &[SocketAddr]) -> io::Result<Vec<TcpListener>> {
    let mut listeners: Vec<TcpListener> = Vec::new();
    let mut absent = None;
    for address in addresses {
        let port = match listeners.first() {
            Some(first) => first.local_addr()?.port(),
            None => address.port(),
        };
        let address = SocketAddr::new(address.ip(), port);
        match TcpListener::bind(address).await {
            Ok(listener) => listeners.push(listener),
            Err(error) => {
                let told = io::Error::new(error.kind(), format!("{address}: {error}"));
                match error.kind() {
                    ErrorKind::AddrNotAvailable => absent = Some(told),
                    ErrorKind::AddrInUse | ErrorKind::PermissionDenied => return Err(told),
                    // A system without IPv6 has no kind of its own for saying so.
                    _ if address.is_ipv6() => absent = Some(told),
                    _ => return Err(told),
                }
            }
        }
    }
    match absent {
        Some(error) if listeners.is_empty() => Err(error),
        _ => Ok(listeners),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_are_told_apart() {
        for (text, shown) in [
            ("127.0.0.1", "127.0.0.1"),
            ("0.0.0.0", "0.0.0.0"),
            ("::1", "::1"),
            ("[::1]", "::1"),
            ("[::]", "::"),
            ("0:0:0:0:0:0:0:1", "::1"),
            ("localhost", "localhost"),
            ("a-b_c.example.", "a-b_c.example."),
            ("1.example", "1.example"),
        ] {
            let host: Host = text.parse().unwrap();
            assert_eq!(host.to_string(), shown, "{text}");
            assert_eq!(matches!(host, Host::Name(_)), shown.contains(|c: char| c.is_ascii_lowercase()), "{text}");
        }
        assert_eq!("[::1]".parse::<Host>().unwrap().in_url(), "[::1]");
        let long = "a".repeat(64);
        for text in [
            "",
            ".",
            "a..b",
            "localhost:80",
            "http://localhost",
            "[127.0.0.1]",
            "[::1",
            "300.1.1.1",
            "127.1",
            "*",
            "a b",
            &long,
        ] {
            let error = text.parse::<Host>().unwrap_err();
            assert!(error.starts_with(&format!("`{text}` is neither")), "{error}");
        }
    }

    #[test]
    fn localhost_is_loopback_and_all_addresses_are_not() {
        for (text, is_loopback) in
            [("localhost", true), ("127.0.0.9", true), ("::1", true), ("0.0.0.0", false), ("::", false)]
        {
            assert_eq!(text.parse::<Host>().unwrap().is_loopback(), is_loopback, "{text}");
        }
    }

    #[tokio::test]
    async fn all_addresses_of_a_name_share_a_port_and_those_that_are_not_here_are_left_out() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let ports = |listeners: &[TcpListener]| -> Vec<SocketAddr> {
            listeners.iter().map(|listener| listener.local_addr().unwrap()).collect()
        };
        // All of 127.0.0.0/8 is loopback on Linux; 192.0.2.0/24 is reserved for documentation.
        let listeners = listen_on(&[at("127.0.0.1:0"), at("192.0.2.1:0"), at("127.0.0.2:0")]).await.unwrap();
        let found = ports(&listeners);
        assert_eq!(found.iter().map(|a| a.ip().to_string()).collect::<Vec<_>>(), ["127.0.0.1", "127.0.0.2"]);
        assert_eq!(found[0].port(), found[1].port());
        let taken = [SocketAddr::new("127.0.0.3".parse().unwrap(), found[0].port()), found[0]];
        let error = listen_on(&taken).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        assert!(error.to_string().starts_with(&format!("{}: ", found[0])), "{error}");
        assert_eq!(listen_on(&[at("192.0.2.1:0")]).await.unwrap_err().kind(), ErrorKind::AddrNotAvailable);
        let host: Host = "localhost".parse().unwrap();
        assert!(!host.listen(0).await.unwrap().is_empty());
    }
}
