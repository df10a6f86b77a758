//! What a person may do with a cache's keys. The rules alone: [`super::KeyDir::change`] does the writing.

use larder_protocol::SigningKey;

use super::{KeptKey, KeyError};

/// What cannot be done with keys. The text names the remedy.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// The file failed.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Two keys of one name: readers could not tell them apart.
    #[error(
        "there is another key named {0}, and readers know keys by their names. Give this one another --name"
    )]
    NameTaken(String),
    /// The same key is there.
    #[error("the key {0} is there already")]
    Known(String),
    /// No key of that name.
    #[error("there is no key named {0:?}. See: larderd key list")]
    Unknown(String),
    /// Nothing would sign.
    #[error(
        "{0} is the last key that signs: without it readers would refuse every path. Make another first: larderd key \
         generate, or rotate"
    )]
    Last(String),
    /// It still signs.
    #[error("{0} still signs. Retire it first: larderd key retire {0}")]
    Signs(String),
    /// The key has no name that Nix takes, or there are no random numbers.
    #[error("no key could be made: {0}")]
    Invalid(#[from] larder_protocol::signature::InvalidKey),
}

/// Adds a key that signs from now on, as the newest.
///
/// # Errors
/// When there is a key of its name.
pub fn add(keys: &mut Vec<KeptKey>, key: SigningKey) -> Result<(), ChangeError> {
    if let Some(known) = keys.iter().find(|kept| kept.key.name() == key.name()) {
        let name = key.name().to_owned();
        let same = known.key.public_key() == key.public_key();
        return Err(if same { ChangeError::Known(name) } else { ChangeError::NameTaken(name) });
    }
    keys.push(KeptKey::new(key));
    Ok(())
}

/// Adds a key, and has those that sign now do so until `until` and no longer.
///
/// # Errors
/// When there is a key of its name.
pub fn rotate(keys: &mut Vec<KeptKey>, new: SigningKey, until: i64) -> Result<(), ChangeError> {
    let old = keys.len();
    add(keys, new)?;
    for kept in &mut keys[..old] {
        end(kept, until);
    }
    Ok(())
}

/// Has a key sign until `until` and no longer, or until what was said before if that is earlier; the answer says which.
///
/// # Errors
/// When there is none of that name, or no other that signs for ever.
pub fn retire(keys: &mut [KeptKey], name: &str, until: i64) -> Result<i64, ChangeError> {
    let stays = keys.iter().any(|kept| kept.key.name() != name && kept.signs_until.is_none());
    let kept = named(keys, name)?;
    if !stays {
        return Err(ChangeError::Last(name.to_owned()));
    }
    Ok(end(kept, until))
}

/// Forgets a key that is retired.
///
/// # Errors
/// When there is none of that name, or it still signs.
pub fn remove(keys: &mut Vec<KeptKey>, name: &str, now: i64) -> Result<(), ChangeError> {
    if named(keys, name)?.signs(now) {
        return Err(ChangeError::Signs(name.to_owned()));
    }
    keys.retain(|kept| kept.key.name() != name);
    Ok(())
}

/// Never later than was said before.
fn end(kept: &mut KeptKey, until: i64) -> i64 {
    let until = kept.signs_until.map_or(until, |earlier| earlier.min(until));
    kept.signs_until = Some(until);
    until
}

fn named<'a>(keys: &'a mut [KeptKey], name: &str) -> Result<&'a mut KeptKey, ChangeError> {
    let unknown = || ChangeError::Unknown(name.to_owned());
    keys.iter_mut().find(|kept| kept.key.name() == name).ok_or_else(unknown)
}
