//! Header lists in one block of memory.
//!
//! Decides: the layout. `u32 count`, then per header `u32 name_offset, name_length, value_offset,
//! value_length`, then the text; offsets from the start of the block, numbers in native byte order.
//! Never: reorders or merges. Invariant: in blocks that the library makes, every name and value is
//! followed by a NUL byte, so they can be lent out as C strings.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::failure::Failure;
use crate::text::{mesh_bytes, mesh_str};

/// A header list as it goes to C.
#[derive(Debug, Clone)]
pub struct Packed {
    block: Box<[u8]>,
}

impl Packed {
    /// Packs a header map; order within a name and duplicates are kept.
    pub fn new(headers: &HeaderMap) -> Self {
        let data_start = COUNT + headers.len() * ENTRY;
        let data: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 2).sum();
        let mut block = Vec::with_capacity(data_start + data);
        block.extend_from_slice(&number(headers.len()));
        let mut offset = data_start;
        for (name, value) in headers {
            for length in [name.as_str().len(), value.len()] {
                block.extend_from_slice(&number(offset));
                block.extend_from_slice(&number(length));
                offset += length + 1;
            }
        }
        for (name, value) in headers {
            for text in [name.as_str().as_bytes(), value.as_bytes()] {
                block.extend_from_slice(text);
                block.push(0);
            }
        }
        Self { block: block.into_boxed_slice() }
    }

    /// How many headers.
    pub fn count(&self) -> usize {
        number_at(&self.block, 0).unwrap_or(0)
    }

    /// The header at `index`.
    pub fn at(&self, index: usize) -> Option<(&[u8], &[u8])> {
        if index >= self.count() { None } else { entry(&self.block, index) }
    }

    /// The value of the `nth` header of that name (any case).
    pub fn find(&self, name: &str, nth: usize) -> Option<&[u8]> {
        let all = (0..self.count()).filter_map(|index| self.at(index));
        all.filter(|(found, _)| found.eq_ignore_ascii_case(name.as_bytes())).nth(nth).map(|(_, value)| value)
    }

    /// The whole block.
    pub fn lend(&self) -> mesh_bytes {
        mesh_bytes::of(&self.block)
    }

    /// The whole block, to be kept.
    pub fn into_bytes(self) -> Bytes {
        self.block.into()
    }
}

/// Text of a [`Packed`] block as C text: a NUL byte follows it there.
pub fn lend_text(text: &[u8]) -> mesh_str {
    mesh_str { ptr: text.as_ptr().cast(), len: text.len() }
}

/// Reads a block from C into `headers`. An empty block holds no header.
pub fn unpack_into(headers: &mut HeaderMap, block: &[u8]) -> Result<(), Failure> {
    if block.is_empty() {
        return Ok(());
    }
    let malformed = || Failure::invalid("the packed headers are malformed");
    let count = number_at(block, 0).ok_or_else(malformed)?;
    if count > block.len() / ENTRY {
        return Err(malformed());
    }
    for index in 0..count {
        let (name, value) = entry(block, index).ok_or_else(malformed)?;
        append(headers, name, value)?;
    }
    Ok(())
}

/// Adds one header.
pub fn append(headers: &mut HeaderMap, name: &[u8], value: &[u8]) -> Result<(), Failure> {
    let shown = String::from_utf8_lossy(name).into_owned();
    let name = HeaderName::from_bytes(name).map_err(|_| Failure::invalid(format!("`{shown}` is no header name")))?;
    let value = HeaderValue::from_bytes(value)
        .map_err(|_| Failure::invalid(format!("the value of `{shown}` holds a byte a header cannot carry")))?;
    headers.try_append(name, value).map_err(|_| Failure::invalid("too many headers"))?;
    Ok(())
}

fn entry(block: &[u8], index: usize) -> Option<(&[u8], &[u8])> {
    let at = COUNT + index * ENTRY;
    let part = |at: usize| {
        let (offset, length) = (number_at(block, at)?, number_at(block, at + NUMBER)?);
        block.get(offset..offset.checked_add(length)?)
    };
    Some((part(at)?, part(at + 2 * NUMBER)?))
}

fn number_at(block: &[u8], at: usize) -> Option<usize> {
    let bytes: [u8; NUMBER] = block.get(at..at + NUMBER)?.try_into().ok()?;
    Some(u32::from_ne_bytes(bytes) as usize)
}

fn number(value: usize) -> [u8; NUMBER] {
    u32::try_from(value).unwrap_or(u32::MAX).to_ne_bytes()
}

/// Bytes of one number.
const NUMBER: usize = 4;
/// Bytes of the count in front.
const COUNT: usize = NUMBER;
/// Bytes of one header's four numbers.
const ENTRY: usize = 4 * NUMBER;

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> HeaderMap {
        let mut headers = HeaderMap::new();
        append(&mut headers, b"accept", b"a").unwrap();
        append(&mut headers, b"X-Two", b"1").unwrap();
        append(&mut headers, b"x-two", b"\xff").unwrap();
        headers
    }

    #[test]
    fn a_packed_list_unpacks_to_itself() {
        let packed = Packed::new(&sample());
        let mut back = HeaderMap::new();
        unpack_into(&mut back, &packed.block).unwrap();
        assert_eq!(back, sample());
    }

    #[test]
    fn names_are_found_in_any_case_and_duplicates_in_order() {
        let packed = Packed::new(&sample());
        assert_eq!(packed.find("X-TWO", 0), Some(&b"1"[..]));
        assert_eq!(packed.find("x-two", 1), Some(&b"\xff"[..]));
        assert_eq!(packed.find("x-two", 2), None);
        assert_eq!(packed.at(3), None);
    }

    #[test]
    fn every_cut_of_a_block_is_refused_or_empty_and_never_panics() {
        let packed = Packed::new(&sample());
        for end in 1..packed.block.len() - 1 {
            let mut headers = HeaderMap::new();
            assert!(unpack_into(&mut headers, &packed.block[..end]).is_err(), "cut at {end}");
        }
        let mut headers = HeaderMap::new();
        assert!(unpack_into(&mut headers, &[0xff; 64]).is_err());
    }
}
