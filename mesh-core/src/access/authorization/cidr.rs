//! Address blocks: `10.0.0.0/8`, `2001:db8::/32`, or one address.

use std::net::IpAddr;

/// A block of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cidr {
    base: u128,
    mask: u128,
    is_v4: bool,
}

impl Cidr {
    /// Reads a block; an address without a length is a block of one.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length.parse::<u32>().ok()?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let written_width = if address.is_ipv4() { 32 } else { 128 };
        let length = length.unwrap_or(written_width);
        if length > written_width {
            return None;
        }
        // `::ffff:10.0.0.0/104` is 10.0.0.0/8; with less than the 96 bits before it, it is a block of IPv6.
        let canonical = if length >= written_width - 32 { address.to_canonical() } else { address };
        let (bits, is_v4) = bits(canonical);
        let width = if is_v4 { 32 } else { 128 };
        let length = length - (written_width - width);
        let mask = u128::MAX.checked_shl(width - length).unwrap_or(0);
        Some(Self { base: bits & mask, mask, is_v4 })
    }

    /// Whether an address lies in it. An IPv4 address written as IPv6 is an IPv4 address.
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        let (bits, is_v4) = bits(address.to_canonical());
        is_v4 == self.is_v4 && bits & self.mask & self.width_mask() == self.base & self.width_mask()
    }

    fn width_mask(&self) -> u128 {
        if self.is_v4 { u128::from(u32::MAX) } else { u128::MAX }
    }
}

fn bits(address: IpAddr) -> (u128, bool) {
    match address {
        IpAddr::V4(address) => (u128::from(u32::from(address)), true),
        IpAddr::V6(address) => (u128::from(address), false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_holds_its_addresses_and_no_others() {
        for (block, address, expected) in [
            ("127.0.1.0/24", "127.0.1.255", true),
            ("127.0.1.0/24", "127.0.2.0", false),
            ("127.0.1.9/24", "127.0.1.1", true),
            ("127.0.9.9", "127.0.9.9", true),
            ("127.0.9.9", "127.0.9.10", false),
            ("0.0.0.0/0", "203.0.113.1", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("::/0", "127.0.0.1", false),
            ("2001:db8::/32", "2001:db8:1::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("127.0.0.0/8", "::ffff:127.0.0.1", true),
            ("::ffff:127.0.0.0/104", "127.9.9.9", true),
            ("::ffff:127.0.0.0/104", "::ffff:128.0.0.1", false),
            ("::ffff:127.0.0.1", "127.0.0.1", true),
            ("::/95", "127.0.0.1", false),
        ] {
            let block_read = Cidr::parse(block).unwrap();
            assert_eq!(block_read.contains(address.parse().unwrap()), expected, "{block} {address}");
        }
    }

    #[test]
    fn what_is_no_block_is_refused() {
        for text in ["", "1.2.3.4/33", "1.2.3.4/-1", "1.2.3/8", "::1/129", "host", "1.2.3.4/", "/8"] {
            assert_eq!(Cidr::parse(text), None, "{text}");
        }
    }
}
