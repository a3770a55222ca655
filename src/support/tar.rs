//! Writes the ustar format (POSIX.1-1988) as far as a few small files in one folder need it: a crate for that would
//! bring file times, links and owners along, none of which may be in there.

/// The archive of `files`, names and contents, below `folder`. `time` is in Unix seconds. Everything belongs to root
/// and only the owner may read it.
///
/// # Errors
///
/// A name is too long for the format.
pub fn archive<'f>(
    folder: &str,
    files: impl Iterator<Item = (&'f str, &'f [u8])>,
    time: u64,
) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    for (name, bytes) in files {
        out.extend_from_slice(&header(&format!("{folder}/{name}"), bytes.len() as u64, time)?);
        out.extend_from_slice(bytes);
        out.resize(out.len().next_multiple_of(BLOCK_BYTES), 0);
    }
    // Two empty blocks are the end.
    out.resize(out.len() + 2 * BLOCK_BYTES, 0);
    Ok(out)
}

fn header(path: &str, size: u64, time: u64) -> Result<[u8; BLOCK_BYTES], String> {
    if path.len() >= NAME_BYTES || size > SIZE_MAX {
        return Err(format!("{path} does not fit into the archive"));
    }
    let mut block = [0; BLOCK_BYTES];
    let mut put = |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, path);
    put(100, "0000600\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{size:011o}\0"));
    put(136, &format!("{:011o}\0", time.min(SIZE_MAX)));
    // The sum is made with blanks in its own place.
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(block)
}

const BLOCK_BYTES: usize = 512;
const NAME_BYTES: usize = 100;
/// Eleven octal digits.
const SIZE_MAX: u64 = 0o77_777_777_777;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_does_not_fit_is_refused() {
        let long = "x".repeat(100);
        assert!(archive("a", [(long.as_str(), &b""[..])].into_iter(), 0).is_err());
        assert_eq!(archive("a", std::iter::empty(), 0).unwrap().len(), 1024);
    }
}
