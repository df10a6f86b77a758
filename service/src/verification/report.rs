//! What a verification looked at, and what it found.

use serde::{Deserialize, Serialize};

/// How many findings are listed one by one.
const LISTED: usize = 1000;

/// What became of what was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It is right again.
    Mended,
    /// It is served to nobody, and missing until a push brings it again.
    Withdrawn,
    /// It cannot be mended here.
    Lost,
    /// It does no harm, and was left as it is.
    Left,
}

impl Outcome {
    /// Each of them.
    pub const ALL: [Self; 4] = [Self::Mended, Self::Withdrawn, Self::Lost, Self::Left];

    /// For people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mended => "mended",
            Self::Withdrawn => "withdrawn",
            Self::Lost => "lost",
            Self::Left => "left",
        }
    }
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What kind of thing: chunk, index, object, nar, recipe, record, path, reference, signature, file, database.
    pub what: String,
    /// Which.
    pub name: String,
    /// What is wrong.
    pub problem: String,
    /// What became of it.
    pub outcome: Outcome,
}

/// What a verification looked at, and what it found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyReport {
    /// Objects whose frames were read.
    pub objects: u64,
    /// Frames that were decoded and checked.
    pub frames: u64,
    /// The bytes of both and of the NARs, as they were read.
    pub bytes: u64,
    /// NARs that were read back.
    pub nars: u64,
    /// The bytes of those NARs.
    pub nar_bytes: u64,
    /// Recipes that were compared.
    pub recipes: u64,
    /// Pushes' records that were compared.
    pub records: u64,
    /// Paths whose references and signatures were looked at.
    pub paths: u64,
    /// Files that no row names.
    pub unreferenced: u64,
    /// Their bytes.
    pub unreferenced_bytes: u64,
    /// How many findings are right again.
    pub mended: u64,
    /// How many are withdrawn.
    pub withdrawn: u64,
    /// How many are lost.
    pub lost: u64,
    /// How many do no harm.
    pub left: u64,
    /// References that an upstream should have, and did not answer.
    pub unanswered: u64,
    /// Paths that were withdrawn by this or an earlier verification, and wait for a push.
    pub waiting: Vec<String>,
    /// How many of these an upstream has just so: the service fetches them.
    #[serde(default)]
    pub fetching: u64,
    /// The first thousand findings.
    pub findings: Vec<Finding>,
    /// Why it could not be ended.
    #[serde(default)]
    pub failed: Option<String>,
}

impl VerifyReport {
    /// Whether all is right by now.
    pub fn is_right(&self) -> bool {
        self.withdrawn == 0 && self.lost == 0 && self.waiting.is_empty() && self.failed.is_none()
    }

    pub(super) fn add(&mut self, finding: Finding) {
        match finding.outcome {
            Outcome::Mended => self.mended += 1,
            Outcome::Withdrawn => self.withdrawn += 1,
            Outcome::Lost => self.lost += 1,
            Outcome::Left => self.left += 1,
        }
        if self.findings.len() < LISTED {
            self.findings.push(finding);
        }
    }
}
