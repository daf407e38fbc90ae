//! What an HTTP/2 peer says about the connection itself, read as its bytes pass by.
//!
//! Decides: nothing; it reports SETTINGS and GOAWAY. hyper acts on both but tells neither, and a pool has to know:
//! how many streams the peer allows now, and that it takes no new ones. Never: holds a byte back, or keeps more
//! than one frame head. Invariant: how the bytes are cut into reads changes nothing.

/// A frame that concerns the whole connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    /// SETTINGS (not an acknowledgement), with SETTINGS_MAX_CONCURRENT_STREAMS if it was among them.
    Settings { max_streams: Option<u32> },
    /// GOAWAY: no new stream.
    GoAway,
}

/// Follows the frames of one direction.
#[derive(Debug, Default)]
pub(super) struct FrameScanner {
    head: [u8; HEAD],
    /// Bytes of `head` that are here; all of them while a payload passes.
    have: usize,
    payload_left: usize,
    entry: [u8; SETTING],
    entry_have: usize,
    max_streams: Option<u32>,
}

/// RFC 9113 4.1: length (3), type, flags, stream (4).
const HEAD: usize = 9;
/// RFC 9113 6.5.1: identifier (2), value (4).
const SETTING: usize = 6;
const TYPE_SETTINGS: u8 = 4;
const TYPE_GOAWAY: u8 = 7;
const FLAG_ACK: u8 = 1;
const MAX_CONCURRENT_STREAMS: u16 = 3;

impl FrameScanner {
    /// Takes the next bytes; reports what is complete.
    pub(super) fn feed(&mut self, mut bytes: &[u8], mut report: impl FnMut(Heard)) {
        while !bytes.is_empty() {
            if self.have < HEAD {
                let taken = bytes.len().min(HEAD - self.have);
                self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
                self.have += taken;
                bytes = &bytes[taken..];
                if self.have < HEAD {
                    return;
                }
                self.begin();
            } else {
                let taken = bytes.len().min(self.payload_left);
                self.payload(&bytes[..taken]);
                self.payload_left -= taken;
                bytes = &bytes[taken..];
            }
            if self.payload_left == 0 {
                self.have = 0;
                self.end(&mut report);
            }
        }
    }

    fn begin(&mut self) {
        let [a, b, c, ..] = self.head;
        self.payload_left = u32::from_be_bytes([0, a, b, c]) as usize;
        self.entry_have = 0;
        self.max_streams = None;
    }

    fn is_settings(&self) -> bool {
        self.head[3] == TYPE_SETTINGS && self.head[4] & FLAG_ACK == 0
    }

    fn payload(&mut self, bytes: &[u8]) {
        if !self.is_settings() {
            return;
        }
        for byte in bytes {
            self.entry[self.entry_have] = *byte;
            self.entry_have += 1;
            if self.entry_have == SETTING {
                self.entry_have = 0;
                let [id_high, id_low, a, b, c, d] = self.entry;
                if u16::from_be_bytes([id_high, id_low]) == MAX_CONCURRENT_STREAMS {
                    self.max_streams = Some(u32::from_be_bytes([a, b, c, d]));
                }
            }
        }
    }

    fn end(&self, report: &mut impl FnMut(Heard)) {
        if self.is_settings() {
            report(Heard::Settings { max_streams: self.max_streams });
        } else if self.head[3] == TYPE_GOAWAY {
            report(Heard::GoAway);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u32).to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend([kind, flags, 0, 0, 0, 0]);
        frame.extend(payload);
        frame
    }

    fn heard(bytes: &[u8], read: usize) -> Vec<Heard> {
        let (mut scanner, mut heard) = (FrameScanner::default(), Vec::new());
        for chunk in bytes.chunks(read) {
            scanner.feed(chunk, |frame| heard.push(frame));
        }
        heard
    }

    #[test]
    fn settings_and_goaway_are_heard_however_the_bytes_are_cut() {
        let setting = |id: u8, value: u8| [0, id, 0, 0, 0, value];
        let mut bytes = frame(4, 0, &[setting(4, 9), setting(3, 7)].concat());
        bytes.extend(frame(4, 1, &[]));
        bytes.extend(frame(0, 1, &[4; 300]));
        bytes.extend(frame(4, 0, &[]));
        bytes.extend(frame(0, 1, &[]));
        bytes.extend(frame(7, 0, &[0; 20]));
        let expected = [Heard::Settings { max_streams: Some(7) }, Heard::Settings { max_streams: None }, Heard::GoAway];
        for read in [1, 2, 5, 9, 10, 64, 4096] {
            assert_eq!(heard(&bytes, read), expected, "reads of {read} bytes");
        }
    }
}
