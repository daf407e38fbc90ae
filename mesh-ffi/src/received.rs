//! `mesh_received`: a request as the program's own server tells it.
//!
//! Decides: whether a body that was not handed over can be there. Never: takes the server's word for who the peer is.
//! Invariant: what is judged is what was sent: nothing is decoded here.

use std::borrow::Cow;

use bytes::Bytes;
use http::{Method, Request, Uri, Version, header};

use mesh_core::inbound::own_server::{Given, InboundCheck};
use mesh_core::inbound::{ConnectionAddress, ServerName};

use crate::failure::Failure;
use crate::headers;
use crate::sized::Sized32;
use crate::text::{mesh_bytes, mesh_str};

/// For `mesh_received.flags` and `mesh_body_wanted_give`: `body` is all of the body.
pub const MESH_RECEIVED_WHOLE_BODY: u32 = 1;

/// A request that the program's own server received. Start from `MESH_INIT(mesh_received)`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mesh_received {
    /// Size of this struct.
    pub struct_size: u32,
    /// `MESH_RECEIVED_WHOLE_BODY` or 0.
    pub flags: u32,
    /// 10, 11, 20 or 30; 0: HTTP/1.1.
    pub http_version: u32,
    /// Zero.
    pub reserved: u32,
    /// HTTP method.
    pub method: mesh_str,
    /// Path and query as they came, not decoded: what is judged is what was sent.
    pub target: mesh_str,
    /// `:authority` of HTTP/2, which counts more than a header `host`; empty: that header.
    pub authority: mesh_str,
    /// All headers, packed.
    pub headers: mesh_bytes,
    /// The beginning of the body, where a check may want it: see `mesh_inbound_check_body_limit`. Not looked at if
    /// `mesh_inbound_begin` is to ask for it.
    pub body: mesh_bytes,
    /// The peer's socket, such as `10.0.0.7:51234`; empty: not known.
    pub remote_address: mesh_str,
    /// The server's socket.
    pub local_address: mesh_str,
    /// Certificates (DER, the peer's own first, one after the other) whose key the peer proved to hold in a TLS
    /// handshake with the server. They are verified here, by the mesh's roots; one that the mesh does not know makes
    /// no identity.
    pub peer_certificates: mesh_bytes,
    /// The server name the peer asked for in that handshake.
    pub server_name: mesh_str,
}

// SAFETY: `repr(C)`, numbers and pointers only, the size comes first.
unsafe impl Sized32 for mesh_received {
    const NAME: &'static str = "received";
}

impl mesh_received {
    /// The request, and whom its certificates name. `is_later`: a body that was not handed over whole is asked for.
    ///
    /// # Safety
    /// What the fields point to is readable (rule 4).
    pub unsafe fn request(&self, check: &InboundCheck, is_later: bool) -> Result<Request<Given>, Failure> {
        // SAFETY: as promised.
        let (method, target, authority, packed, body) = unsafe {
            (
                self.method.read("received.method")?,
                self.target.read("received.target")?,
                self.authority.read("received.authority")?,
                self.headers.read("received.headers")?,
                self.body.read("received.body")?,
            )
        };
        let mut request = Request::new(Given::Whole(Bytes::new()));
        *request.method_mut() = Method::from_bytes(method.as_bytes())
            .map_err(|_| Failure::invalid("`received.method` is no HTTP method"))?;
        *request.uri_mut() = target
            .parse::<Uri>()
            .map_err(|error| Failure::invalid(format!("`received.target` is no request target: {error}")))?;
        *request.version_mut() = self.version()?;
        headers::unpack_into(request.headers_mut(), packed)?;
        // RFC 9113 8.3.1: the authority is whom the request is for, whatever a field says besides. Of several fields it
        // is not known which one is read: they are refused as such.
        if !authority.is_empty() && request.headers().get_all(header::HOST).iter().nth(1).is_none() {
            request.headers_mut().remove(header::HOST);
            headers::append(request.headers_mut(), b"host", authority.as_bytes())?;
        }
        *request.body_mut() = self.given(Bytes::copy_from_slice(body), &request, is_later)?;
        // SAFETY: as promised.
        unsafe { self.origin(check, &mut request)? };
        Ok(request)
    }

    fn version(&self) -> Result<Version, Failure> {
        match self.http_version {
            10 => Ok(Version::HTTP_10),
            0 | 11 => Ok(Version::HTTP_11),
            20 => Ok(Version::HTTP_2),
            30 => Ok(Version::HTTP_3),
            _ => Err(Failure::invalid("`received.http_version` is 10, 11, 20 or 30")),
        }
    }

