//! Keys and signatures, from JOSE's form to the one that verifiers take.
//!
//! Decides: nothing; the same numbers, written as ASN.1. Invariant: a number is written in its one DER form.

/// An RSA public key (RFC 8017 A.1.1) of modulus and exponent, both big-endian.
pub(super) fn rsa_public_key(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
    sequence(&[integer(modulus), integer(exponent)])
}

/// An ECDSA signature (RFC 3279 2.2.3) of `r` and `s`, which JOSE writes one after the other in equal length.
/// `None` if the length is not that of the curve.
pub(super) fn ecdsa_signature(joined: &[u8], field_bytes: usize) -> Option<Vec<u8>> {
    (joined.len() == 2 * field_bytes).then(|| {
        let (r, s) = joined.split_at(field_bytes);
        sequence(&[integer(r), integer(s)])
    })
}

/// Big-endian, without needless zeros.
pub(super) fn trimmed(number: &[u8]) -> &[u8] {
    let start = number.iter().position(|byte| *byte != 0).unwrap_or(number.len());
    &number[start..]
}

fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
    tagged(0x30, &parts.concat())
}

/// Positive: a first bit of one needs a zero byte before it.
fn integer(number: &[u8]) -> Vec<u8> {
    let number = trimmed(number);
    let needs_zero = number.first().is_none_or(|first| first & 0x80 != 0);
    let mut content = vec![0; usize::from(needs_zero)];
    content.extend_from_slice(number);
    tagged(0x02, &content)
}

fn tagged(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut written = vec![tag];
    let length = content.len().to_be_bytes();
    let length = trimmed(&length);
    match content.len() {
        short @ 0..0x80 => written.push(short as u8),
        _ => {
            written.push(0x80 | length.len() as u8);
            written.extend_from_slice(length);
        }
    }
    written.extend_from_slice(content);
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_in_their_one_form() {
        for (number, written) in [
            (&[][..], &[2, 1, 0][..]),
            (&[0], &[2, 1, 0]),
            (&[0, 0, 7], &[2, 1, 7]),
            (&[0x80], &[2, 2, 0, 0x80]),
            (&[1, 0, 1], &[2, 3, 1, 0, 1]),
        ] {
            assert_eq!(integer(number), written, "{number:?}");
        }
        let long = integer(&[0x7f; 300]);
        assert_eq!((&long[..4], long.len()), (&[2, 0x82, 1, 44][..], 304));
        assert_eq!(integer(&[0x7f; 200])[..3], [2, 0x81, 200]);
    }

    #[test]
    fn a_signature_has_the_length_of_its_curve() {
        assert_eq!(ecdsa_signature(&[1; 4], 2), Some(vec![0x30, 8, 2, 2, 1, 1, 2, 2, 1, 1]));
        for length in [0, 3, 5, 8] {
            assert_eq!(ecdsa_signature(&vec![1; length], 2), None, "{length}");
        }
    }
}
