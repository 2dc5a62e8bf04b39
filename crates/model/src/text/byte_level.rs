//! The 256 characters that stand for bytes in byte-level vocabularies.
//!
//! GPT-2 keeps printable Latin-1 characters as they are and maps the other bytes, in order, to
//! U+0100 and up, so that vocabularies and merges can be written as text without white space.

/// Appends the bytes that a token's text stands for. Text with any other character stands for
/// itself, as tokens that were added to the vocabulary later are written plainly.
pub(super) fn push_bytes(text: &str, bytes: &mut Vec<u8>) {
    let start = bytes.len();
    for character in text.chars() {
        let Some(byte) = byte_of(character) else {
            bytes.truncate(start);
            bytes.extend_from_slice(text.as_bytes());
            return;
        };
        bytes.push(byte);
    }
}

fn byte_of(character: char) -> Option<u8> {
    match character as u32 {
        code @ 0..=0xFF => Some(code as u8).filter(|&byte| is_kept(byte)),
        // The moved bytes in order: 0x00..=0x20, 0x7F..=0xA0, 0xAD.
        code @ 0x100..=0x120 => Some((code - 0x100) as u8),
        code @ 0x121..=0x142 => Some((code - 0x121 + 0x7F) as u8),
        0x143 => Some(0xAD),
        _ => None,
    }
}

fn is_kept(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The character that stands for a byte.
    fn character_of(byte: u8) -> char {
        if is_kept(byte) {
            return char::from(byte);
        }
        let moved = (0..byte).filter(|&below| !is_kept(below)).count() as u32;
        char::from_u32(0x100 + moved).unwrap_or(char::REPLACEMENT_CHARACTER)
    }

    #[test]
    fn every_byte_comes_back() {
        let wrong: Vec<u8> =
            (0..=255).filter(|&byte| byte_of(character_of(byte)) != Some(byte)).collect();
        assert!(wrong.is_empty(), "bytes {wrong:?} do not come back");
        assert_eq!(
            (character_of(b' '), character_of(b'\n'), character_of(0xAD)),
            ('Ġ', 'Ċ', '\u{143}')
        );
    }

    #[test]
    fn text_outside_the_alphabet_stands_for_itself() {
        let mut bytes = b"x".to_vec();
        push_bytes("Ġa", &mut bytes);
        push_bytes("a b", &mut bytes);
        push_bytes("你", &mut bytes);
        assert_eq!(bytes, "x aa b你".as_bytes());
    }
}
