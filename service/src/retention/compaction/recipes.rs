//! Merging small objects of recipes: those that are in use, into one. (Large ones stay until the last of their NARs goes:
//! a recipe takes less than a thousandth of what its NAR takes.)

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use larder_protocol::recipe::{self, Recipe};

use super::{
    super::{pace::Pace, report::CompactionReport},
    CompactionError,
    choose::Group,
    new_key,
};
use crate::{
    Service,
    metadata::{MovedRecipe, ObjectId},
    storage::Run,
};

/// Copies the recipes of a group's objects into a new one.
pub(super) async fn rewrite(
    service: &Service,
    group: &Group,
    pace: &mut Pace,
) -> Result<CompactionReport, CompactionError> {
    let (mut recipes, mut moved) = (Vec::new(), Vec::new());
    for object in &group.objects {
        match read(service, *object).await {
            Ok((read, nars)) => {
                recipes.extend(read);
                moved.extend(nars);
            }
            Err(CompactionError::Reading(error)) => {
                tracing::error!(%error, "recipes that cannot be read are not merged with others");
            }
            Err(error) => return Err(error),
        }
        pace.rest().await;
    }
    if recipes.is_empty() {
        return Ok(CompactionReport::default());
    }
    let key = new_key("recipes", group)?;
    let row = service.metadata.begin_compacted(&key, service.clock.now()).await?;
    let bytes = Bytes::from(recipe::encode(&recipes));
    let size = bytes.len() as u64;
    service.storage.put(&key, bytes).await.map_err(CompactionError::Writing)?;
    service.metadata.move_recipes(row, size, &moved).await?;
    Ok(CompactionReport { written: 1, written_bytes: size, ..CompactionReport::default() })
}

/// The recipes of an object that are in use.
async fn read(
    service: &Service,
    source: ObjectId,
) -> Result<(Vec<Recipe>, Vec<MovedRecipe>), CompactionError> {
    // Doomed meanwhile: nothing lies there.
    let Some((key, size)) = service.metadata.object_key(source).await? else { return Ok(Default::default()) };
    let run = Run { object: Arc::from(key.as_str()), range: 0..size };
    let bytes = service.storage.read(vec![run]).await.map_err(CompactionError::Reading)?;
    let Ok(recipes) = recipe::decode(&bytes) else {
        tracing::error!(object = key, "recipes that are malformed are not merged with others");
        return Ok(Default::default());
    };
    let mut recipes: HashMap<_, _> = recipes.into_iter().map(|recipe| (recipe.nar_hash, recipe)).collect();
    // A NAR whose recipe is not found stays where it is, and its object too.
    let used = service.metadata.recipes_in(source).await?.into_iter();
    Ok(used.filter_map(|(nar, hash)| Some((recipes.remove(&hash)?, (nar, source)))).unzip())
}
