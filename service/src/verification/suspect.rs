//! What a reader or a push finds lost: it is verified soon, and not only when the scrub comes to it.

use std::{
    io::ErrorKind,
    sync::{Arc, PoisonError},
};

use super::{Scope, VerifyError, ask};
use crate::{Service, storage::StorageError};

/// Has the object verified whose bytes were lost when they were to be read, beside all else. It is not believed yet: the object
/// is asked for in another way, which a bucket that is gone or slow does not answer, and the verification reads it again.
pub(crate) fn suspect(service: &Arc<Service>, error: &StorageError) {
    let Some(object) = error.lost_object() else { return };
    let mut suspected = service.verification.suspected.lock().unwrap_or_else(PoisonError::into_inner);
    if !suspected.insert(object.to_owned()) {
        return;
    }
    let is_absent = match error {
        StorageError::Missing(_) => true,
        StorageError::Unreadable { source, .. } => source.kind() == ErrorKind::NotFound,
        _ => false,
    };
    let (service, object) = (service.clone(), object.to_owned());
    tokio::spawn(async move {
        if let Err(error) = look_at(&service, &object, is_absent).await {
            tracing::warn!(%error, object, "it could not be looked at whether an object is lost");
        }
        service.verification.suspected.lock().unwrap_or_else(PoisonError::into_inner).remove(&object);
    });
}

async fn look_at(service: &Service, object: &str, is_absent: bool) -> Result<(), VerifyError> {
    let (storage, metadata) = (service.storage.without_hot_tier(), &service.metadata);
    if is_absent && storage.size(object).await?.is_some() {
        return Ok(());
    }
    // Where none of the objects is, it is the disk that is not mounted, or another bucket.
    if !storage.has_one_of(&metadata.some_objects().await?).await? {
        return Err(VerifyError::NoObjects(storage.place().to_owned()));
    }
    let scope = Scope::Object(object.to_owned());
    let text = serde_json::to_string(&scope).unwrap_or_default();
    if !service.metadata.verification_is_due(&text).await? {
        tracing::error!(object, "an object is lost, or parts of it; what needs it is verified");
        ask(&service.metadata, &scope, service.clock.now()).await?;
    }
    Ok(())
}
