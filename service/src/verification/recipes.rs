//! The recipes that are written beside the objects.

use std::collections::HashMap;

use bytes::Bytes;
use larder_protocol::{
    NarHash,
    recipe::{self, Recipe},
};

use super::{Outcome, VerifyError, withdraw::Verifier};
use crate::{
    metadata::{NarRow, ObjectRow},
    random::random_hex,
};

/// No longer object of recipes is read than a service with a generous configuration writes.
const LONGEST: u64 = 1 << 30;

impl Verifier<'_> {
    /// Compares an object of recipes with the rows, and writes it anew where they differ. The NARs that need it were
    /// verified before.
    pub async fn recipes(&self, object: &ObjectRow) -> Result<(), VerifyError> {
        let nars = self.service.metadata.nars_of_recipes(object.id).await?;
        if nars.is_empty() {
            return Ok(());
        }
        let written = match self.storage.get(&object.key, LONGEST).await {
            Ok(bytes) => recipe::decode(&bytes).map(by_nar).map_err(|error| error.to_string()),
            Err(error) if error.is_lost() => {
                self.hold_storage().await?;
                Err(error.to_string())
            }
            Err(error) => return Err(error.into()),
        };
        self.read(object.size);
        let mut problem = written.as_ref().err().cloned();
        for nar in &nars {
            let known = self.recipe(nar).await?;
            self.report().recipes += 1;
            if let Ok(written) = &written
                && !tells(written, &known)
            {
                problem = Some(format!("it does not tell what NAR {} is made of", nar.hash));
                break;
            }
        }
        let Some(problem) = problem else { return Ok(()) };
        // A NAR may have gone or changed since it was listed.
        let (mut recipes, mut moved) = (Vec::with_capacity(nars.len()), Vec::with_capacity(nars.len()));
        for nar in self.service.metadata.nars_of_recipes(object.id).await? {
            recipes.push(self.recipe(&nar).await?);
            moved.push((nar.id, object.id));
        }
        if recipes.is_empty() || written.is_ok_and(|written| recipes.iter().all(|one| tells(&written, one))) {
            return Ok(());
        }
        let folder = object.key.rsplit_once('/').map_or("recipes/0", |(folder, _)| folder);
        let key = format!("{folder}/{}", random_hex().map_err(|_| VerifyError::Random)?);
        let (metadata, now) = (&self.service.metadata, self.service.clock.now());
        let new = metadata.begin_compacted(&key, now).await?;
        let bytes = recipe::encode(&recipes);
        let size = bytes.len() as u64;
        self.storage.put(&key, Bytes::from(bytes)).await?;
        match metadata.move_recipes(new, size, &moved).await {
            Ok(_) => self.find("recipe", &object.key, problem, Outcome::Mended),
            // The next verification tries again.
            Err(error) if error.is_gone() => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    async fn recipe(&self, nar: &NarRow) -> Result<Recipe, VerifyError> {
        let chunks = self.service.metadata.recipe_by_names(nar.id).await?;
        Ok(Recipe { nar_hash: nar.hash, nar_size: nar.size, chunks })
    }
}

fn by_nar(recipes: Vec<Recipe>) -> HashMap<NarHash, Vec<Recipe>> {
    let mut by_nar: HashMap<_, Vec<_>> = HashMap::new();
    for recipe in recipes {
        by_nar.entry(recipe.nar_hash).or_default().push(recipe);
    }
    by_nar
}

fn tells(written: &HashMap<NarHash, Vec<Recipe>>, recipe: &Recipe) -> bool {
    written.get(&recipe.nar_hash).is_some_and(|recipes| recipes.contains(recipe))
}
