//! Random numbers of the system.

use crate::error::ApiError;

/// Random bytes.
///
/// # Errors
/// When the system has none.
pub fn random_bytes<const N: usize>() -> Result<[u8; N], ApiError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| ApiError::internal("the system gives no random numbers"))?;
    Ok(bytes)
}

/// 128 random bits in hexadecimal, for names that nobody guesses and that never meet.
///
/// # Errors
/// When the system has none.
pub fn random_hex() -> Result<String, ApiError> {
    Ok(data_encoding::HEXLOWER.encode(&random_bytes::<16>()?))
}