    /// HTTP/1 says in its headers whether there is a body; of HTTP/2 the server has to know.
    fn given(&self, body: Bytes, request: &Request<Given>, is_later: bool) -> Result<Given, Failure> {
        let headers = request.headers();
        let says_none = request.version() < Version::HTTP_2
            && !headers.contains_key(header::TRANSFER_ENCODING)
            && headers.get(header::CONTENT_LENGTH).is_none_or(|length| length == "0");
        match self.flags {
            MESH_RECEIVED_WHOLE_BODY => Ok(Given::Whole(body)),
            0 if is_later => Ok(Given::Later),
            0 if says_none => Ok(Given::Whole(body)),
            0 => Ok(Given::Beginning(body)),
            _ => Err(Failure::unsupported("unknown bits in `received.flags`")),
        }
    }

    /// # Safety
    /// As [`request`](Self::request).
    unsafe fn origin(&self, check: &InboundCheck, request: &mut Request<Given>) -> Result<(), Failure> {
        // SAFETY: as promised.
        let (remote, local, certificates, name) = unsafe {
            (
                self.remote_address.read("received.remote_address")?,
                self.local_address.read("received.local_address")?,
                self.peer_certificates.read("received.peer_certificates")?,
                self.server_name.read("received.server_name")?,
            )
        };
        if !remote.is_empty() {
            let address = |text: &str, what: &str| {
                let parsed = without_zone(text).parse();
                parsed.map_err(|_| Failure::invalid(format!("`received.{what}` is no address with a port")))
            };
            let local = if local.is_empty() { "0.0.0.0:0" } else { local };
            let address = ConnectionAddress {
                local: address(local, "local_address")?,
                remote: address(remote, "remote_address")?,
            };
            request.extensions_mut().insert(address);
        }
        let chain = chain(certificates).ok_or_else(|| Failure::invalid("`received.peer_certificates` is no DER"))?;
        let name = Some(name).filter(|name| !name.is_empty());
        if let Some(peer) = check.peer(&chain, name) {
            request.extensions_mut().insert(peer);
        } else if let Some(name) = name {
            request.extensions_mut().insert(ServerName(name.into()));
        }
        Ok(())
    }
}

/// A link-local address without its zone, which names an interface of this host and is no part of the address.
fn without_zone(text: &str) -> Cow<'_, str> {
    match text.split_once('%').and_then(|(host, rest)| Some((host, rest.split_once(']')?.1))) {
        Some((host, port)) => Cow::Owned(format!("{host}]{port}")),
        None => Cow::Borrowed(text),
    }
}

/// The certificates in a row of them; each is a SEQUENCE, which says how long it is.
fn chain(mut row: &[u8]) -> Option<Vec<&[u8]>> {
    let mut found = Vec::new();
    while !row.is_empty() {
        let length = sequence_length(row)?;
        let (certificate, rest) = row.split_at_checked(length)?;
        found.push(certificate);
        row = rest;
    }
    Some(found)
}

/// Bytes of the SEQUENCE at the start, its own header included (X.690 8.1.3).
fn sequence_length(der: &[u8]) -> Option<usize> {
    let [0x30, first, rest @ ..] = der else { return None };
    if *first < 0x80 {
        return Some(2 + usize::from(*first));
    }
    let count = usize::from(first & 0x7f);
    let digits = rest.get(..count).filter(|digits| (1..=4).contains(&digits.len()))?;
    let length = digits.iter().fold(0_usize, |length, digit| length << 8 | usize::from(*digit));
    length.checked_add(2 + count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_is_no_part_of_an_address() {
        for (text, bare) in [
            ("[fe80::1%eth0]:80", "[fe80::1]:80"),
            ("[fe80::1]:80", "[fe80::1]:80"),
            ("10.0.0.7:80", "10.0.0.7:80"),
            ("fe80::1%eth0", "fe80::1%eth0"),
        ] {
            assert_eq!(without_zone(text), bare);
        }
    }

    #[test]
    fn a_row_of_certificates_is_taken_apart_and_what_is_none_refused() {
        let long = [&[0x30, 0x82, 0x01, 0x00][..], &[7; 256]].concat();
        let row = [&[0x30, 0x02, 1, 2][..], &long, &[0x30, 0x81, 0x01, 9]].concat();
        let lengths: Vec<_> = chain(&row).unwrap().iter().map(|one| one.len()).collect();
        assert_eq!(lengths, [4, 260, 4]);
        assert_eq!(chain(&[]).unwrap().len(), 0);
        for end in 1..row.len() {
            assert_eq!(chain(&row[..end]).is_some(), [4, 264].contains(&end), "cut at {end}");
        }
        for broken in
            [&[0x31, 0][..], &[0x30, 0x80], &[0x30, 0x85, 0, 0, 0, 0, 0], &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff]]
        {
            assert!(chain(broken).is_none(), "{broken:?}");
        }
    }
}
