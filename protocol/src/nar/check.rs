//! Checking a NAR's structure.

/// A NAR that is malformed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed NAR at byte {offset}: {reason}")]
pub struct NarError {
    /// How many bytes of the NAR came before.
    pub offset: u64,
    /// What is wrong.
    pub reason: &'static str,
}

/// Checks the structure of a NAR whose bytes come in pieces of any length, in memory that does not
/// grow with it.
#[derive(Default)]
pub struct NarChecker {}

impl NarChecker {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// As soon as no NAR begins so.
    pub fn feed(&mut self, _bytes: &[u8]) -> Result<(), NarError> {
        Ok(())
    }

    /// Ends the NAR.
    ///
    /// # Errors
    /// When it is not complete.
    pub fn finish(self) -> Result<(), NarError> {
        Ok(())
    }
}
