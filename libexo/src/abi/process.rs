//! What a process calls itself.

/// What a process calls itself, as it travels: two words. Its own choice, so only for people to
/// read; whatever is not printable ASCII became a question mark.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProcessName([u8; Self::LEN]);

impl ProcessName {
    /// Longest name that Linux keeps, with one byte to spare.
    pub const LEN: usize = 16;

    /// Makes a name of any bytes.
    pub fn new(bytes: &[u8]) -> ProcessName {
        let mut padded = [0; Self::LEN];
        for (place, byte) in padded.iter_mut().zip(bytes) {
            *place = if Self::allowed(*byte) { *byte } else { b'?' };
        }
        ProcessName(padded)
    }

    /// Checks a name that came from another domain.
    pub fn from_words(words: [u64; 2]) -> Option<ProcessName> {
        let mut padded = [0; Self::LEN];
        for (chunk, word) in padded.chunks_exact_mut(8).zip(words) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        let name = ProcessName(padded);
        (ProcessName::new(name.as_str().as_bytes()) == name).then_some(name)
    }

    /// The two words of a reply.
    pub fn words(&self) -> [u64; 2] {
        let mut words = [0; 2];
        for (word, chunk) in words.iter_mut().zip(self.0.chunks_exact(8)) {
            *word = u64::from_le_bytes(chunk.try_into().expect("chunks of eight"));
        }
        words
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        let len = self.0.iter().position(|b| !Self::allowed(*b));
        std::str::from_utf8(&self.0[..len.unwrap_or(Self::LEN)]).expect("checked to be ASCII")
    }

    fn allowed(byte: u8) -> bool {
        (b' '..=b'~').contains(&byte)
    }
}

impl std::fmt::Debug for ProcessName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_processes_are_made_harmless() {
        let name = ProcessName::new(b"a \x1b[2J\xc3\xa4\0b");
        assert_eq!(name.as_str(), "a ?[2J???b");
        assert_eq!(ProcessName::from_words(name.words()), Some(name));
        assert_eq!(ProcessName::new(&[b'x'; 99]).as_str(), "x".repeat(16));
        for words in [[27, 0], [u64::MAX; 2], [0, 1], [0x41_00_41, 0]] {
            assert_eq!(ProcessName::from_words(words), None, "{words:?}");
        }
        let nameless = ProcessName::from_words([0; 2]).expect("a name of no letters");
        assert_eq!(nameless.as_str(), "");
    }
}
