//! What a reader or a push finds lost: it is verified soon, and not only when the scrub comes to it.

use std::sync::{Arc, PoisonError};

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
    let is_missing = matches!(error, StorageError::Missing(_));
    let (service, object) = (service.clone(), object.to_owned());
    tokio::spawn(async move {
        if let Err(error) = look_at(&service, &object, is_missing).await {
            tracing::warn!(%error, object, "it could not be looked at whether an object is lost");
        }
        service.verification.suspected.lock().unwrap_or_else(PoisonError::into_inner).remove(&object);
    });
}

async fn look_at(service: &Service, object: &str, is_missing: bool) -> Result<(), VerifyError> {
    if is_missing && service.storage.size(object).await?.is_some() {
        return Ok(());
    }
    let scope = Scope::Object(object.to_owned());
    let text = serde_json::to_string(&scope).unwrap_or_default();
    if !service.metadata.verification_is_due(&text).await? {
        tracing::error!(object, "an object is lost, or parts of it; what needs it is verified");
        ask(&service.metadata, &scope, service.clock.now()).await?;
    }
    Ok(())
}
