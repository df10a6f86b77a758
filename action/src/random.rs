//! Random names that nobody can guess.

use std::io;

use data_encoding::HEXLOWER;

/// `bytes` random bytes as hexadecimal digits.
///
/// # Errors
/// When the system has no random numbers.
pub fn hex(bytes: usize) -> io::Result<String> {
    let mut buffer = vec![0; bytes];
    getrandom::fill(&mut buffer).map_err(io::Error::other)?;
    Ok(HEXLOWER.encode(&buffer))
}
